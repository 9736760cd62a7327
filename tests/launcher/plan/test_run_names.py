"""Names of runs are valid at every backend, readable and unique."""

import re

import pytest

from job.core.errors import SpecError
from launcher.plan.run_names import MAX_CHARACTERS, check_name, new_name

# Base models, and the start of the run's name.
MODELS = {
    "BAAI/bge-base-en-v1.5/": "bge-base-en-v1-5",
    "builtin:minilm": "minilm",
    "/models/My Model_v2 (final)": "my-model-v2-final",
    "C:\\models\\e5": "models-e5",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": "paraphrase-multilingual-minilm",
    "org/a-hyphen-as-its-thirtieth-lett-er": "a-hyphen-as-its-thirtieth-lett",
    "Größe": "gr-e",
    "組織/模型": "run",
    "..": "run",
    "": "run",
    "owner/name\n": "name",
}


@pytest.mark.parametrize("model", MODELS, ids=ascii)
def test_a_new_name_is_readable_and_valid_for_any_model(model):
    """It has model, UTC time and four random digits; SageMaker accepts it, even with a suffix."""
    name = new_name(model)
    stem, _ = re.fullmatch(r"(.+)-20\d{6}-\d{6}-([0-9a-f]{4})", name).groups()
    assert stem == MODELS[model]
    assert check_name(name) == name
    # SageMaker's rule; `-12` is the suffix of the twelfth job of a run.
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", f"{name}-12")


def test_new_names_differ():
    """Jobs that a script submits within one second get different names."""
    assert len({new_name("model") for _ in range(20)}) >= 19


def test_a_valid_name_is_unchanged():
    """Upper- and lower-case letters, digits and inner hyphens."""
    for name in ("a", "7", "My-Run", "a--b", "x" * MAX_CHARACTERS):
        assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [*("", "-a", "a-", "a_b", "a b", "a/b", "..", "a\n", "٣", "模型"), "x" * (MAX_CHARACTERS + 1)],
)
def test_an_invalid_name_is_refused(name):
    """It is not corrected silently: a name is also a folder, a job and a key in S3."""
    with pytest.raises(SpecError, match=r"^`--name "):
        check_name(name)
