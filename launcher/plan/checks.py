"""What a check has found: whether something that a launch needs is there, and what to do if not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from job.core.errors import BackendError

State = Literal["ok", "missing", "unknown", "doubtful", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """Something that a launch needs; `fix` is what to do about it, with commands in backticks."""

    name: str
    state: State
    found: str
    fix: str | None = None


class Missing(Exception):
    """Something is not there that a launch needs."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found[:1].upper()}{found[1:]}; to mend it: {fix}.")
        self.found, self.fix = found, fix


class NotNeeded(Exception):
    """Something is not there that a launch can do without."""


def run_check(name: str, check: Callable[[], str]) -> CheckResult:
    """Run a check, which returns what it found; what it could not find out is unknown."""
    try:
        return CheckResult(name, "ok", check())
    except Missing as missing:
        return CheckResult(name, "missing", missing.found, missing.fix)
    except NotNeeded as found:
        return CheckResult(name, "skipped", str(found))
    except BackendError as error:
        return CheckResult(name, "unknown", message_of(error))


def message_of(error: BackendError) -> str:
    """Return an error's line as a finding has it: without a full stop."""
    return str(error).rstrip(".")


def skipped(names: tuple[str, ...], reason: str) -> list[CheckResult]:
    return [CheckResult(name, "skipped", reason) for name in names]
