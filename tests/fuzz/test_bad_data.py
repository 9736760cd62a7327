"""For any input, `check` gives a correct result or a one-line error: no traceback, no hang."""

import tempfile
from pathlib import Path

import pytest
from fuzz import mutations, ruler
from fuzz.budget import cases
from fuzz.ugly_files import CASES, as_lines, nested, plain
from hypothesis import event, given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", CASES)
def test_an_ugly_file_is_read_correctly_or_refused_in_one_line(name, tmp_path, monkeypatch):
    """The used, dropped and written rows equal those of a slow reader."""
    monkeypatch.chdir(tmp_path)
    case = CASES[name]
    path = case.make(tmp_path)
    ending = ruler.check(path)
    assert ending.code == case.code
    assert case.expected in (ending.error or ruler.summary(ending))
    assert ruler.find_fault(tmp_path / path, ending, tmp_path / "out") is None


def test_deeply_nested_json_gives_no_traceback():
    """The maximum depths of Python's JSON reader and writer differ slightly."""
    for depth in range(800, 1000, 8):
        deep = f'{{"question": {nested(depth)}, "context": "deep below"}}\n'
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "a.jsonl")
            file.write_text(as_lines(plain()) + deep, "utf-8")
            assert ruler.fault_of(ruler.check(file)) is None


def fed(name, data):
    """Check a file's bytes, or those of a folder's files by name; return what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: data} if isinstance(data, bytes) else data
        for file, content in files.items():
            path = Path(folder, "fed", file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        path = Path(folder, "fed", name)
        ending = ruler.check(path)
        event(f"exit code {ending.code}{', a data set' if ending.dataset else ''}")
        return ruler.find_fault(path, ending, Path(folder, "out"))


@cases(in_ci=150)
@given(st.sampled_from(sorted(mutations.VALID)), mutations.changes)
def test_damaged_bytes(suffix, steps):
    """Files of all formats with insertions, gaps, repetitions, truncation and flipped bits."""
    assert fed(f"a{suffix}", mutations.changed(mutations.VALID[suffix], steps)) is None


@cases(in_ci=100)
@given(st.sampled_from(sorted(mutations.VALID)), mutations.row_lists)
def test_odd_rows(suffix, rows):
    """Rows with any keys and values, before or after good rows."""
    assert fed(f"a{suffix}", mutations.as_file(mutations.mixed(*rows), suffix)) is None


@cases(in_ci=50)
@given(mutations.entries, mutations.entries, mutations.qrels_lines)
def test_odd_beir(documents, queries, qrels):
    """Ids that are missing, duplicate, odd or unknown; scores that are not numbers."""
    assert fed("", mutations.beir_files(documents, queries, qrels)) is None


@cases(in_ci=50)
@given(st.sampled_from(["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"]), mutations.changes)
def test_damaged_beir(name, steps):
    files = mutations.beir_files([], [], [])
    assert fed("", files | {name: mutations.changed(files[name], steps)}) is None
