"""Where jobs can run: one module a backend, each with the same functions."""

from types import ModuleType
from typing import Any, Protocol

from launcher.backends import process
from launcher.plan import Plan


class Backend(Protocol):
    """What a backend's module offers."""

    @staticmethod
    def request(plan: Plan) -> dict[str, Any]:
        """Build all that will be sent, without sending it; pure and printable."""

    @staticmethod
    def submit(plan: Plan, request: dict[str, Any]) -> int:
        """Send a request unchanged and follow the job; returns the job's exit code."""


BACKENDS: dict[str, ModuleType] = {"process": process}
