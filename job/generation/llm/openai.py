"""Ask a model behind an API like OpenAI's: vLLM, Ollama, llama.cpp, a gateway, OpenAI itself."""

import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError, SpecError, first_line
from job.data.formats.values import encodable
from job.generation.llm.protocol import REFUSED, Answer, Ask, Messages, Settings
from job.generation.llm.retries import BUSY, CUT_ATTEMPTS, LATER, new_retries
from job.runtime.logs import warn
from job.spec.schema import GenerationSpec

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

OPENAI = "https://api.openai.com/v1"
KEY_VARIABLE = "EMBEDTUNE_LLM_KEY"
# Answers about a single request: an answer to other messages may follow.
REFUSALS = (400, 413, 422)
# Characters of an unexpected answer to show.
SHOWN = 160
# What a server says of a setting that its model does not take, and the name to send instead;
# None leaves it out. OpenAI's reasoning models take no temperature and no `max_tokens`.
UNSUPPORTED = re.compile(rb"(?i)unsupported|not supported|unrecognized|not permitted")
INSTEAD = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}


def open_model(name: str, spec: GenerationSpec) -> Ask:
    """Return the function that asks the model `name` of the API at `generation.llm_url`."""
    base = (spec.llm_url or OPENAI).rstrip("/").removesuffix("/chat/completions")
    url = f"{base}/chat/completions"
    post = _poster(url, name, spec)
    refused: set[str] = set()

    def send(messages: Messages, settings: Settings) -> "BaseHTTPResponse":
        while True:
            facts = {(INSTEAD[k] if k in refused else k): v for k, v in settings.facts().items()}
            facts.pop(None, None)
            body = {"model": name, "messages": list(messages), **facts}
            answer = post(json.dumps(body).encode("utf-8"))
            if (why := _unsupported(answer)) not in facts:
                return answer
            if INSTEAD[str(why)] is None and why not in refused:
                warn("generate", f"`openai:{name}` takes no `{why}`, and is asked without it")
            refused.add(str(why))

    def ask(messages: Messages, settings: Settings) -> Answer:
        for _ in range(CUT_ATTEMPTS):
            answer = send(messages, settings)
            if answer.status in REFUSALS:
                return Answer("", refusal=f"{REFUSED}{answer.status}: {_shown(answer.data)}")
            try:
                return _read(json.loads(answer.data), refused)
            except (ValueError, TypeError, LookupError, AttributeError):
                # Cut off, or not from such an API.
                continue
        msg = f"`{url}` answered with something other than a completion: `{_shown(answer.data)}`. "
        raise BackendError(msg + "Check `generation.llm_url` (`--llm-url`), which ends in `/v1`.")

    return ask


def _read(document: Any, refused: set[str]) -> Answer:  # noqa: ANN401  JSON
    choice = document["choices"][0]
    reason = choice.get("finish_reason")
    message, usage = choice["message"], document.get("usage") or {}
    text, refusal = (encodable(str(message.get(key) or "")) for key in ("content", "refusal"))
    if not text and not refusal:
        refusal = f"an empty answer (`finish_reason` {reason})"
    read, written = (int(usage.get(f"{kind}_tokens") or 0) for kind in ("prompt", "completion"))
    without = tuple(name for name in INSTEAD if INSTEAD[name] is None and name in refused)
    return Answer(text, read, written, "" if text else refusal, reason == "length", without)


def _unsupported(answer: "BaseHTTPResponse") -> str | None:
    """Return the setting of a request that the model does not take; None if it is no such answer.

    The server's sentence may also name the setting to send instead, which contains no other one.
    """
    if answer.status not in REFUSALS or not UNSUPPORTED.search(answer.data):
        return None
    return next((name for name in INSTEAD if re.search(rf"\b{name}\b".encode(), answer.data)), None)


def _shown(answer: bytes) -> str:
    """Return the start of an answer; some servers repeat the key that they got."""
    text = " ".join(answer.decode("utf-8", "replace").split())
    if key := _key():
        text = text.replace(key, "(the key)")
    return text[:SHOWN] or "no text"


def _key() -> str:
    """Return the key, or an empty text; raise `SpecError` if no header can contain it."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        msg = f"The environment variable `{KEY_VARIABLE}` contains characters that no key has: a "
        raise SpecError(
            msg + "space, a line break, a letter outside ASCII, or `…` from an example."
        )
    return key


def _poster(url: str, name: str, spec: GenerationSpec) -> "Callable[[bytes], BaseHTTPResponse]":
    """Return a function that posts a body, and tries again as long as the server asks for it."""
    import urllib3
    from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError

    headers = {"Content-Type": "application/json"}
    if key := _key():
        headers["Authorization"] = f"Bearer {key}"
    retries = new_retries()
    pool = urllib3.PoolManager(maxsize=spec.concurrency, timeout=spec.timeout, retries=retries)

    def post(body: bytes) -> "BaseHTTPResponse":
        try:
            answer = pool.request("POST", url, body=body, headers=headers)
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            if isinstance(cause, ReadTimeoutError):
                msg = f"`{url}` did not answer within {spec.timeout:g} seconds, several times. Set "
                raise BackendError(msg + "`generation.timeout` or `concurrency`.") from None
            msg = f"`{url}` cannot be reached: {first_line(cause or error)}. Is it running?"
            raise BackendError(msg) from None
        if answer.status in (401, 403):
            state = "is wrong" if key else "is not set"
            msg = (
                f"`{url}` answered with HTTP {answer.status}: the key in the environment variable "
            )
            msg += f"`{KEY_VARIABLE}` {state}, or may not use `{name}`."
            raise BackendError(msg)
        if answer.status != 200 and answer.status not in REFUSALS:
            msg = f"`{url}` answered with HTTP {answer.status}: {_shown(answer.data)}. "
            again = LATER if answer.status in BUSY else ""
            raise BackendError(msg + (again or f"Does it serve `{name}`?"))
        return answer

    return post
