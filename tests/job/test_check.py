"""`python -m job check`: the facts of a hand-made file, each of which can be counted there."""

import json
import shutil
import subprocess
import sys
import tempfile

import pytest
from click.testing import CliRunner
from conftest import write_jsonl

from job.__main__ import main

HEAVY = ("torch", "sentence_transformers", "transformers", "datasets")


def words(stem, count):
    return " ".join(f"{stem}{n}" for n in range(count))


def hand_made_rows():
    """Make 34 usable rows: 30 alone, 2 that share row 1's context, 2 nearly alike; 4 useless."""
    rows = [
        {"question": f"What about {n}?", "context": words(f"told{n}x", 10)} for n in range(1, 31)
    ]
    rows += [{"question": f"And {what}?", "context": rows[0]["context"]} for what in ("a1", "b1")]
    # 57 of their 59 runs of three words are the same.
    rows += [
        {"question": f"Nearly {last}?", "context": f"{words('like', 59)} {last}"}
        for last in ("left", "right")
    ]
    useless = [
        {"question": " ", "context": "No question here"},
        {"question": "What about 3?", "context": rows[2]["context"].upper()},
        {"question": "Why?", "context": "ab"},
        {"question": "Same text", "context": "same  TEXT"},
    ]
    return [*rows, *useless]


