"""The S3 client of this process, and each refusal in one line."""

import re
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any

from job.core.errors import EmbedtuneError, StorageError, translated
from job.storage.workspace import explain_file_error

# Requests in flight at once; a large object travels in parts, each of them a request.
PARALLEL = 16
# Half a minute of patience with a server that is away or asks to slow down.
ATTEMPTS = 8


@cache
def s3_client() -> Any:  # noqa: ANN401  boto3 makes its clients' classes at run time
    """Return the client of this process: the ordinary chain of credentials, region, endpoint."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    # What the environment or the user's profile says stays as it is.
    settings = session._session.get_config_variable
    config = Config(max_pool_connections=PARALLEL)
    if settings("max_attempts") is None:
        config = config.merge(Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"}))
    with explained("S3"):
        try:
            client = session.client("s3", config=config)
        except ValueError as error:
            msg = f"The S3 endpoint is no address ({error}); AWS_ENDPOINT_URL needs `http://…`."
            raise StorageError(msg) from None
        if not re.search(r"\.amazonaws\.com(\.cn)?$", client.meta.endpoint_url):
            # Buckets are host names at AWS alone: MinIO and Ceph mostly have no such names.
            by_path = Config(s3={"addressing_style": "path"})
            client = session.client("s3", config=config.merge(by_path))
    return client


def transfers() -> Any:  # noqa: ANN401  boto3 has no types here
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    return create_transfer_manager(s3_client(), TransferConfig(max_concurrency=PARALLEL))


def explained(uri: str, done: str = "read") -> AbstractContextManager[None]:
    """Turn what boto3 raises into one line, which holds no key, token or signature."""
    return translated(partial(_expected, f"`{uri}` cannot be {done}"))


def _expected(what: str, error: Exception) -> EmbedtuneError | None:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

    if isinstance(error, ClientError):
        code = error_code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        reason = f"{REFUSALS.get(code, 'the request was refused')} ({code}, HTTP {status})."
    elif isinstance(error, S3DownloadFailedError):
        reason = f"{REFUSALS['PreconditionFailed']}."
    elif isinstance(error, (BotoCoreError, Boto3Error, RetriesExceededError)):
        reason = _accident(error)
    else:
        # A local file, on the way up or down.
        return explain_file_error(what, error)
    return StorageError(f"{what}: {reason}")


def error_code(error: Any) -> str:  # noqa: ANN401
    return str(error.response.get("Error", {}).get("Code", "unknown"))


REFUSALS = {
    "AccessDenied": "access is denied; this identity needs s3:ListBucket, s3:GetObject and, to "
    "store results, s3:PutObject",
    "ExpiredToken": "the credentials have expired; log in again",
    "InvalidAccessKeyId": "the access key is not known there",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "PreconditionFailed": "it changed while it was read; try again",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "SlowDown": "S3 asks to slow down, and went on doing so; try again later",
}
# The answer to HEAD has no body: its code is the status.
REFUSALS |= {
    "400": "no reason was given; if the credentials have expired, log in again",
    "403": REFUSALS["AccessDenied"],
    "412": REFUSALS["PreconditionFailed"],
    "503": REFUSALS["SlowDown"],
}


def _accident(error: Exception) -> str:
    from botocore import exceptions as botocore
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
        keys = "AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return f"no AWS credentials were found; set {keys}, log in, or give the machine a role."
    failed = (botocore.ConnectionError, botocore.HTTPClientError)
    if isinstance(error, (*failed, botocore.IncompleteReadError, RetriesExceededError)):
        return f"the endpoint {s3_client().meta.endpoint_url} does not answer, or broke off."
    if isinstance(error, botocore.ProfileNotFound):
        return f"{str(error).rstrip('.')}."
    return f"the S3 client failed ({type(error).__name__})."
