"""The S3 client of the shared session; its errors become one line each."""

import re
from contextlib import AbstractContextManager
from functools import partial
from threading import Lock
from typing import Any

from job.core.errors import EmbedtuneError, StorageError, translated
from job.runtime.counter import Counter
from job.storage.aws_session import shared_session
from job.storage.workspace import explain_file_error

# Concurrent requests; each part of a large object is a request.
PARALLEL = 16
# About half a minute of retries if the server is unreachable or throttles.
ATTEMPTS = 8
# A session must not make clients in two threads at once.
_lock = Lock()
_clients: dict[Any, Any] = {}


def s3_client() -> Any:  # noqa: ANN401  boto3 makes its clients' classes at run time
    """Return the client of the shared session; there is one for each profile and region."""
    with explained("S3"):
        session = shared_session()
    with _lock:
        if session not in _clients:
            _clients[session] = _new_client(session)
        return _clients[session]


def _new_client(session: Any) -> Any:  # noqa: ANN401
    from botocore.config import Config

    # Settings in the environment or the user's profile win over ours.
    setting = session._session.get_config_variable
    config = Config(max_pool_connections=PARALLEL)
    if setting("max_attempts") is None:
        config = config.merge(Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"}))
    with explained("S3"):
        try:
            client = session.client("s3", config=config)
        except ValueError as error:
            msg = f"The S3 endpoint is not a URL ({error}). Set AWS_ENDPOINT_URL to `http://…`."
            raise StorageError(msg) from None
        if not re.search(r"\.amazonaws\.(com|com\.cn|eu)$", client.meta.endpoint_url):
            # Bucket names as host names work at AWS; MinIO and Ceph mostly need them in the path.
            by_path = Config(s3={"addressing_style": "path"})
            client = session.client("s3", config=config.merge(by_path))
    return client


def transfers() -> Any:  # noqa: ANN401  boto3 has no types here
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    return create_transfer_manager(s3_client(), TransferConfig(max_concurrency=PARALLEL))


def count_bytes(what: str, total: int) -> Any:  # noqa: ANN401
    """Return a subscriber of transfers that counts their bytes together."""
    from s3transfer.subscribers import BaseSubscriber

    counter = Counter(what, "bytes", total)

    class Moved(BaseSubscriber):
        def on_progress(self, future: object, bytes_transferred: int, **_: object) -> None:
            del future
            counter.add(bytes_transferred)

    return Moved()


def explained(uri: str, done: str = "read") -> AbstractContextManager[None]:
    """Convert boto3's exceptions to one line without keys, tokens or signatures."""
    return translated(partial(_expected, f"`{uri}` cannot be {done}"))


def _expected(what: str, error: Exception) -> EmbedtuneError | None:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

    if isinstance(error, ClientError):
        code = error_code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        reason = f"{REASONS.get(code, 'the request was refused')} ({code}, HTTP {status})."
    elif isinstance(error, S3DownloadFailedError):
        reason = f"{REASONS['PreconditionFailed']}."
    elif isinstance(error, (BotoCoreError, Boto3Error, RetriesExceededError)):
        reason = _explain_connection(error)
    else:
        # An error of the local file.
        return explain_file_error(what, error)
    return StorageError(f"{what}: {reason}")


def error_code(error: Any) -> str:  # noqa: ANN401
    return str(error.response.get("Error", {}).get("Code", "unknown"))


REASONS = {
    "AccessDenied": "access is denied; this identity needs s3:ListBucket, s3:GetObject and, to "
    "store results, s3:PutObject",
    "ExpiredToken": "the credentials have expired; log in again",
    "InvalidAccessKeyId": "the access key does not exist",
    "NoSuchBucket": "the bucket does not exist",
    "NoSuchKey": "the object does not exist",
    "PreconditionFailed": "it changed while it was read; try again",
    "SignatureDoesNotMatch": "the secret key does not match the access key",
    "SlowDown": "S3 keeps throttling the requests; try again later",
}
# The response to HEAD has no body, so its code is the HTTP status.
REASONS |= {
    "400": "no reason was given; if the credentials have expired, log in again",
    "403": REASONS["AccessDenied"],
    "412": REASONS["PreconditionFailed"],
    "503": REASONS["SlowDown"],
}


def _explain_connection(error: Exception) -> str:
    from botocore import exceptions as botocore
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
        keys = "AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return f"no AWS credentials were found; set {keys}, log in, or give the machine a role."
    failed = (botocore.ConnectionError, botocore.HTTPClientError)
    if isinstance(error, (*failed, botocore.IncompleteReadError, RetriesExceededError)):
        return (
            f"the endpoint {s3_client().meta.endpoint_url} does not answer or broke the connection."
        )
    if isinstance(error, botocore.ProfileNotFound):
        return f"{str(error).rstrip('.')}."
    return f"the S3 client failed ({type(error).__name__})."
