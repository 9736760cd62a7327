"""`pairs`: what it prints and refuses before it asks anything."""

import shlex

import pytest
from conftest import write_jsonl

from job.core.errors import DataError, SpecError, StorageError
from job.generation.llm.kinds import KINDS
from job.generation.llm.protocol import Answer
from job.pairs import make_pairs
from job.spec.parse import build_spec

COUNT = 60


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the command with a language model that must not be asked; returns what it prints."""
    monkeypatch.setitem(KINDS, "openai", pytest.fail)
    rows = [{"text": f"Page thing{n} of the handbook tells you its use."} for n in range(COUNT)]
    documents = write_jsonl(tmp_path / "docs" / "chunks.jsonl", rows)

    def run(*, dry_run=False, to="pairs.jsonl", **fields):
        given = {"data.documents": str(documents), "generation.llm": "openai:m"}
        spec = build_spec({}, given | {k.replace("__", "."): v for k, v in fields.items()})
        lines = []
        target = tmp_path / to
        make_pairs(spec, target, "cpu", lines.append, dry_run=dry_run, yes=False)
        return lines

    return run


def test_a_dry_run_prints_the_plan_and_five_prompts_and_asks_nothing(start, tmp_path):
    first, *others = start(dry_run=True)
    assert f"{COUNT} requests" in first
    assert "of unknown price" in first
    assert sum(line.startswith("--- prompt") for line in others) == 5
    assert not (tmp_path / "pairs.jsonl").exists()


def test_an_existing_target_is_not_changed(start, tmp_path):
    target = tmp_path / "pairs.jsonl"
    target.write_text("mine", "utf-8")
    with pytest.raises(StorageError, match="already exists, and was not changed"):
        start()
    assert target.read_text("utf-8") == "mine"


def test_a_price_above_the_limit_is_not_paid_without_consent(start):
    prices = {"generation__input_price": "100", "generation__output_price": "100"}
    with pytest.raises(SpecError, match=r"above --max-cost \$0\.01.*`--yes`"):
        start(generation__max_cost="0.01", **prices)


def test_pairs_are_not_written_among_the_documents(start, tmp_path):
    """The next start would read them and the journal as documents."""
    with pytest.raises(SpecError, match=r"`--to \.\./pairs\.jsonl`"):
        start(to="docs/sub/pairs.jsonl", data__documents=str(tmp_path / "docs"))


def answering(monkeypatch, text):
    monkeypatch.setitem(KINDS, "openai", lambda *_: lambda *_: Answer(text, 10, 10))


def test_the_next_command_reads_the_pairs_as_they_were_written(start, tmp_path, monkeypatch):
    """With the user's own columns and test set, which would be lost silently."""
    answering(monkeypatch, "natural: How is it used?")
    real = write_jsonl(tmp_path / "real.jsonl", [{"q": "why?", "context": "Because."}])
    given = {"data__columns__anchor": "q", "data__columns__corpus_text": "text"}
    given |= {"data__test": str(real), "generation__round_trip_depth": "null"}
    *_, last = start(**given, data__near_duplicate_threshold="null")
    words = shlex.split(last)
    assert words[:4] == ["Next", "embedtune", "launch", "--data"]
    assert {word for word in words if "=" in word} == {
        f"data.test={real}",
        "data.near_duplicate_threshold=null",
        "data.columns.anchor=q",
        "data.columns.document=source",
        "data.questions_by=openai:m",
        f"data.corpus={tmp_path / 'pairs.corpus.jsonl'}",
    }


def test_without_any_pair_there_is_no_file_of_pairs(start, tmp_path, monkeypatch):
    answering(monkeypatch, "natural: What does the passage say?")
    with pytest.raises(DataError, match=rf"None of {COUNT} questions was kept: {COUNT} names the"):
        start()
    assert not (tmp_path / "pairs.jsonl").exists()
    assert (tmp_path / "pairs.rejected.jsonl").is_file()
