"""What all kinds of language models do: each request gets its answer, counted and kept once."""

from functools import partial

import pytest
from llm_server import llm_server
from tiny_writers import build_writer

from job.core.errors import DataError
from job.generation.answers import read_grade, read_questions
from job.generation.asking import ask_all
from job.generation.budget import Budget, Tokens
from job.generation.journal import Journal, Request
from job.generation.llm import local
from job.generation.llm.kinds import open_llm
from job.generation.llm.protocol import Settings
from job.model.device import Machine
from job.spec.schema import GenerationSpec, ModelSpec

COUNT = 10


def write(prompt):
    if prompt.startswith("Grade"):
        return "5"
    return f"natural: How do I use {prompt.split()[-1]} today?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_writer(tmp_path_factory.mktemp("writer"))


@pytest.fixture(params=["openai", "local"])
def model(request, folder):
    """Return a model that writes about the last word of a prompt, and the section of the spec."""
    if request.param == "openai":
        with llm_server(write=write) as server:
            spec = GenerationSpec(llm="openai:tiny", llm_url=server.url, concurrency=3)
            yield open_llm("openai:tiny", spec), spec
        return
    spec = GenerationSpec(llm=f"local:{folder}", batch_size=3)
    opened = open_llm(f"local:{folder}", spec)
    machine = Machine("cpu", "float32", "")
    opened.load_with(partial(local.load, ModelSpec(base=str(folder)), folder, machine))
    yield opened, spec


def requests_of(spec, prompts):
    for number, prompt in enumerate(prompts):
        messages = [{"role": "user", "content": prompt}]
        yield Request(spec.llm, f"c{number}", messages, Settings(0.7, number, 20))


def test_each_request_gets_its_answer_and_counts_once(model, tmp_path):
    ask, spec = model
    requests = [*requests_of(spec, [f"Write about thing{number}" for number in range(COUNT)])]
    journal, budget = Journal(tmp_path / "journal.jsonl", {}), Budget(spec)
    assert ask_all(requests, ask, journal, budget, spec.concurrency)
    for number, request in enumerate(requests):
        (question,) = read_questions(journal.answers[request.key].text, ("natural",))
        assert question.text == f"How do I use thing{number} today?"
    answers = journal.answers.values()
    counts = Tokens(sum(a.tokens_in for a in answers), sum(a.tokens_out for a in answers))
    assert budget.tokens == counts
    assert min(counts.read, counts.written) >= COUNT
    again = Budget(spec)
    assert ask_all(requests, pytest.fail, Journal(tmp_path / "journal.jsonl", {}), again, 3)
    assert again.tokens == counts


def test_a_grade_is_read(model, tmp_path):
    ask, spec = model
    (request,) = requests_of(spec, ["Grade how well the text answers about thing3"])
    journal = Journal(tmp_path / "journal.jsonl", {})
    ask_all([request], ask, journal, Budget(spec), 1)
    assert read_grade(journal.answers[request.key].text) == 5


def test_a_watcher_ends_the_asking_and_its_answer_is_kept(model, tmp_path):
    def watch(_, answer):
        if "thing4 " in answer.text:
            msg = "enough"
            raise DataError(msg)

    ask, spec = model
    requests = [*requests_of(spec, [f"Write about thing{number}" for number in range(COUNT)])]
    path = tmp_path / "journal.jsonl"
    with pytest.raises(DataError, match="enough"):
        ask_all(requests, ask, Journal(path, {}), Budget(spec), spec.concurrency, watch)
    kept = [answer.text for answer in Journal(path, {}).answers.values()]
    assert "thing4 " in kept[-1]
    assert len(kept) < COUNT
