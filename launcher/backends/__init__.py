"""Where jobs can run: one module a backend, each with the same functions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from launcher.plan import Plan
    from launcher.runs import Run

# By name, so that listing the backends imports none of them.
BACKENDS = {
    "process": "launcher.backends.process",
    "docker": "launcher.backends.docker",
    "sagemaker": "launcher.backends.sagemaker",
}


class Backend(Protocol):
    """What a backend's module offers; `OPTIONS` are the machine options that only some know."""

    OPTIONS: set[str]

    @staticmethod
    def request(plan: "Plan") -> dict[str, Any]:
        """Build all that will be sent, without sending it; pure and printable."""

    @staticmethod
    def prepare(plan: "Plan", request: dict[str, Any]) -> None:
        """Stage what the job reads from this machine."""

    @staticmethod
    def submit(plan: "Plan", request: dict[str, Any], *, detach: bool) -> int:
        """Send a request unchanged and, unless detached, follow; returns the job's exit code."""

    @staticmethod
    def run_called(name: str) -> "Run | None":
        """Find a run by the backend's own marks, wherever it was launched."""

    @staticmethod
    def is_running(run: "Run") -> bool:
        """Say whether the run's job is at work."""

    @staticmethod
    def settle(run: "Run") -> None:
        """Note the end of a job that nobody followed, if it has ended."""

    @staticmethod
    def follow(run: "Run") -> int:
        """Show the job's log until it ends; returns its exit code, or 0 after Ctrl-C."""

    @staticmethod
    def show_log(run: "Run") -> bool:
        """Print the log so far, if the backend keeps one; what lies in the run's folder is not."""

    @staticmethod
    def stop(run: "Run") -> None:
        """Ask the job to stop, and wait until it has written its checkpoint."""


def load_backend(name: str) -> Backend:
    module: Backend = import_module(BACKENDS[name])  # type: ignore[assignment]
    return module
