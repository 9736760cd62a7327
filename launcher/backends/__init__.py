"""Where jobs can run: one module a backend, each with the same functions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from launcher.plan import Plan

# By name, so that listing the backends imports none of them.
BACKENDS = {"process": "launcher.backends.process"}


class Backend(Protocol):
    """What a backend's module offers."""

    @staticmethod
    def request(plan: "Plan") -> dict[str, Any]:
        """Build all that will be sent, without sending it; pure and printable."""

    @staticmethod
    def submit(plan: "Plan", request: dict[str, Any]) -> int:
        """Send a request unchanged and follow the job; returns the job's exit code."""


def load_backend(name: str) -> Backend:
    module: Backend = import_module(BACKENDS[name])  # type: ignore[assignment]
    return module
