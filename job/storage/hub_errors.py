"""Convert the exceptions of the Hub's client libraries to one line each."""

import re
from contextlib import AbstractContextManager
from functools import partial

from job.core.errors import DataError, EmbedtuneError, ModelError, StorageError, translated


def explained(
    repository: str, kind: str, error: type[EmbedtuneError] | None = None
) -> AbstractContextManager[None]:
    """Convert the Hub libraries' exceptions to one line.

    Missing data or models raise `error` (default: `DataError`, `ModelError`); an unreachable Hub
    raises `StorageError`.
    """
    missing = error or (ModelError if kind == "model" else DataError)
    name = f"The Hub {'model' if kind == 'model' else 'data set'} `{repository}`"
    return translated(partial(_expected, name, missing))


def _expected(
    name: str, missing: type[EmbedtuneError], problem: Exception
) -> EmbedtuneError | None:
    import httpx2
    from huggingface_hub import errors as hub

    absent = {
        hub.GatedRepoError: " is gated: request access on its page and set `HF_TOKEN`.",
        hub.RevisionNotFoundError: " has no such revision.",
        hub.RepositoryNotFoundError: " does not exist or is private: check the id and `HF_TOKEN`.",
        hub.HFValidationError: " has no valid id; expected `owner/name`.",
    }
    # Order matters: GatedRepoError is a subclass of RepositoryNotFoundError.
    if text := next((text for kind, text in absent.items() if isinstance(problem, kind)), None):
        return missing(name + text)
    if isinstance(problem, hub.HfHubHTTPError):
        return StorageError(f"{name}: {_refusal(problem)}")
    unreachable = (hub.RevisionResolutionError, hub.LocalEntryNotFoundError, httpx2.HTTPError)
    if isinstance(problem, (*unreachable, ConnectionError)):
        return _unreachable(name, problem, missing)
    if isinstance(problem, (OSError, ValueError, RuntimeError)):
        # `datasets` raises these: unknown subset, no data files, a script.
        reason = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        return missing(f"{name} cannot be used: {without_queries(reason).rstrip('.')[:300]}.")
    return None


def _refusal(problem: Exception) -> str:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"access was refused (HTTP {status}); check that `HF_TOKEN` is valid and permits this."
        )
    if status == 409:
        return "another client changed it at the same time (HTTP 409); try again."
    return f"the Hub failed (HTTP {status}); try again later."


def _unreachable(
    name: str, problem: BaseException, missing: type[EmbedtuneError]
) -> EmbedtuneError:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(problem.__cause__, HfHubHTTPError):
        return StorageError(f"{name}: {_refusal(problem.__cause__)}")
    causes = [problem, problem.__cause__]
    if constants.HF_HUB_OFFLINE or any(isinstance(c, OfflineModeIsEnabled) for c in causes):
        return missing(f"{name} is not in the Hub's cache here, and `HF_HUB_OFFLINE` is set.")
    cause = type(problem.__cause__ or problem).__name__
    remedy = "check the network and `HF_ENDPOINT`"
    return StorageError(f"{name}: {constants.ENDPOINT} does not answer ({cause}); {remedy}.")


def without_queries(text: str) -> str:
    """Remove the query strings of URLs in a text: they may contain signatures."""
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text)
