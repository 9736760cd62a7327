"""`python -m job check`: the facts of a hand-made file, where each can be verified by counting."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import pytest
from click.testing import CliRunner
from conftest import write_jsonl

from job.__main__ import main
from job.check import prompt_lines, prompts_of
from job.model.prompts import BGE_ENGLISH, Prompts
from job.spec.schema import ModelSpec

HEAVY = ("torch", "sentence_transformers", "transformers", "datasets")


def words(stem, count):
    return " ".join(f"{stem}{n}" for n in range(count))


def hand_made_rows():
    """Make 34 usable rows (2 share row 1's context, 2 are near-duplicates) and 4 unusable rows."""
    rows = [
        {"question": f"What about {n}?", "context": words(f"told{n}x", 10)} for n in range(1, 31)
    ]
    rows += [{"question": f"And {what}?", "context": rows[0]["context"]} for what in ("a1", "b1")]
    # 57 of their 59 three-word shingles are equal.
    rows += [
        {"question": f"Nearly {last}?", "context": f"{words('like', 59)} {last}"}
        for last in ("left", "right")
    ]
    unusable = [
        {"question": " ", "context": "No question here"},
        {"question": "What about 3?", "context": rows[2]["context"].upper()},
        {"question": "Why?", "context": "ab"},
        {"question": "Same text", "context": "same  TEXT"},
    ]
    return [*rows, *unusable]


FACTS = """\
Source     pairs.jsonl: 38 rows, 34 usable
Columns    question `question`, context `context`, negatives none
Dropped    1 row: empty question (pairs.jsonl:35)
Dropped    1 row: exact duplicate (pairs.jsonl:36)
Dropped    1 row: context is too short (pairs.jsonl:37)
Dropped    1 row: question equals context (pairs.jsonl:38)
Duplicates 3 rows share a context; 1 near-duplicate pair; 31 groups, the largest with 3 rows
Leakage    By construction, no test query has a context that is also in training; in a random \
split, 0.0% of the test rows would.
Estimand   The scores are of new questions about contexts that were not trained on. Other contexts \
of the same documents may have been: `data.columns.document` keeps documents in one split.
Splits     train 28, validation 3, test 3; corpus 32 documents
Questions  words: median 3, longest 3
          0-7 ████████████████████████████████████████ 34
Contexts   words: median 10, longest 60
         8-15 ██████████████████████████████████████ 32
        32-63 ██ 2
Example 1  question  What about 1?
           context   told1x0 told1x1 told1x2 told1x3 told1x4 told1x5 told1x6 told1x7 told1x8 told1x9
Example 2  question  What about 3?
           context   told3x0 told3x1 told3x2 told3x3 told3x4 told3x5 told3x6 told3x7 told3x8 told3x9
Test size  3 queries in 3 groups detect a lift of 1.000 nDCG@10 or more with 80 % probability \
(assumed standard deviation of a query's lift: 0.28)
"""
# Of the default model, which the tiny one does not have.
PROMPT = (
    "Prompt     `Represent this sentence for searching relevant passages: ` before each question, "
    "if it helps the base model on validation\n"
)
BEFORE, EXAMPLE, AFTER = FACTS.partition("Example 1")
PROMPTED = BEFORE + PROMPT + EXAMPLE + AFTER


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", hand_made_rows())
    return tmp_path


def check(*arguments, **settings):
    """Run the check; return exit code, stdout and stderr."""
    given = {"data.min_test_queries": "3"} | {k.replace("__", "."): v for k, v in settings.items()}
    options = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(main, ["check", *arguments, *options])
    return done.exit_code, done.stdout, done.stderr


def truncation(encoder):
    """Check with a model; return what is printed after the facts."""
    code, out, err = check("pairs.jsonl", "--model", str(encoder))
    assert (code, err) == (0, "")
    assert out.startswith(FACTS)
    return out.removeprefix(FACTS)


@pytest.mark.usefixtures("folder")
def test_the_check_prints_the_facts_of_the_file():
    """After the facts, it prints that a job would start, or the error that prevents it."""
    assert check("pairs.jsonl") == (0, PROMPTED + "Ready to train.\n", "")
    code, out, err = check("pairs.jsonl", data__min_test_queries="30")
    assert (code, out) == (4, PROMPTED)
    assert err.startswith("Error: `pairs.jsonl` has 3 test queries from 34 usable rows (38 read)")


@pytest.mark.usefixtures("folder")
def test_folds_test_all_rows_and_say_how_many_trainings_that_takes():
    code, out, err = check("pairs.jsonl", evaluation__folds="3")
    assert (code, err) == (0, "")
    lines = {line[:10].strip(): line[11:] for line in out.splitlines()}
    assert re.fullmatch(
        r"3 folds, each trained on about 1\d rows, validated on [34] and tested on 12: 34 test "
        r"rows; corpus 32 documents",
        lines["Splits"],
    )
    assert lines["Test size"].startswith("34 queries in 31 groups ")
    assert lines["Questions"].startswith("words: median 3, longest 3")


@pytest.mark.usefixtures("folder")
def test_a_field_that_folds_exclude_is_an_error_of_the_spec():
    code, out, err = check("pairs.jsonl", evaluation__folds="3", training__seeds="2")
    assert (code, out) == (3, "")
    message = "`evaluation.folds` excludes `training.seeds=2`: folds are several trainings already"
    assert err.startswith(f"Error: {message}")


def test_uneven_groups_count_as_fewer_queries(folder):
    """60 questions about one context and 20 others: 80² / (60² + 20) = 1.8 groups prove nothing."""
    rows = [{"question": f"What is {n}?", "context": words("same", 10)} for n in range(60)]
    others = [{"question": f"Who was {n}?", "context": words(f"x{n}y", 10)} for n in range(20)]
    write_jsonl(folder / "test.jsonl", rows + others)
    code, out, _ = check("pairs.jsonl", data__test="test.jsonl")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("Test size")]
    assert line.startswith(
        "Test size  80 queries in 21 groups (as informative as 1.8 of equal size) detect a lift of "
        "1.000 nDCG@10 or more"
    )
    assert "WARNING    one group of similar rows holds 60 of the 80 test queries (75%)" in out


