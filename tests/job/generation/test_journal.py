"""The journal: nothing that it has is asked again, and other documents are refused."""

import json
from pathlib import Path

import pytest

from job.core.errors import DataError, MachineError
from job.generation.budget import Budget, Tokens, expected, used
from job.generation.journal import Journal, Request
from job.generation.llm.protocol import Answer, Settings
from job.spec.schema import GenerationSpec

DOCUMENTS = {"a.md": "1", "b.md": "2"}


def request(text="Hello", seed=1, max_tokens=100):
    messages = [{"role": "user", "content": text}]
    return Request("openai:m", "a.md#1", messages, Settings(0.7, seed, max_tokens))


def test_answers_are_there_after_a_restart(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    answers = [Answer("ä?", 10, 2), Answer("", refusal="no")]
    for number, answer in enumerate(answers):
        with Journal(path, DOCUMENTS).opened() as journal:
            journal.add(request(seed=number), answer)
    found = Journal(path, DOCUMENTS).answers
    assert found == {request(seed=n).key: answer for n, answer in enumerate(answers)}
    entry = json.loads(path.read_text("utf-8").splitlines()[1])
    assert (entry["model"], entry["seed"], entry["temperature"]) == ("openai:m", 0, 0.7)


def test_settings_that_a_model_does_not_take_are_not_in_its_entry(tmp_path):
    path, answer = tmp_path / "journal.jsonl", Answer("ä?", without=("seed", "temperature"))
    with Journal(path, DOCUMENTS).opened() as journal:
        journal.add(request(), answer)
    entry = json.loads(path.read_text("utf-8").splitlines()[1])
    assert entry.keys() & {"seed", "temperature", "max_tokens"} == {"max_tokens"}
    assert Journal(path, DOCUMENTS).answers == {request().key: answer}


def test_the_entries_of_an_older_version_are_read(tmp_path):
    path = tmp_path / "journal.jsonl"
    old = {"text": "ä?", "tokens_in": 10, "tokens_out": 2, "refusal": ""}
    entries = [{"documents": DOCUMENTS}, {"key": request().key, "answer": old}]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
    assert Journal(path, DOCUMENTS).answers == {request().key: Answer("ä?", 10, 2)}


def test_a_full_disk_is_named():
    with (
        pytest.raises(MachineError, match="No space left"),
        Journal(Path("/dev/full"), DOCUMENTS).opened(),
    ):
        pass


@pytest.mark.parametrize("change", [{"text": "Other"}, {"seed": 2}, {"max_tokens": 5}])
def test_another_request_has_another_key(change):
    assert request(**change).key != request().key == request().key


def test_an_incomplete_last_line_is_cut_off(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, DOCUMENTS).opened() as journal:
        journal.add(request(), Answer("x"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "half')
    with Journal(path, DOCUMENTS).opened() as journal:
        assert [*journal.answers] == [request().key]
        journal.add(request(seed=2), Answer("y"))
    assert path.read_bytes().startswith(whole)
    assert len(Journal(path, DOCUMENTS).answers) == 2


@pytest.mark.parametrize(
    "line", [b"{}", b"nothing", b"[]", b'{"key": "x", "answer": {"words": 1}}', b'{"answer": null}']
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    with Journal(path, DOCUMENTS).opened() as journal:
        journal.add(request(), Answer("x"))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match="line 3 is damaged"):
        Journal(path, DOCUMENTS)


def test_a_damaged_first_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"documents": [1]}\n', "utf-8")
    with pytest.raises(DataError, match="line 1 is damaged"):
        Journal(path, DOCUMENTS)


def test_changed_documents_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, DOCUMENTS).opened():
        pass
    with pytest.raises(DataError) as caught:
        Journal(path, {"a.md": "9", "c.md": "3"})
    for part in ("1 added (`c.md`)", "1 changed (`a.md`)", "1 removed (`b.md`)"):
        assert part in str(caught.value)


def test_a_budget_never_plans_more_than_its_limit():
    spec = GenerationSpec(input_price=1.0, output_price=2.0, max_cost=0.001)
    budget, each = Budget(spec), request("x" * 368, max_tokens=200)
    # 100 tokens to read and at most 200 to write: 500 millionths of a dollar.
    assert budget.allows(each, [])
    assert budget.allows(each, [each])
    assert not budget.allows(each, [each, each])
    budget.add(each, Answer("text", 100, 50))
    assert budget.usd == pytest.approx(0.0002)
    assert budget.allows(each, [])
    assert not budget.allows(each, [each])


def test_without_a_price_the_cost_is_unknown():
    budget = Budget(GenerationSpec())
    budget.add(request(), Answer("text", 100, 50))
    assert budget.usd is None
    assert budget.allows(request(), [request()] * 1000)


def test_tokens_that_a_server_does_not_count_are_estimated():
    assert used(request("x" * 40), Answer("y" * 8)) == Tokens(18, 2)
    assert used(request(), Answer("y", 7, 3)) == Tokens(7, 3)


def test_a_judge_is_part_of_the_estimate():
    alone = expected([request()], GenerationSpec())
    judged = expected([request()], GenerationSpec(judge="openai:j"))
    assert judged["openai:m"] == alone["openai:m"]
    assert judged["openai:j"].read == 5 * alone["openai:m"].read


def test_a_judge_has_its_own_price_or_that_of_the_writer():
    spec = GenerationSpec(llm="openai:m", judge="openai:j", input_price=1, output_price=2)
    assert spec.prices("openai:j") == (1, 2)
    spec = spec.model_copy(update={"judge_input_price": 3.0})
    assert spec.prices("openai:j") is None
    spec = spec.model_copy(update={"judge_output_price": 4.0})
    assert (spec.prices("openai:m"), spec.prices("openai:j")) == ((1, 2), (3, 4))
    assert spec.prices("local:m") == (0, 0)


def test_the_version_of_a_local_model_is_a_line_of_its_own(tmp_path):
    path = tmp_path / "journal.jsonl"
    for version in ({"commit": "a"}, {"commit": "a"}, {"commit": "b"}):
        with Journal(path, DOCUMENTS).opened() as journal:
            journal.add_version("local:me/m", version)
    with Journal(path, DOCUMENTS).opened() as journal:
        journal.add(request(), Answer("x"))
    found = Journal(path, DOCUMENTS)
    assert found.versions == {"local:me/m": {"commit": "b"}}
    assert [*found.answers] == [request().key]
    assert path.read_bytes().count(b"\n") == 4
