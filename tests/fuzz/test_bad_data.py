"""Whatever is fed to `check`: a right result or one line, never a traceback, never a hang."""

import tempfile
from pathlib import Path

import pytest
from fuzz import mutations, ruler
from fuzz.budget import cases
from fuzz.ugly_files import CASES, as_lines, nested, plain
from hypothesis import event, given
from hypothesis import strategies as st

# What is usable of the rows that such a file has; all others are refused.
TAKEN = {
    "a NUL in a CSV's text": "41 of 41",
    "a line of 10 MB": "41 of 41",
    "a word of 10 MB": "41 of 41",
    "a hundred thousand marks on a letter": "41 of 41",
    "keys named twice": "41 of 41",
    "a quote inside a field": "41 of 41",
    "BEIR with the score 0.5": "41 of 41",
    "nested 10 deep": "40 of 41",
    "nested 500 deep": "40 of 41",
    "a number just short enough": "40 of 41",
    "BEIR with a judgement twice": "40 of 41",
    "BEIR with numbers for texts": "40 of 41",
    "every kind of value": "45 of 64",
    "every odd text": "50 of 50",
    "every odd text in a table": "50 of 50",
    "too few and too many fields": "40 of 45",
    "two gzips in a row": "60 of 100",
    "BEIR with a missing document": "39 of 40",
    "BEIR with a missing query": "39 of 40",
    "BEIR with ids that differ by a space": "42 of 42",
    **dict.fromkeys(
        [
            "UTF-8 with a BOM in csv",
            "UTF-8 with a BOM in jsonl",
            "CR LF JSON lines",
            "no last line end",
            "blank lines everywhere",
            "JSON lines under the wrong name",
            "a list of rows",
            "a wrapped list of rows",
            "half a character in a column's name",
            "semicolons",
            "a TSV",
            "columns without a name",
            "gzip",
            "gzip of a table",
            "gzip with trailing zeros",
            "a suffix in capitals",
            "Parquet with odd columns",
            "Parquet with dictionaries",
            "Parquet with lists of contexts",
            "a FIFO in a folder",
            "a full folder named like a file",
            "a folder that holds itself",
            "BEIR",
            "BEIR with a document twice",
            "BEIR with half a character in an id",
            "BEIR with the score 0",
            "BEIR with the score -1",
        ],
        "40 of 40",
    ),
}
# No file's fault, but that of the name.
REFUSED_BY_NAME = [
    "a name that is no Unicode",
    "nothing",
    "a NUL",
    "a name of 300 characters",
    "a path of 5,000 characters",
    "no bucket",
]


@pytest.mark.parametrize("name", CASES)
def test_an_ugly_file_is_used_to_the_row_or_refused_in_a_line(name, tmp_path, monkeypatch):
    """What is used, dropped and written adds up to what a slow reader sees in the file."""
    monkeypatch.chdir(tmp_path)
    place = CASES[name](tmp_path)
    ending = ruler.check(place)
    refused = f"code {3 if name in REFUSED_BY_NAME else 4}"
    assert ruler.summary(ending) == TAKEN.get(name, refused)
    assert ruler.verdict(tmp_path / place, ending, tmp_path / "out") is None


def test_what_can_just_be_read_can_just_be_judged():
    """Python's reader and its writer give up at depths that differ by a few."""
    for depth in range(800, 1000, 8):
        deep = f'{{"question": {nested(depth)}, "context": "deep below"}}\n'
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "a.jsonl")
            file.write_text(as_lines(plain()) + deep, "utf-8")
            assert ruler.fault_of(ruler.check(file)) is None


def fed(name, data):
    """Feed a file's bytes, or those of a folder's files by name, to the check."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: data} if isinstance(data, bytes) else data
        for file, content in files.items():
            path = Path(folder, "fed", file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        place = Path(folder, "fed", name)
        ending = ruler.check(place)
        event(f"exit code {ending.code}{', a data set' if ending.dataset else ''}")
        return ruler.verdict(place, ending, Path(folder, "out"))


@cases(in_ci=150)
@given(st.sampled_from(sorted(mutations.VALID)), mutations.changes)
def test_damaged_bytes(suffix, steps):
    """Of whatever format: insertions, gaps, repetitions, cut ends, flipped bits."""
    assert fed(f"a{suffix}", mutations.changed(mutations.VALID[suffix], steps)) is None


@cases(in_ci=100)
@given(st.sampled_from(sorted(mutations.VALID)), mutations.row_lists)
def test_odd_rows(suffix, rows):
    """Rows of any keys and values, before or behind good ones."""
    assert fed(f"a{suffix}", mutations.as_file(mutations.mingled(*rows), suffix)) is None


@cases(in_ci=50)
@given(mutations.entries, mutations.entries, mutations.judgements)
def test_odd_beir(documents, queries, qrels):
    """Ids that are missing, double, odd or lead nowhere; scores that are none."""
    assert fed("", mutations.beir_files(documents, queries, qrels)) is None


@cases(in_ci=50)
@given(st.sampled_from(["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"]), mutations.changes)
def test_damaged_beir(name, steps):
    files = mutations.beir_files([], [], [])
    assert fed("", files | {name: mutations.changed(files[name], steps)}) is None
