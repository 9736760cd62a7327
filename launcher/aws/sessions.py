"""The caller's AWS account: its session and clients, and each refusal in one line."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError, translated

if TYPE_CHECKING:
    import boto3

ATTEMPTS = 5
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
LOG_IN = "log in again: `aws sso login`, or however you get your credentials"
UNKNOWN_KEY = "AWS does not know these credentials; check them by `aws sts get-caller-identity`"
BUSY = "AWS asks for fewer requests, and went on doing so; try again in a minute"

EXPIRED = {
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "SSOTokenLoadError",
    "TokenRefreshRequired", "UnauthorizedSSOTokenError",
}  # fmt: skip
DENIED = {
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation",
    # Where the answer has no body (S3's HEAD), its code is the status.
    "403",
}  # fmt: skip
NO_BUCKET = ("404", "NoSuchBucket")
UNKNOWN_KEYS = {
    "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
THROTTLED = {
    "RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException",
    "TooManyRequestsException",
}  # fmt: skip


def open_session(profile: str | None = None, region: str | None = None) -> "boto3.Session":
    """Open a session; raises `BackendError` without such a profile, or without any region."""
    import boto3
    from botocore.exceptions import BotoCoreError, ProfileNotFound
    from botocore.session import Session

    # The AWS CLI and the other SDKs go by AWS_REGION; boto3 alone does not know it.
    region = region or os.environ.get("AWS_REGION")
    try:
        session = boto3.Session(profile_name=profile, region_name=region)
        found = session.region_name
    except ProfileNotFound as error:
        # Of botocore: boto3's own session would fail by the same profile.
        known = ", ".join(f"`{name}`" for name in sorted(Session().available_profiles)) or "none"
        msg = f"{str(error).rstrip('.')}; there are {known}. Set `--profile` or AWS_PROFILE."
        raise BackendError(msg) from None
    except BotoCoreError as error:
        msg = f"The AWS settings cannot be used: {flat(error)}."
        raise BackendError(msg) from None
    if not found:
        msg = "No AWS region is set: give `--region us-east-1`, or set AWS_REGION or the profile's."
        raise BackendError(msg)
    return session


def use(profile: str | None, region: str) -> None:
    """Lead everything in this process that asks AWS by itself, S3's client above all, there."""
    if profile:
        os.environ["AWS_PROFILE"] = profile
        # boto3 would prefer keys of the environment, which may be another account's.
        for key in KEYS:
            os.environ.pop(key, None)
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = region


def client(session: "boto3.Session", service: str, region: str | None = None) -> Any:  # noqa: ANN401
    """Open a client, whose class boto3 makes at run time; AWS_ENDPOINT_URL leads it elsewhere."""
    # boto3's stubs know each service by a literal of its name alone.
    return _opened(session, session.client, service, region)


def resource(session: "boto3.Session", service: str) -> Any:  # noqa: ANN401
    """Open one of boto3's resources, with their collections."""
    return _opened(session, session.resource, service, None)


def _opened(session: "boto3.Session", maker: Any, service: str, region: str | None) -> Any:  # noqa: ANN401
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    config = Config()
    # What the environment or the profile says of it stays as it is.
    if session._session.get_config_variable("max_attempts") is None:
        config = Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"})
    with explained(f"opening AWS's service `{service}`"):
        try:
            return maker(service, region_name=region, config=config)
        except InvalidRegionError:
            raise
        except ValueError as error:
            msg = f"The AWS endpoint is no address ({error}); AWS_ENDPOINT_URL needs `http://…`."
            raise BackendError(msg) from None


def listed(client: Any, operation: str, members: str, **asked: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield what the pages of an answer list as their `members`."""
    for page in client.get_paginator(operation).paginate(**asked):
        yield from page[members]


def explained(doing: str) -> AbstractContextManager[None]:
    """Turn what botocore raises into one line: what was tried, as in `reading the stack X`."""
    return translated(partial(_expected, f"{doing[:1].upper()}{doing[1:]} failed"))


def _expected(what: str, error: Exception) -> BackendError | None:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        reason = _refusal(error)
    elif isinstance(error, BotoCoreError):
        reason = _accident(error)
    elif isinstance(error, ResponseParserError):
        reason = "what answered is not AWS; check AWS_ENDPOINT_URL, the region and any proxy"
    else:
        return None
    return BackendError(f"{what}: {reason}.")


def error_code(error: Exception) -> str:
    """Return the code of a `ClientError`, and of any other error the name of its class."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def error_message(error: Exception) -> str:
    """Return what AWS said, on one line and without its full stop."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return flat(response.get("Error", {}).get("Message") or error)


def _refusal(error: Any) -> str:  # noqa: ANN401  a ClientError, which loads late
    code = error_code(error)
    if code in EXPIRED:
        return f"the credentials have expired; {LOG_IN}"
    if code in DENIED:
        return _denial(error)
    if code in UNKNOWN_KEYS:
        # The message would repeat parts of the signature.
        return f"{UNKNOWN_KEY} ({code})"
    if code in THROTTLED:
        return f"{BUSY} ({code})"
    return f"AWS says {error_message(error)} ({code})"


def _denial(error: Any) -> str:  # noqa: ANN401
    """Name the missing right: AWS tells it, but for S3, which leaves the operation."""
    told = re.search(r"not authorized to perform:? \[?([\w-]+:\w+)", error_message(error))
    action = told[1] if told else error.operation_name
    return (
        f"these credentials lack the right to `{action}` ({error_code(error)}); "
        "`embedtune doctor` shows whose they are and what launching needs"
    )


def _accident(error: Exception) -> str:
    from botocore import exceptions as botocore

    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
        return (
            "no AWS credentials were found; log in (`aws sso login`), or set AWS_PROFILE, "
            "`--profile`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    lost = (botocore.SSOError, botocore.LoginError, botocore.TokenRetrievalError)
    if isinstance(error, lost):
        return f"the login has expired or is missing; {LOG_IN} ({type(error).__name__})"
    if isinstance(error, botocore.CredentialRetrievalError):
        return f"the credentials could not be fetched ({flat(error)}); {LOG_IN}"
    if isinstance(error, (botocore.ConnectionError, botocore.HTTPClientError)):
        return f"AWS does not answer ({flat(error)}); check the region and the network"
    return f"{flat(error)} ({type(error).__name__})"


def flat(said: object) -> str:
    return " ".join(str(said).split()).rstrip(".")[:600]
