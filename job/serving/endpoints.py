"""Clients of embedding servers: texts in, vectors out, by the protocol of each kind."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from job.core.errors import BackendError, SpecError, first_line

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

FloatArray = npt.NDArray[np.float32]
# Send a request body, get the body of the answer.
Send = Callable[[bytes], bytes]
SAGEMAKER = "sagemaker:"
KEY_VARIABLE = "EMBEDTUNE_ENDPOINT_KEY"
# Where servers answer, by preference: text-embeddings-inference answers at the first two.
PATHS = {"/embed": "tei", "/v1/embeddings": "openai", "/embeddings": "openai"}
KINDS = {"tei": "text-embeddings-inference", "openai": "OpenAI-compatible"}
# Answers that mean "try again": too many requests, not ready.
BUSY = (429, 503)
RETRIES = 5
# Characters of an unexpected answer to show.
SHOWN = 120


class Refused(Exception):
    """The server refused a request as invalid: too long a text, an unsupported dimension."""


@dataclass(frozen=True)
class Endpoint:
    """An embedding server of a kind of `KINDS`; `dtype` is what it says that it computes in."""

    target: str
    kind: str
    send: Send
    model: str | None = None
    dtype: str | None = None

    @property
    def names_prompts(self) -> bool:
        """Whether the server puts a named prompt before texts; otherwise the client puts it."""
        return self.kind == "tei"

    def embed(
        self, texts: Sequence[str], prompt_name: str | None = None, dimensions: int | None = None
    ) -> FloatArray:
        """Return the vectors of texts, (n, width); values that are no numbers are NaN."""
        try:
            return self.ask(texts, prompt_name, dimensions)
        except Refused as refusal:
            raise BackendError(str(refusal)) from None

    def ask(
        self, texts: Sequence[str], prompt_name: str | None = None, dimensions: int | None = None
    ) -> FloatArray:
        """Do as `embed`, but raise `Refused` where the server refuses the texts or dimensions."""
        request: dict[str, Any]
        if self.kind == "tei":
            request = {"inputs": list(texts), "truncate": True, "prompt_name": prompt_name}
        else:
            request = {"input": list(texts), "model": self.model, "encoding_format": "float"}
        request["dimensions"] = dimensions
        given = {name: value for name, value in request.items() if value is not None}
        return self._read(self.send(json.dumps(given).encode("utf-8")), len(texts))

    def _read(self, answer: bytes, count: int) -> FloatArray:
        try:
            rows = json.loads(answer)
            if self.kind == "openai":
                in_order = sorted(rows["data"], key=lambda row: row["index"])
                rows = [row["embedding"] for row in in_order]
            # JSON has no NaN: servers write null.
            vectors = np.array(rows, dtype=np.float32)
        except (ValueError, TypeError, LookupError, AttributeError):
            vectors = np.empty(0, np.float32)
        if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
            shown = answer[:SHOWN].decode("utf-8", "replace")
            msg = f"`{self.target}` answered {count} texts with something other than {count} "
            msg += f"vectors: `{shown}`. Check the address, and `--kind` ({' or '.join(KINDS)})."
            raise BackendError(msg)
        return vectors


def open_endpoint(
    target: str, kind: str | None, model: str | None, key: str | None, seconds: float
) -> Endpoint:
    """Return the client of a URL or of `sagemaker:NAME`; find out kind and model if not given.

    `key` is sent as a bearer token; `seconds` is the time limit of a request.
    """
    if target.startswith(SAGEMAKER):
        name = target.removeprefix(SAGEMAKER)
        return Endpoint(target, kind or "tei", _sagemaker(name, seconds), model)
    if urlsplit(target).scheme not in ("http", "https"):
        msg = f"`--endpoint` is `{target}`; expected http://…, https://… or {SAGEMAKER}NAME."
        raise SpecError(msg)
    http = _Http(key, seconds)
    url, kind = _located(http, target.rstrip("/"), kind)
    base = url.rpartition("/")[0]
    if kind == "openai":
        served = model or _first_model(http.look_up(f"{base}/models"))
        return Endpoint(url, kind, http.sender(url), served)
    dtype = (http.look_up(f"{base}/info") or {}).get("model_dtype")
    return Endpoint(url, kind, http.sender(url), model, dtype)


def _located(http: "_Http", url: str, kind: str | None) -> tuple[str, str]:
    """Return where the server embeds, and its kind."""
    for path, of_path in PATHS.items():
        if url.endswith(path):
            return url, kind or of_path
    for path, of_path in PATHS.items():
        if kind in (None, of_path) and http.exists(url + path):
            return url + path, of_path
    tried = ", ".join(path for path, of_path in PATHS.items() if kind in (None, of_path))
    msg = f"`{url}` embeds nowhere that we know (tried {tried}). Name the whole URL in "
    raise BackendError(msg + "`--endpoint`, and its protocol in `--kind`.")


def _first_model(answer: Any) -> str | None:  # noqa: ANN401  JSON
    try:
        return str(answer["data"][0]["id"])
    except (TypeError, LookupError):
        return None


class _Http:
    def __init__(self, key: str | None, seconds: float) -> None:
        import urllib3

        self.seconds = seconds
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        retry = urllib3.Retry(
            connect=0,
            read=0,
            redirect=0,
            status=RETRIES,
            status_forcelist=BUSY,
            allowed_methods=None,
            backoff_factor=0.2,
            raise_on_status=False,
            raise_on_redirect=False,
        )
        self.pool: PoolManager = urllib3.PoolManager(timeout=seconds, retries=retry)

    def _request(self, method: str, url: str, body: bytes | None = None) -> "BaseHTTPResponse":
        from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError

        try:
            return self.pool.request(method, url, body=body, headers=self.headers)
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            if isinstance(cause, ReadTimeoutError):
                msg = f"`{url}` did not answer within {self.seconds:g} seconds (`--timeout`)."
            else:
                msg = f"`{url}` cannot be reached: {first_line(cause or error)}. Is it running?"
            raise BackendError(msg) from None

    def look_up(self, url: str) -> Any:  # noqa: ANN401  JSON
        """Return a JSON document, or None if there is none."""
        answer = self._request("GET", url)
        try:
            return json.loads(answer.data) if answer.status == 200 else None
        except ValueError:
            return None

    def exists(self, url: str) -> bool:
        # Without a body, a server that knows the path complains about the body.
        return self._request("POST", url, b"{}").status not in (404, 405)

    def sender(self, url: str) -> Send:
        def send(body: bytes) -> bytes:
            answer = self._request("POST", url, body)
            if answer.status != 200:
                said = " ".join(answer.data.decode("utf-8", "replace").split())[:SHOWN]
                msg = f"`{url}` answered with HTTP {answer.status}: {said or 'no text'}."
                # 401 and 403 are about the key, 404 about the address, not about the texts.
                is_refusal = answer.status in (400, 413, 422)
                raise (Refused if is_refusal else BackendError)(msg)
            return answer.data

        return send


def _sagemaker(name: str, seconds: float) -> Send:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        runtime = boto3.client("sagemaker-runtime", config=Config(read_timeout=seconds))
    except BotoCoreError as error:
        msg = f"The endpoint `{name}` cannot be reached: {first_line(error)}."
        raise BackendError(msg) from None

    def send(body: bytes) -> bytes:
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=name, ContentType="application/json", Body=body
            )
            return bytes(answer["Body"].read())
        except ClientError as error:
            status = error.response.get("OriginalStatusCode")
            msg = f"The endpoint `{name}` refused a request: {first_line(error)}."
            raise (Refused if status in (400, 413, 422) else BackendError)(msg) from None
        except BotoCoreError as error:
            msg = f"The endpoint `{name}` cannot be reached: {first_line(error)}."
            raise BackendError(msg) from None

    return send
