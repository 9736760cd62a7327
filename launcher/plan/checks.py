"""Results of checks: whether a requirement of a launch is met, and how to fix it if not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from job.core.errors import BackendError

State = Literal["ok", "missing", "unknown", "doubtful", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """The result for one requirement; `fix` says how to meet it, with commands in backticks."""

    name: str
    state: State
    found: str
    fix: str | None = None


class Missing(Exception):
    """A requirement of a launch is not met."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found[:1].upper()}{found[1:]}; to fix it: {fix}.")
        self.found, self.fix = found, fix


class Doubtful(Exception):
    """A requirement may not be met."""


class NotNeeded(Exception):
    """Something optional is missing."""


def run_check(name: str, check: Callable[[], str]) -> CheckResult:
    """Run a check, which returns what it found; a `BackendError` makes the result `unknown`."""
    try:
        return CheckResult(name, "ok", check())
    except Missing as missing:
        return CheckResult(name, "missing", missing.found, missing.fix)
    except Doubtful as found:
        return CheckResult(name, "doubtful", str(found))
    except NotNeeded as found:
        return CheckResult(name, "skipped", str(found))
    except BackendError as error:
        return CheckResult(name, "unknown", message_of(error))


def message_of(error: BackendError) -> str:
    """Return an error's message without its full stop."""
    return str(error).rstrip(".")


def skipped(names: tuple[str, ...], reason: str) -> list[CheckResult]:
    return [CheckResult(name, "skipped", reason) for name in names]
