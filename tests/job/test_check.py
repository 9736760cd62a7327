"""`python -m job check`: the facts of a hand-made file, each of which can be counted there."""

import json
import os
import shutil
import subprocess
import sys

import pytest

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
Proof      3 test queries in 3 groups show a lift of 1.000 nDCG@10 or more (80 % chance; \
assumes that lifts vary by 0.28 between queries)
"""
TOO_FEW = (
    "`pairs.jsonl` leaves 3 test queries of 34 usable rows (38 read); at least 30 are needed to "
    "prove anything. Bring more rows, or set `data.test_fraction` or `data.min_test_queries`."
)


@pytest.fixture
def folder(tmp_path):
    lines = (json.dumps(row) + "\n" for row in hand_made_rows())
    (tmp_path / "pairs.jsonl").write_text("".join(lines), "utf-8")
    return tmp_path


def check(folder, *arguments):
    """Run the check as the launcher does; returns its exit code, its facts and its talk."""
    command = [sys.executable, "-P", "-m", "job", "check", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def truncation(folder, encoder):
    """Check with a model; returns what was printed after the facts."""
    arguments = ("pairs.jsonl", "--set", "data.min_test_queries=3", "--model", str(encoder))
    code, told, talk = check(folder, *arguments)
    assert (code, talk) == (0, "")
    assert told.startswith(FACTS)
    return told.removeprefix(FACTS)


def test_the_facts_are_those_of_the_file(folder):
    """What would be used, dropped, split and provable; then that a job would start."""
    done = check(folder, "pairs.jsonl", "--set", "data.min_test_queries=3")
    assert done == (0, FACTS + "Ready to train.\n", "")


def test_too_little_data_is_refused_after_the_facts(folder):
    """Exit code 4, and the facts that show why stand above it."""
    assert check(folder, "pairs.jsonl") == (
        4,
        FACTS,
        f"Error: {TOO_FEW}\n",
    )


def test_settings_of_the_data_count(folder):
    """`--set` means here what it means to a job: other rows, other splits."""
    settings = ("data.near_duplicate_threshold=null", "data.min_characters=2", "data.limit=20")
    more = ("data.test_fraction=0.5", "data.min_test_queries=10")
    options = [part for setting in (*settings, *more) for part in ("--set", setting)]
    code, told, _ = check(folder, "pairs.jsonl", *options)
    assert code == 0
    assert "Source     pairs.jsonl: 38 rows, 20 usable\n" in told
    assert "Dropped    1 × context is too short" not in told
    assert ", 0 near-duplicate pairs;" in told
    assert "Splits     train 8, validation 2, test 10; corpus " in told


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (
            ["nowhere"],
            4,
            (
                "`nowhere` does not exist (as a path), nor does it look like a Hub id "
                "(`owner/name`). Check the spelling."
            ),
        ),
        (
            ["pairs.jsonl", "--set", "data.limits=3"],
            3,
            "`data.limits` is not a field of the spec. Did you mean `data.limit`?",
        ),
        (
            ["pairs.jsonl", "--set", "data.columns.anchor=Q"],
            4,
            (
                "`pairs.jsonl` has no column `Q` (`data.columns.anchor`); "
                "it has `question`, `context`."
            ),
        ),
    ],
    ids=["file", "field", "column"],
)
def test_what_cannot_be_checked_is_refused_in_a_line(folder, arguments, code, line):
    """The code says whose fault it is; nothing is printed that would pass for facts."""
    assert check(folder, *arguments) == (code, "", f"Error: {line}\n")


def test_texts_that_the_model_would_cut_are_counted(folder, tiny_encoder, tmp_path):
    """Each word is a token, two more frame it: contexts of 10 words pass a limit of 12, 60 not."""
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    settings = json.dumps({"max_seq_length": 12})
    (encoder / "sentence_bert_config.json").write_text(settings, "utf-8")
    # "What about 1?" has a question mark besides its words; 2 of 34 contexts are too long.
    assert truncation(folder, encoder) == (
        "Truncation at 12 tokens: 0.0% of the questions (longest 6) and 5.9% of the contexts "
        "(longest 62)\nReady to train.\n"
    )


def test_the_limit_is_the_one_that_the_model_will_have(folder, tiny_encoder):
    """The tiny encoder reads 64 tokens, as sentence-transformers says when it has loaded it."""
    assert truncation(folder, tiny_encoder) == (
        "Truncation at 64 tokens: 0.0% of the questions (longest 6) and 0.0% of the contexts "
        "(longest 62)\nReady to train.\n"
    )


def test_a_model_without_a_tokenizer_is_no_reason_to_stop(folder, tmp_path):
    """The facts are worth having without the count of tokens."""
    (tmp_path / "empty").mkdir()
    assert truncation(folder, tmp_path / "empty") == (
        f"Truncation not counted: no tokenizer of `{tmp_path / 'empty'}` can be had\n"
        "Ready to train.\n"
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "./nowhere",
            (
                "There is no model folder `./nowhere`. Name one that exists, `builtin:minilm` "
                "or a model of the Hub (`owner/name`)."
            ),
        ),
        (
            "nobody/no-such-model",
            (
                "The Hub model `nobody/no-such-model` is not in the Hub's cache here, and "
                "`HF_HUB_OFFLINE` is set."
            ),
        ),
    ],
    ids=["folder", "hub"],
)
def test_a_model_that_cannot_be_had_is_no_reason_to_stop(folder, model, reason):
    """Nor is one whose name is wrong, or that the network does not bring."""
    assert truncation(folder, model) == f"Truncation not counted: {reason}\nReady to train.\n"


def test_nothing_is_left_of_what_a_check_fetched(folder):
    """It works in a folder of its own, which goes when it ends, whether the data will do or not."""
    (folder / "temporary").mkdir()
    command = [sys.executable, "-P", "-m", "job", "check", "pairs.jsonl"]
    for settings in ([], ["--set", "data.min_test_queries=3"]):
        environment = os.environ | {"TMPDIR": str(folder / "temporary")}
        subprocess.run(
            [*command, *settings], check=False, capture_output=True, cwd=folder, env=environment
        )
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
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text("".join(lines), "utf-8")
    options = ("data.min_test_queries=3", "data.columns.group=kind")
    code, told, _ = check(folder, "pairs.jsonl", *[p for o in options for p in ("--set", o)])
    assert code == 0
    plain = "Columns    question `question`, context `context`, negatives none"
    (line,) = [line for line in told.splitlines() if line.startswith("Columns")]
    assert line.removeprefix(plain) in {f", group `kind` ({n} of 3 test queries)" for n in (1, 2)}
    assert told.replace(line, plain) == FACTS + "Ready to train.\n"


def test_a_probe_is_read_before_anything_is_paid_for(folder):
    """How much of it there is, or why it will not do."""
    rows = hand_made_rows()
    others = [{"question": f"Other {n}?", "context": f"Else {n}."} for n in range(4)]
    lines = (json.dumps(row) + "\n" for row in [*others, rows[0], rows[4]])
    (folder / "probe.jsonl").write_text("".join(lines), "utf-8")
    options = ["pairs.jsonl", "--set", "data.min_test_queries=3", "--set"]
    told = (
        "Probe      probe.jsonl: 4 queries, 4 documents; left out 2 rows with texts of the data\n"
    )
    done = check(folder, *options, "evaluation.probe=probe.jsonl")
    assert done == (0, FACTS + told + "Ready to train.\n", "")
    code, told, talk = check(folder, *options, "evaluation.probe=pairs.jsonl")
    assert (code, told) == (3, FACTS)
    assert talk.startswith("Error: `evaluation.probe` is `pairs.jsonl`, the job's own data: ")
