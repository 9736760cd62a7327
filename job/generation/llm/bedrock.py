"""Ask a model of Amazon Bedrock by its API `Converse`, with the credentials of the AWS session."""

import re
from collections.abc import Callable
from typing import Any

from job.core.errors import BackendError, first_line, translated
from job.data.formats.values import encodable
from job.generation.llm import bedrock_errors
from job.generation.llm.protocol import REFUSED, Answer, Ask, Messages, Settings
from job.generation.llm.retries import BUSY, CUT_ATTEMPTS, new_retries
from job.runtime.logs import warn
from job.spec.schema import GenerationSpec
from job.storage.aws_session import shared_session

# Converse knows no seed.
UNKNOWN = frozenset({"seed"})
# What Bedrock, or a model behind it, says of a temperature that the model does not take.
NO_TEMPERATURE = re.compile(
    r"(?i)\btemperature\b.*(deprecated|unsupported|not support|n.t support|not permitted)"
    r"|(unsupported|extraneous|n.t support).*\btemperature\b"
)
# Reasons to stop that leave no answer, and those that leave half an answer.
BLOCKED = ("content_filtered", "guardrail_intervened")
CUT = ("max_tokens", "model_context_window_exceeded")
# Answers about a single request, and a fault of the model while it answered.
REFUSALS = (400, 413, 422, 424)

Response = dict[str, Any]


def open_model(name: str, spec: GenerationSpec) -> Ask:
    """Return the function that asks a model: an id, that of an inference profile, or an ARN."""
    with translated(lambda error: bedrock_errors.explain(error, name, "", spec.timeout)):
        client = _client(name, spec)
    region = client.meta.region_name
    without = set(UNKNOWN)

    def send(messages: Messages, settings: Settings) -> Response:
        while True:
            request = _request(name, messages, settings, without)
            try:
                return _patiently(client.converse, request)
            except Exception as error:
                is_sent = "temperature" in request["inferenceConfig"]
                if not (is_sent and NO_TEMPERATURE.search(bedrock_errors.message(error))):
                    raise
                if "temperature" not in without:
                    warn("generate", f"`bedrock:{name}` takes no temperature; asked without it")
                without.add("temperature")

    def ask(messages: Messages, settings: Settings) -> Answer:
        from botocore.exceptions import ClientError
        from botocore.parsers import ResponseParserError

        with translated(lambda error: bedrock_errors.explain(error, name, region, spec.timeout)):
            for _ in range(CUT_ATTEMPTS):
                try:
                    return _read(send(messages, settings), without)
                except ClientError as error:
                    if not _is_about_one_request(error):
                        raise
                    said = bedrock_errors.message(error)
                    return Answer("", refusal=f"{REFUSED}{bedrock_errors.status(error)}: {said}")
                except (ResponseParserError, KeyError):
                    # Cut off, or not from Bedrock.
                    continue
        msg = f"`{client.meta.endpoint_url}` does not answer like Amazon Bedrock. Check "
        raise BackendError(msg + "AWS_ENDPOINT_URL_BEDROCK_RUNTIME, AWS_ENDPOINT_URL and proxies.")

    return ask


def _client(name: str, spec: GenerationSpec) -> Any:  # noqa: ANN401  boto3 makes it at run time
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    config = Config(
        connect_timeout=spec.timeout,
        read_timeout=spec.timeout,
        max_pool_connections=spec.concurrency,
        # Repeated here, as patiently as with other kinds of models.
        retries={"total_max_attempts": 1},
    )
    # An ARN contains its region: arn:aws:bedrock:REGION:ACCOUNT:inference-profile/ID
    region = (name.split(":") + [""] * 4)[3] if name.startswith("arn:") else ""
    session = shared_session(region=region or None)
    try:
        return session.client("bedrock-runtime", config=config)
    except InvalidRegionError:
        raise
    except ValueError as error:
        msg = f"The endpoint of Amazon Bedrock is not a URL ({first_line(error)}). Set "
        raise BackendError(msg + "AWS_ENDPOINT_URL_BEDROCK_RUNTIME to `https://…`.") from None


def _request(name: str, messages: Messages, settings: Settings, without: set[str]) -> Response:
    config = {"maxTokens": settings.max_tokens, "temperature": settings.temperature}
    turns, system = [], []
    for each in messages:
        content = {"text": each["content"]}
        if each["role"] == "system":
            system.append(content)
        else:
            turns.append({"role": each["role"], "content": [content]})
    request: Response = {"modelId": name, "messages": turns}
    request["inferenceConfig"] = {k: value for k, value in config.items() if k not in without}
    return request | ({"system": system} if system else {})


def _patiently(converse: Callable[..., Response], request: Response) -> Response:
    """Call Bedrock until it answers, as often as a busy server is asked; raise its last error."""
    from urllib3.exceptions import MaxRetryError

    retries = new_retries()
    while True:
        try:
            return converse(**request)
        except Exception as error:
            if not _is_passing(error):
                raise
            try:
                retries = retries.increment("POST", "converse", error=_counted(error))
            except MaxRetryError:
                raise error from None
        retries.sleep()


def _is_passing(error: Exception) -> bool:
    # A quota of a day lasts longer than anybody waits.
    is_busy = bedrock_errors.status(error) in BUSY and not bedrock_errors.is_daily_quota(error)
    return is_busy or _counted(error) is not error


def _counted(error: Exception) -> Exception:
    """Return what urllib3 calls an error: it counts lost connections and lost answers apart."""
    from botocore import exceptions as botocore
    from urllib3.exceptions import ConnectTimeoutError, ProtocolError

    if isinstance(error, botocore.ConnectionError):
        return ConnectTimeoutError()
    if isinstance(error, (botocore.HTTPClientError, botocore.IncompleteReadError)):
        return ProtocolError()
    return error


def _is_about_one_request(error: Exception) -> bool:
    """Whether an answer to other messages may follow."""
    return bedrock_errors.status(error) in REFUSALS and bedrock_errors.remedy(error) is None


def _read(response: Response, without: set[str]) -> Answer:
    reason, usage = response["stopReason"], response.get("usage") or {}
    blocks = response["output"]["message"]["content"]
    # Blocks without a text contain what the model thought.
    text = encodable("".join(block.get("text", "") for block in blocks))
    refusal = "" if text else f"an empty answer (`stopReason` {reason})"
    if reason in BLOCKED:
        # The text is that of a guardrail, not of the model.
        text, refusal = "", f"`stopReason` {reason}: {text}"
    read, written = (int(usage.get(f"{kind}Tokens") or 0) for kind in ("input", "output"))
    return Answer(text, read, written, refusal, reason in CUT, tuple(sorted(without)))
