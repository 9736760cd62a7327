"""What all kinds of language models do: wait for a busy server, and be clear about a lost one."""

import pytest
from llm_server import llm_server

from job.core.errors import BackendError, SpecError
from job.generation.llm import openai, retries
from job.generation.llm.kinds import KINDS, open_llm
from job.generation.llm.protocol import Settings
from job.spec.generation_section import LLM_KINDS, require_llm
from job.spec.schema import DataSpec, GenerationSpec

SETTINGS = Settings(0.5, 7, 60)
MESSAGES = [{"role": "user", "content": "- natural: a question\n\nText:\ntell1 the tell2"}]
GOOD = "natural: What is the ask1 ask2?"


@pytest.fixture(params=["openai:tiny", "bedrock:amazon.tiny-v1:0"])
def ask(request, monkeypatch):
    """Ask a model of each kind at a server; returns its answer."""
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv(openai.KEY_VARIABLE, "sk")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")

    def asked(server, **fields):
        name = request.param
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", server.endpoint)
        url = server.url if name.startswith("openai:") else None
        return open_llm(name, GenerationSpec(llm=name, llm_url=url, **fields))(MESSAGES, SETTINGS)

    return asked


def first(fault, count):
    return lambda number, _: fault if number <= count else None


@pytest.mark.parametrize("fault", ["408", "429", "500", "503", "cut off", "half JSON"])
def test_a_passing_fault_is_waited_out(ask, fault):
    with llm_server(first(fault, 2)) as server:
        found = ask(server)
    assert (found.text, found.tokens_in, found.tokens_out, found.refusal) == (GOOD, 100, 50, "")
    assert len(server.requests) == 3


def test_a_silent_server_is_asked_again(ask):
    with llm_server(first("silent", 1)) as server:
        assert ask(server, timeout=0.2).text == GOOD


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [("empty", "an empty answer"), ("refusal", "I cannot help"), ("400", "fault 400")],
)
def test_a_refused_request_is_an_answer_without_a_text(ask, fault, refusal):
    with llm_server(lambda *_: fault) as server:
        found = ask(server)
    assert found.text == ""
    assert refusal in found.refusal
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "count", "parts"),
    [
        ("401", 1, []),
        ("404", 1, ["tiny"]),
        ("429", 9, ["Relaunch later: what was answered is kept."]),
        ("500", 9, ["Relaunch later: what was answered is kept."]),
        ("html", 3, ["http://127.0.0.1:"]),
        ("silent", 3, ["0.1 seconds", "generation.timeout"]),
    ],
)
def test_a_lasting_fault_ends_the_run_after_the_same_number_of_requests(ask, fault, count, parts):
    with llm_server(lambda *_: fault) as server, pytest.raises(BackendError) as caught:
        ask(server, timeout=0.1 if fault == "silent" else 30)
    assert all(part in str(caught.value) for part in parts)
    assert len(server.requests) == count


def test_a_server_that_is_not_there_is_named(ask):
    with llm_server() as server:
        pass
    with pytest.raises(BackendError, match="cannot be reached"):
        ask(server)


@pytest.mark.parametrize(("fault", "is_cut"), [(None, False), ("too long", True)])
def test_an_answer_that_the_limit_of_tokens_cut_says_so(ask, fault, is_cut):
    with llm_server(lambda *_: fault) as server:
        found = ask(server)
    assert (found.text, found.is_cut) == (GOOD, is_cut)


def test_half_an_emoji_at_the_end_of_an_answer_can_be_stored(ask):
    """The limit of tokens may cut one, and JSON can write the half that is left."""
    with llm_server(write=lambda _: "natural: Why? \ud83d") as server:
        assert ask(server).text == "natural: Why? \ufffd"


@pytest.mark.parametrize("field", ["llm", "judge"])
@pytest.mark.parametrize("name", ["gpt-4o", "openai:", "bedrok:nova", "bedrock: ", ":x"])
def test_an_unknown_kind_of_model_is_refused_with_those_that_exist(field, name):
    spec = GenerationSpec(**{"llm": "openai:m", field: name})
    with pytest.raises(SpecError) as caught:
        require_llm(DataSpec(documents="docs"), spec)
    assert all(f"`{kind}:MODEL`" in str(caught.value) for kind in KINDS)
    assert f"`generation.{field}` is `{name}`" in str(caught.value)


def test_every_kind_that_a_spec_may_name_can_be_opened():
    assert tuple(KINDS) == LLM_KINDS