def test_the_check_names_the_command_that_removes_shared_rows(folder):
    asked = enumerate(hand_made_rows()[:3])
    write_jsonl(folder / "test.jsonl", [row | {"question": f"Else {n}?"} for n, row in asked])
    _, out, _ = check("pairs.jsonl", data__test="test.jsonl")
    assert "Leakage    Of 3 test queries: 3 with a context that is also in training" in out
    command = re.search(r"To leave such rows out of training: `embedtune (.*)`\.", out)[1]
    code, out, _ = check(*shlex.split(command)[1:])
    assert code == 0
    assert (
        "Left out   5 rows are left out: their texts or documents are also in the test set" in out
    )
    assert "Leakage    No test query has a context that is also in training" in out


@pytest.mark.usefixtures("folder")
def test_data_settings_apply_to_the_check():
    """`--set` changes rows and splits as it does for a job."""
    code, out, _ = check(
        "pairs.jsonl",
        data__near_duplicate_threshold="null",
        data__min_characters="2",
        data__limit="20",
        data__test_fraction="0.5",
        data__min_test_queries="10",
    )
    assert code == 0
    assert "Source     pairs.jsonl: 38 rows, 20 usable\n" in out
    assert "context is too short" not in out
    assert "; 0 near-duplicate pairs;" in out
    assert "Splits     train 8, validation 2, test 10; corpus " in out


@pytest.mark.parametrize(("limit", "cut"), [(12, "5.9%"), (None, "0.0%")])
@pytest.mark.usefixtures("folder")
def test_texts_that_the_model_would_truncate_are_counted(tiny_encoder, tmp_path, limit, cut):
    """Each word is a token, and there are two special tokens: 12 tokens for a context of 10 words.

    The limit of the tiny encoder is 64 tokens, which sentence-transformers uses, too.
    """
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    if limit:
        settings = json.dumps({"max_seq_length": limit})
        (encoder / "sentence_bert_config.json").write_text(settings, "utf-8")
    # The question mark of "What about 1?" is a token, too; 2 of 34 contexts are too long.
    assert truncation(encoder) == (
        f"Truncation 0.0% of questions (longest: 6) and {cut} of contexts (longest: 62) exceed "
        f"the model's limit of {limit or 64} tokens\nReady to train.\n"
    )


@pytest.mark.usefixtures("folder")
def test_the_length_of_a_long_model_is_that_of_the_data(tiny_encoder, tmp_path):
    """A model of 2,048 tokens reads at least 512, which is more than any text here."""
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    settings = json.dumps({"max_seq_length": 2048})
    (encoder / "sentence_bert_config.json").write_text(settings, "utf-8")
    assert truncation(encoder).endswith(
        "exceed the automatic `model.max_length` of 512 tokens\nReady to train.\n"
    )


@pytest.mark.usefixtures("folder")
def test_a_tokenizer_below_the_models_folder_is_used(tiny_encoder, tmp_path):
    """As version 2 of sentence-transformers saved it."""
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    modules = json.loads((encoder / "modules.json").read_text("utf-8"))
    modules[0]["path"] = "0_Transformer"
    (encoder / "0_Transformer").mkdir()
    for path in (*encoder.glob("config.json"), *encoder.glob("*token*"), *encoder.glob("s*.json")):
        path.rename(encoder / "0_Transformer" / path.name)
    (encoder / "modules.json").write_text(json.dumps(modules), "utf-8")
    assert truncation(encoder).endswith("exceed the model's limit of 64 tokens\nReady to train.\n")


