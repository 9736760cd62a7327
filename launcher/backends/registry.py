"""The protocol that each backend implements, and loading a backend by name.

`launcher.lookup` finds the backend that runs a given job.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from launcher.live.view import View
    from launcher.plan.plan import Plan
    from launcher.runs.run import Run


class JobHandle(Protocol):
    """The job of a run, no matter which process launched it; found by the run's launch record."""

    # What the backend does for a running job at the last `refresh`; empty if it says nothing.
    status: str

    def refresh(self) -> bool:
        """Return whether the job is running; record its end if that was not recorded yet."""

    def read_log(self) -> str:
        """Return the log so far, as much of it as the backend has kept."""

    def follow_logs(self, view: "View", *, stop_on_interrupt: bool) -> None:
        """Show the log, line by line, until the job ends.

        With `stop_on_interrupt`, Ctrl-C stops the job and waits for its end; otherwise
        `KeyboardInterrupt` propagates.
        """

    def stop(self) -> None:
        """Ask the job to stop, and wait until it has written its checkpoint."""

    def outcome(self) -> int:
        """Return the exit code of a finished job; print or raise the reason of a failure."""


class Backend(Protocol):
    """What a backend's module provides."""

    def request(self, plan: "Plan") -> dict[str, Any]:
        """Build the complete request without sending it; JSON-serializable."""

    def submit(self, plan: "Plan", request: dict[str, Any]) -> JobHandle:
        """Stage the job's local inputs, then send the request unchanged."""

    def Job(self, run: "Run") -> JobHandle:  # noqa: N802  a class
        """Create the handle of a run's job."""


def load_backend(name: str) -> Backend:
    module: Backend = import_module(f"launcher.backends.{name}.backend")
    return module


if TYPE_CHECKING:
    # mypy cannot check modules that are loaded by name, so check them here.
    from launcher.backends.docker import backend as docker
    from launcher.backends.process import backend as process
    from launcher.backends.sagemaker import backend as sagemaker

    _: tuple[Backend, Backend, Backend] = (docker, process, sagemaker)
