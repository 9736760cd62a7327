"""Whatever is fed to `check`: a right result or one line, never a traceback, never a hang."""

import tempfile
from pathlib import Path

import pytest
from fuzz import mutations, ruler
from fuzz.budget import cases
from fuzz.ugly_files import CASES, as_lines, nested, plain
from hypothesis import event, given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", CASES)
def test_an_ugly_file_is_used_to_the_row_or_refused_in_a_line(name, tmp_path, monkeypatch):
    """What is used, dropped and written adds up to what a slow reader sees in the file."""
    monkeypatch.chdir(tmp_path)
    case = CASES[name]
    place = case.make(tmp_path)
    ending = ruler.check(place)
    assert ending.code == case.code
    assert case.told in (ending.error or ruler.summary(ending))
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