@pytest.mark.parametrize("model", ["empty", "./nowhere", "nobody/no-such-model"])
def test_a_missing_model_does_not_fail_the_check(folder, model):
    """Without a tokenizer or a network, all other facts are printed."""
    (folder / "empty").mkdir()
    out = truncation(folder / "empty" if model == "empty" else model)
    assert out.startswith("Truncation not counted: ")
    assert f"{model}`" in out
    assert out.endswith("\nReady to train.\n")


def test_a_check_leaves_no_files_behind(folder, monkeypatch):
    """Downloads go to a temporary folder, which is deleted at the end, also after an error."""
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    for needed in ("3", "30"):
        check("pairs.jsonl", data__min_test_queries=needed)
    assert sorted(path.name for path in folder.rglob("*")) == ["pairs.jsonl", "temporary"]


def test_a_closed_pipe_gives_no_traceback(folder):
    """`embedtune check … | head -1` ends quietly."""
    command = [sys.executable, "-P", "-u", "-m", "job", "check", "pairs.jsonl"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        assert process.stdout.readline() == FACTS.splitlines(keepends=True)[0]
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_checking_needs_neither_torch_nor_its_libraries(folder, tiny_encoder):
    """`embedtune[data]` is enough to check data on a laptop, including the count of tokens."""
    arguments = ["check", "pairs.jsonl", "--set", "data.min_test_queries=3"]
    code = (
        "import sys; from job.__main__ import main\n"
        f"try: main({[*arguments, '--model', str(tiny_encoder)]})\n"
        f"finally: print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    assert done.stdout.splitlines()[-2:] == ["Ready to train.", "heavy: []"]


def test_the_group_column_is_printed_with_its_number_of_values(folder):
    """The line of the columns has the number of test queries with a value."""
    rows = [row | {"kind": "odd" if n % 2 else None} for n, row in enumerate(hand_made_rows())]
    write_jsonl(folder / "pairs.jsonl", rows)
    code, out, _ = check("pairs.jsonl", data__columns__group="kind")
    assert code == 0
    plain = "Columns    question `question`, context `context`, negatives none"
    (line,) = [line for line in out.splitlines() if line.startswith("Columns")]
    expected = {f", group `kind` (set for {n} of 3 test queries)" for n in (1, 2)}
    assert line.removeprefix(plain) in expected
    assert out.replace(line, plain) == PROMPTED + "Ready to train.\n"


def test_out_of_domain_data_is_checked_too(folder):
    """The check prints its size, or the error that a job would raise."""
    rows = hand_made_rows()
    others = [{"question": f"Other {n}?", "context": f"Else {n}."} for n in range(4)]
    write_jsonl(folder / "other.jsonl", [*others, rows[0], rows[4]])
    line = (
        "Other data other.jsonl: 4 queries, 4 documents; 2 rows excluded: texts also in the data\n"
    )
    done = check("pairs.jsonl", evaluation__out_of_domain="other.jsonl")
    assert done == (0, PROMPTED + line + "Ready to train.\n", "")
    code, out, err = check("pairs.jsonl", evaluation__out_of_domain="pairs.jsonl")
    assert (code, out) == (3, PROMPTED)
    assert err.startswith("Error: `evaluation.out_of_domain` is `pairs.jsonl`")


def test_prompts_come_from_the_configuration_of_a_local_model(tmp_path):
    """Else from its name, in the form in which `model.query_prompt` takes them."""
    folder = tmp_path / "bge-small-en-v1.5"
    folder.mkdir()
    assert prompts_of(ModelSpec(base=str(folder))) == Prompts(BGE_ENGLISH)
    saved = {"prompts": {"query": "Instruct: Find it\nQuery:", "document": ""}}
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps(saved), "utf-8")

    found = ModelSpec(base=str(folder))
    assert prompts_of(found) == Prompts("Instruct: Find it\nQuery:")
    assert prompts_of(ModelSpec(base=str(folder), query_prompt="ask: ")) == Prompts("ask: ")
    assert next(iter(prompt_lines(found))).startswith(r"Prompt     `Instruct: Find it\nQuery:` ")
    settings.write_text("[", "utf-8")
    assert prompts_of(found) == Prompts(BGE_ENGLISH)
    assert prompts_of(ModelSpec(base="./nowhere/bge-small-en")) == Prompts(BGE_ENGLISH)
