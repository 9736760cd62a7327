"""The client of OpenAI's API: patient with a busy server, clear about a wrong key."""

from dataclasses import replace

import pytest
from llm_server import llm_server

from job.core.errors import BackendError, SpecError
from job.generation.llm import openai, retries
from job.generation.llm.kinds import open_llm
from job.generation.llm.protocol import Answer, Settings
from job.spec.schema import GenerationSpec

SETTINGS = Settings(0.5, 7, 60)
MESSAGES = [{"role": "user", "content": "- natural: a question\n\nText:\ntell1 the tell2"}]
GOOD = Answer("natural: What is the ask1 ask2?", 100, 50)
SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv(openai.KEY_VARIABLE, SECRET)


def ask(server, **fields):
    spec = GenerationSpec(llm="openai:tiny", llm_url=server.url, **fields)
    return open_llm("openai:tiny", spec)(MESSAGES, SETTINGS)


def test_a_request_has_the_key_the_messages_and_the_settings():
    with llm_server() as server:
        assert ask(server) == GOOD
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    settings = {"temperature": 0.5, "seed": 7, "max_tokens": 60}
    assert body == {"model": "tiny", "messages": MESSAGES, **settings}


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("401", ["EMBEDTUNE_LLM_KEY", "is wrong"]),
        ("404", ["HTTP 404", "`tiny`"]),
        ("429", ["HTTP 429"]),
        ("html", ["<html>nothing here</html>", "--llm-url"]),
    ],
)
def test_a_lasting_fault_ends_the_run_and_shows_no_key(fault, parts):
    with llm_server(lambda *_: fault) as server, pytest.raises(BackendError) as caught:
        ask(server)
    assert all(part in str(caught.value) for part in parts)
    assert SECRET not in str(caught.value)


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv(openai.KEY_VARIABLE)
    with (
        llm_server(lambda *_: "401") as server,
        pytest.raises(BackendError, match="`EMBEDTUNE_LLM_KEY` is not set"),
    ):
        ask(server)


@pytest.mark.parametrize("key", ["…", "sk-one\nsk-two", "sk one"])
def test_a_key_that_no_header_can_contain_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv(openai.KEY_VARIABLE, f"sk-secret{key}")
    with llm_server() as server, pytest.raises(SpecError, match="EMBEDTUNE_LLM_KEY") as caught:
        ask(server)
    assert server.requests == []
    assert "sk-" not in str(caught.value)


def test_a_line_break_after_the_key_is_not_sent(monkeypatch):
    monkeypatch.setenv(openai.KEY_VARIABLE, f"{SECRET}\n")
    with llm_server() as server:
        ask(server)
    assert server.requests[0][1]["Authorization"] == f"Bearer {SECRET}"


def test_a_key_that_the_server_repeats_is_not_shown():
    said = f"Wrong request with Bearer {SECRET}."
    with llm_server(lambda *_: "400", error=said) as server:
        refusal = ask(server).refusal
    assert "Wrong request with Bearer (the key)." in refusal
    assert SECRET not in refusal


@pytest.mark.parametrize(
    ("said", "refused", "sent"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_tokens",
            {"temperature": 0.5, "seed": 7, "max_completion_tokens": 60},
        ),
        (
            "Unsupported value: 'temperature' does not support 0.5 with this model.",
            "temperature",
            {"seed": 7, "max_tokens": 60},
        ),
    ],
)
def test_a_setting_that_the_model_does_not_take_is_sent_once(said, refused, sent):
    with llm_server(lambda _, body: "400" if refused in body else None, error=said) as server:
        spec = GenerationSpec(llm="openai:tiny", llm_url=server.url)
        model = open_llm("openai:tiny", spec)
        answers = [model(MESSAGES, SETTINGS) for _ in range(2)]
    without = ("temperature",) if refused == "temperature" else ()
    assert answers == [replace(GOOD, without=without)] * 2
    bodies = [body for _, _, body in server.requests]
    assert len(bodies) == 3
    assert bodies[1] == bodies[2] == {"model": "tiny", "messages": MESSAGES, **sent}
