"""Names of runs: legal wherever a job can run, readable, and not the same twice."""

import re

import pytest

from job.errors import SpecError
from launcher.job_name import MAX_CHARACTERS, check_name, new_name

# Base models as people name them, and what the run's name starts with.
MODELS = {
    "BAAI/bge-base-en-v1.5": "bge-base-en-v1-5",
    "BAAI/bge-base-en-v1.5/": "bge-base-en-v1-5",
    "builtin:minilm": "minilm",
    "/models/My Model_v2 (final)": "my-model-v2-final",
    "../runs/my-run/model": "model",
    "C:\\models\\e5": "models-e5",
    "intfloat/multilingual-e5-large-instruct": "multilingual-e5-large-instruct",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": "paraphrase-multilingual-minilm",
    "org/ends-with-a-hyphen-at-thirty-c-here": "ends-with-a-hyphen-at-thirty-c",
    "org/a-hyphen-as-its-thirtieth-lett-er": "a-hyphen-as-its-thirtieth-lett",
    "Größe": "gr-e",
    "組織/模型": "run",
    "😀": "run",
    ".": "run",
    "..": "run",
    "/": "run",
    "---": "run",
    "": "run",
    "x" * 500: "x" * 30,
    "-" * 40 + "x": "x",
    "_" * 500: "run",
    "owner/name\n": "name",
}


@pytest.mark.parametrize("model", MODELS, ids=ascii)
def test_a_new_name_is_readable_and_legal_for_any_model(model):
    """Model, UTC time and four random digits; SageMaker takes it, and a suffix fits behind it."""
    name = new_name(model)
    stem, chance = re.fullmatch(r"(.+)-\d{8}-\d{6}-([0-9a-f]{4})", name).groups()
    assert stem == MODELS[model]
    assert len(chance) == 4
    assert check_name(name) == name
    # SageMaker's own rule, for the job of the run's twelfth taking up as well.
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", f"{name}-12")


def test_new_names_differ():
    """Jobs that a script submits within one second get names of their own."""
    assert len({new_name("model") for _ in range(20)}) >= 19


def test_names_of_one_model_sort_by_time():
    """A listing by name is a listing by time: the time stands before chance, largest unit first."""
    name = new_name("model")
    assert re.fullmatch(r"model-20\d\d[01]\d[0-3]\d-[0-2]\d[0-5]\d[0-5]\d-[0-9a-f]{4}", name)


@pytest.mark.parametrize(
    "name", ["a", "7", "run-1", "My-Run", "a--b", "x" * MAX_CHARACTERS, "1-2-3"]
)
def test_a_legal_name_is_kept_as_it_is(name):
    """Letters of either case, digits and inner hyphens."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "-a", "a-", "a_b", "a.b", "a b", "a/b", "..", "../a", "a\n", "Größe", "٣", "模型"),
        "x" * (MAX_CHARACTERS + 1),
    ],
)
def test_an_illegal_name_is_refused_with_the_rule(name):
    """Nothing is mended silently: the name is a folder, a job and a key in S3 at once."""
    with pytest.raises(SpecError) as caught:
        check_name(name)
    shown = name.replace("\n", r"\x0a")
    assert str(caught.value) == (
        f"`--name {shown}` is not legal: letters, digits and inner hyphens, at most 60 characters."
    )
