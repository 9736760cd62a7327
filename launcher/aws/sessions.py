"""AWS sessions and clients, and AWS errors turned into one-line `BackendError`s."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from job.core.errors import BackendError, translated
from job.storage.aws_session import KEYS, shared_session

if TYPE_CHECKING:
    import boto3

ATTEMPTS = 5
# The key of a command's `--profile` in Click's context.
CHOSEN = "embedtune.profile"
LOG_IN = "log in again: `aws sso login`, or the way you usually get credentials"
UNKNOWN_KEY = "AWS does not accept these credentials; check `aws sts get-caller-identity`"
BUSY = "AWS throttled the request, and all retries as well; try again in a minute"

EXPIRED = {
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "SSOTokenLoadError",
    "TokenRefreshRequired", "UnauthorizedSSOTokenError",
}  # fmt: skip
DENIED = {
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation",
    # If the response has no body (S3's HEAD), the HTTP status is the code.
    "403",
}  # fmt: skip
NO_BUCKET = ("404", "NoSuchBucket")
NO_KEY = ("404", "NoSuchKey", "NotFound")
UNKNOWN_KEYS = {
    "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
THROTTLED = {
    "RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException",
    "TooManyRequestsException",
}  # fmt: skip


def open_session(profile: str | None = None, region: str | None = None) -> "boto3.Session":
    """Return the session of a profile and region, one for the whole process.

    Raises `BackendError` if the profile is unknown or no region is set.
    """
    from botocore.exceptions import BotoCoreError, ProfileNotFound
    from botocore.session import Session

    profile = chosen_profile() or profile
    try:
        session = shared_session(profile, region)
        found = session.region_name
    except ProfileNotFound as error:
        # botocore's session, since boto3's would fail with the same error.
        known = ", ".join(f"`{name}`" for name in sorted(Session().available_profiles)) or "none"
        msg = f"{str(error).rstrip('.')}; known profiles: {known}. Set `--profile` or AWS_PROFILE."
        raise BackendError(msg) from None
    except BotoCoreError as error:
        msg = f"The AWS settings are invalid: {one_line(error)}."
        raise BackendError(msg) from None
    if not found:
        msg = "No AWS region is set: use `--region us-east-1`, AWS_REGION or the profile's region."
        raise BackendError(msg)
    return session


def choose_account(profile: str | None, region: str | None) -> None:
    """Use a command's `--profile` and `--region`; this profile wins over that of a launch."""
    if profile:
        click.get_current_context().meta[CHOSEN] = profile
    set_environment(profile, region)


def chosen_profile() -> str | None:
    context = click.get_current_context(silent=True)
    return context.meta.get(CHOSEN) if context else None


def set_environment(profile: str | None, region: str | None) -> None:
    """Set profile and region for all code in this process that opens its own AWS clients."""
    if profile := chosen_profile() or profile:
        os.environ["AWS_PROFILE"] = profile
        # boto3 would prefer keys in the environment, which may belong to another account.
        for key in KEYS:
            os.environ.pop(key, None)
    if region:
        os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = region


def partition(session: "boto3.Session") -> str:
    """Return `aws`, `aws-cn`, `aws-us-gov` …; `aws` for a region that botocore does not know."""
    from botocore.exceptions import UnknownRegionError

    try:
        return str(session.get_partition_for_region(session.region_name))
    except UnknownRegionError:
        return "aws"


def client(session: "boto3.Session", service: str, region: str | None = None) -> Any:  # noqa: ANN401
    """Open a client; boto3 builds its class at run time, hence `Any`."""
    # boto3's type stubs accept only literal service names.
    return _open(session, session.client, service, region)


def resource(session: "boto3.Session", service: str) -> Any:  # noqa: ANN401
    """Open a boto3 resource."""
    return _open(session, session.resource, service, None)


def _open(session: "boto3.Session", factory: Any, service: str, region: str | None) -> Any:  # noqa: ANN401
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    config = Config()
    # AWS_MAX_ATTEMPTS and the profile's `max_attempts` win.
    if session._session.get_config_variable("max_attempts") is None:
        config = Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"})
    with translate_errors(f"opening the AWS service `{service}`"):
        try:
            return factory(service, region_name=region, config=config)
        except InvalidRegionError:
            raise
        except ValueError as error:
            msg = f"AWS_ENDPOINT_URL is not a valid URL ({error}); expected `http://…`."
            raise BackendError(msg) from None


def paginate(client: Any, operation: str, members: str, **query: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the items of the response field `members`, page by page."""
    for page in client.get_paginator(operation).paginate(**query):
        yield from page[members]


def translate_errors(action: str) -> AbstractContextManager[None]:
    """Raise botocore's errors as `BackendError`; `action` reads like `reading the stack X`."""
    return translated(partial(_to_backend_error, f"{action[:1].upper()}{action[1:]} failed"))


def _to_backend_error(what: str, error: Exception) -> BackendError | None:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        reason = _refusal_reason(error)
    elif isinstance(error, BotoCoreError):
        reason = _client_side_reason(error)
    elif isinstance(error, ResponseParserError):
        reason = "the response is not from AWS; check AWS_ENDPOINT_URL, the region and any proxy"
    else:
        return None
    return BackendError(f"{what}: {reason}.")


def error_code(error: Exception) -> str:
    """Return the code of a `ClientError`; for other errors, the class name."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def error_message(error: Exception) -> str:
    """Return AWS's error message on one line, without the full stop."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return one_line(response.get("Error", {}).get("Message") or error)


def _refusal_reason(error: Any) -> str:  # noqa: ANN401  a ClientError, imported lazily
    code = error_code(error)
    if code in EXPIRED:
        return f"the credentials have expired; {LOG_IN}"
    if code in DENIED:
        return _missing_permission(error)
    if code in UNKNOWN_KEYS:
        # AWS's message would repeat parts of the signature.
        return f"{UNKNOWN_KEY} ({code})"
    if code in THROTTLED:
        return f"{BUSY} ({code})"
    return f"AWS reports: {error_message(error)} ({code})"


def _missing_permission(error: Any) -> str:  # noqa: ANN401
    """Name the missing permission: from AWS's message or, for S3, the operation's name."""
    found = re.search(r"not authorized to perform:? \[?([\w-]+:\w+)", error_message(error))
    action = found[1] if found else error.operation_name
    return (
        f"these credentials lack the permission `{action}` ({error_code(error)}); "
        "`embedtune doctor` shows the identity and what a launch needs"
    )


def _client_side_reason(error: Exception) -> str:
    from botocore import exceptions as botocore

    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
        return (
            "no AWS credentials found; log in (`aws sso login`), or set AWS_PROFILE, "
            "`--profile`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    lost = (botocore.SSOError, botocore.LoginError, botocore.TokenRetrievalError)
    if isinstance(error, lost):
        return f"the login has expired or is missing; {LOG_IN} ({type(error).__name__})"
    if isinstance(error, botocore.CredentialRetrievalError):
        return f"the credentials could not be fetched ({one_line(error)}); {LOG_IN}"
    if isinstance(error, (botocore.ConnectionError, botocore.HTTPClientError)):
        return f"AWS does not respond ({one_line(error)}); check the region and the network"
    return f"{one_line(error)} ({type(error).__name__})"


def one_line(message: object) -> str:
    return " ".join(str(message).split()).rstrip(".")[:600]
