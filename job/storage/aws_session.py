"""AWS sessions: one for each profile and region of a process, so that it logs in once.

An assumed role's credentials are also cached on disk, where the AWS CLI caches its own: until they
expire, another command neither asks for an MFA code nor runs the source profile's
`credential_process`.
"""

import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import boto3

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ROLE_CACHE = Path("~/.aws/cli/cache")
# Variables that choose a profile and a region; `shared_session` resolves them.
PROFILE, REGION = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"), ("AWS_REGION", "AWS_DEFAULT_REGION")
# By profile, region and all other variables of AWS.
_sessions: dict[tuple[str | None, str | None, frozenset[tuple[str, str]]], "boto3.Session"] = {}
# Two threads would otherwise both log in.
_lock = Lock()


def shared_session(profile: str | None = None, region: str | None = None) -> "boto3.Session":
    """Return this process's session; profile and region default to those of the environment.

    Raises botocore's errors, such as `ProfileNotFound`. The session may have no region.
    """
    # Keys in the environment win over a profile that is named there.
    if not os.environ.get(KEYS[0]):
        profile = profile or _first_of(PROFILE)
    region, settings = region or environment_region(), _other_settings(profile)
    with _lock:
        if (profile, region, settings) not in _sessions:
            session = _new_session(profile, region)
            # Without a given region, the session has that of the profile, if any.
            same = _sessions.setdefault((profile, session.region_name, settings), session)
            _sessions[profile, region, settings] = same
        return _sessions[profile, region, settings]


def environment_region() -> str | None:
    """Return the region of this training job or of the environment; the profile may have another.

    SageMaker documents no variable for a container's region but the job's ARN:
    arn:PARTITION:sagemaker:REGION:ACCOUNT:training-job/NAME
    """
    arn = os.environ.get("TRAINING_JOB_ARN", "").split(":")
    # The AWS CLI and the other SDKs read AWS_REGION; boto3 does not.
    return (arn[3] if len(arn) > 3 else "") or _first_of(REGION)


def _first_of(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(os.environ.get, names)), None)


def _other_settings(profile: str | None) -> frozenset[tuple[str, str]]:
    ignored = (*PROFILE, *REGION, *(KEYS if profile else ()))
    return frozenset(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("AWS_") and name not in ignored
    )


def _new_session(profile: str | None, region: str | None) -> "boto3.Session":
    import boto3
    from botocore.utils import JSONFileCache

    session = boto3.Session(profile_name=profile, region_name=region)
    folder = ROLE_CACHE.expanduser()
    if _is_writable(folder):
        resolver = session._session.get_component("credential_provider")
        provider = resolver.get_provider("assume-role")
        provider.cache = JSONFileCache(str(folder))
        # botocore would run a `credential_process` even if the role's credentials are cached.
        resolve = provider._resolve_source_credentials
        provider._resolve_source_credentials = lambda *of: _SourceCredentials(partial(resolve, *of))
    return session


def _is_writable(folder: Path) -> bool:
    try:
        existing = next(each for each in (folder, *folder.parents) if each.exists())
    except (OSError, StopIteration):
        return False
    return os.access(existing, os.W_OK | os.X_OK)


class _SourceCredentials:
    """Credentials that may assume a role; loaded only if the role's own are not cached."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    @cached_property
    def _loaded(self) -> Any:  # noqa: ANN401  botocore has no types
        return self._load()

    def get_frozen_credentials(self) -> Any:  # noqa: ANN401
        return self._loaded.get_frozen_credentials()