FACTS = """\
Source     pairs.jsonl: 38 rows, 34 usable
Columns    question `question`, context `context`, negatives none
Dropped    1 × empty question (pairs.jsonl:35)
Dropped    1 × exact duplicate (pairs.jsonl:36)
Dropped    1 × context is too short (pairs.jsonl:37)
Dropped    1 × question equals context (pairs.jsonl:38)
Duplicates 3 rows share a context, 1 near-duplicate pairs; 31 groups, the largest of 3 rows
Leakage    0.0% of a random split's test rows would have their context in training; ours: 0.0%
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
Proof      3 test queries in 3 groups show a lift of 1.000 nDCG@10 or more (80 % chance; \
assumes that lifts vary by 0.28 between queries)
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
    """Run the check; returns its exit code, its facts and its talk."""
    given = {"data.min_test_queries": "3"} | {k.replace("__", "."): v for k, v in settings.items()}
    options = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(main, ["check", *arguments, *options])
    return done.exit_code, done.stdout, done.stderr


def truncation(encoder):
    """Check with a model; returns what was printed after the facts."""
    code, told, talk = check("pairs.jsonl", "--model", str(encoder))
    assert (code, talk) == (0, "")
    assert told.startswith(FACTS)
    return told.removeprefix(FACTS)


@pytest.mark.usefixtures("folder")
def test_the_facts_are_those_of_the_file():
    """What would be used, dropped, split and provable; then that a job would start or why not."""
    assert check("pairs.jsonl") == (0, PROMPTED + "Ready to train.\n", "")
    code, told, talk = check("pairs.jsonl", data__min_test_queries="30")
    assert (code, told) == (4, PROMPTED)
    assert talk.startswith("Error: `pairs.jsonl` leaves 3 test queries of 34 usable rows (38 read)")


@pytest.mark.usefixtures("folder")
def test_settings_of_the_data_count():
    """`--set` means here what it means to a job: other rows, other splits."""
    code, told, _ = check(
        "pairs.jsonl",
        data__near_duplicate_threshold="null",
        data__min_characters="2",
        data__limit="20",
        data__test_fraction="0.5",
        data__min_test_queries="10",
    )
    assert code == 0
    assert "Source     pairs.jsonl: 38 rows, 20 usable\n" in told
    assert "Dropped    1 × context is too short" not in told
    assert ", 0 near-duplicate pairs;" in told
    assert "Splits     train 8, validation 2, test 10; corpus " in told


@pytest.mark.parametrize(("limit", "cut"), [(12, "5.9%"), (None, "0.0%")])
@pytest.mark.usefixtures("folder")
def test_texts_that_the_model_would_cut_are_counted(tiny_encoder, tmp_path, limit, cut):
    """Each word is a token, two more frame it: contexts of 10 words pass a limit of 12, 60 not.

    The tiny encoder reads 64 tokens, as sentence-transformers says when it has loaded it.
    """
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    if limit:
        settings = json.dumps({"max_seq_length": limit})
        (encoder / "sentence_bert_config.json").write_text(settings, "utf-8")
    # "What about 1?" has a question mark besides its words; 2 of 34 contexts are too long.
    assert truncation(encoder) == (
        f"Truncation at {limit or 64} tokens: 0.0% of the questions (longest 6) and {cut} of the "
        "contexts (longest 62)\nReady to train.\n"
    )


@pytest.mark.parametrize("model", ["empty", "./nowhere", "nobody/no-such-model"])
def test_a_model_that_cannot_be_had_is_no_reason_to_stop(folder, model):
    """The facts are worth having without the count of tokens: without a tokenizer or a network."""
    (folder / "empty").mkdir()
    told = truncation(folder / "empty" if model == "empty" else model)
    assert told.startswith("Truncation not counted: ")
    assert f"{model}`" in told
    assert told.endswith("\nReady to train.\n")


def test_nothing_is_left_of_what_a_check_fetched(folder, monkeypatch):
    """It works in a folder of its own, which goes when it ends, whether the data will do or not."""
    (folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    for needed in ("3", "30"):
        check("pairs.jsonl", data__min_test_queries=needed)
    assert sorted(path.name for path in folder.rglob("*")) == ["pairs.jsonl", "temporary"]


def test_a_reader_that_has_seen_enough_is_no_bug_of_ours(folder):
    """`embedtune check … | head -1` ends without a traceback."""
    command = [sys.executable, "-P", "-u", "-m", "job", "check", "pairs.jsonl"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        assert process.stdout.readline() == FACTS.splitlines(keepends=True)[0]
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_checking_needs_neither_torch_nor_its_libraries(folder, tiny_encoder):
    """A laptop with `embedtune[data]` alone can check, tokens included."""
    arguments = ["check", "pairs.jsonl", "--set", "data.min_test_queries=3"]
    code = (
        "import sys; from job.__main__ import main\n"
        f"try: main({[*arguments, '--model', str(tiny_encoder)]})\n"
        f"finally: print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    assert done.stdout.splitlines()[-2:] == ["Ready to train.", "heavy: []"]


def test_the_column_of_the_group_is_named_with_what_it_will_slice(folder):
    """Beside the other columns; how many of the test queries have a value there."""
    rows = [row | {"kind": "odd" if n % 2 else None} for n, row in enumerate(hand_made_rows())]
    write_jsonl(folder / "pairs.jsonl", rows)
    code, told, _ = check("pairs.jsonl", data__columns__group="kind")
    assert code == 0
    plain = "Columns    question `question`, context `context`, negatives none"
    (line,) = [line for line in told.splitlines() if line.startswith("Columns")]
    assert line.removeprefix(plain) in {f", group `kind` ({n} of 3 test queries)" for n in (1, 2)}
    assert told.replace(line, plain) == PROMPTED + "Ready to train.\n"


def test_a_probe_is_read_before_anything_is_paid_for(folder):
    """How much of it there is, or why it will not do."""
    rows = hand_made_rows()
    others = [{"question": f"Other {n}?", "context": f"Else {n}."} for n in range(4)]
    write_jsonl(folder / "probe.jsonl", [*others, rows[0], rows[4]])
    told = (
        "Other      probe.jsonl: 4 queries, 4 documents; left out 2 rows with texts of the data\n"
    )
    done = check("pairs.jsonl", evaluation__out_of_domain="probe.jsonl")
    assert done == (0, PROMPTED + told + "Ready to train.\n", "")
    code, told, talk = check("pairs.jsonl", evaluation__out_of_domain="pairs.jsonl")
    assert (code, told) == (3, PROMPTED)
    assert talk.startswith("Error: `evaluation.out_of_domain` is `pairs.jsonl`")
