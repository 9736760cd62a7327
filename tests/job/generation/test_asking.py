"""Asking: from several threads, within the budget, and never twice."""

import threading

import pytest

from job.core.errors import BackendError, DataError
from job.generation.asking import ask_all
from job.generation.budget import Budget
from job.generation.journal import Journal, Request
from job.generation.llm.protocol import Answer, Settings
from job.spec.schema import GenerationSpec

NO_LIMIT = GenerationSpec()


def requests_of(count):
    messages = [{"role": "user", "content": "x" * 400}]
    return [Request("fake:m", f"c{n}", messages, Settings(0.7, n, 100)) for n in range(count)]


class Model:
    """Counts what it is asked, and how much of that at once."""

    def __init__(self, failing=()):
        self.asked, self.most, self.running = [], 0, 0
        self.failing, self.lock = failing, threading.Lock()

    def __call__(self, _, settings):
        with self.lock:
            self.asked.append(settings.seed)
            self.running += 1
            self.most = max(self.most, self.running)
        if settings.seed in self.failing:
            msg = "no more"
            raise BackendError(msg)
        with self.lock:
            self.running -= 1
        return Answer(f"q{settings.seed}", 100, 100)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl", {})


def ask(requests, model, journal, spec=NO_LIMIT, **options):
    return ask_all(requests, model, journal, Budget(spec), 4, **options)


def test_every_request_is_answered_once_by_few_threads(journal):
    model = Model()
    requests = requests_of(50)
    assert ask(requests, model, journal)
    assert sorted(model.asked) == list(range(50))
    assert model.most <= 4
    assert [journal.answers[r.key].text for r in requests] == [f"q{n}" for n in range(50)]
    assert ask(requests, model, journal)
    assert len(model.asked) == 50


def test_after_a_failure_only_the_running_requests_are_asked_again(journal, tmp_path):
    requests, model = requests_of(40), Model(failing={20})
    with pytest.raises(BackendError):
        ask(requests, model, journal)
    again = Model()
    assert ask(requests, again, Journal(tmp_path / "journal.jsonl", {}))
    assert not {*again.asked} - {*range(40)}
    assert len({*again.asked} & {*model.asked}) <= 4
    assert {*again.asked} | {*model.asked} == {*range(40)}


def test_the_budget_ends_the_asking_and_counts_earlier_answers(journal):
    # Each request may take 208 tokens, and takes 200: a millionth of a dollar each.
    spec = GenerationSpec(input_price=1, output_price=1, max_cost=0.00201)
    model, requests = Model(), requests_of(30)
    assert not ask(requests, model, journal, spec)
    assert sorted(model.asked) == list(range(10))
    assert not ask(requests, model, journal, spec)
    assert len(model.asked) == 10


def test_a_watcher_gets_earlier_answers_in_the_order_of_the_journal(journal):
    """Otherwise a start that had a useful answer could become hopeless when it is resumed."""
    requests = requests_of(3)
    ask(requests[2:], Model(), journal)
    ask(requests[:1], Model(), journal)
    seen = []
    ask(requests, Model(), journal, watch=lambda _, answer: seen.append(answer.text))
    assert seen == ["q2", "q0", "q1"]


def test_a_watcher_ends_the_asking_and_its_answer_is_kept(journal):
    def watch(_, answer):
        if answer.text == "q3":
            msg = "enough"
            raise DataError(msg)

    with pytest.raises(DataError):
        ask(requests_of(30), Model(), journal, watch=watch)
    assert "q3" in {answer.text for answer in journal.answers.values()}
