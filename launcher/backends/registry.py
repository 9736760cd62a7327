"""The backends by name, and the protocol that each of them follows.

Which backend has the job of a run is for `launcher.lookup` to say.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from launcher.plan.plan import Plan
    from launcher.runs.runs import Run


class JobHandle(Protocol):
    """A run's job, whoever launched it: made of the run, whose launch noted where the job is."""

    def refresh(self) -> bool:
        """Say whether the job is at work; note its end, if it has come and nobody noted it."""

    def read_log(self) -> str:
        """Return what the job has said so far, as far as its backend kept it."""

    def follow_logs(self, to: TextIO, *, stop_on_interrupt: bool) -> None:
        """Show the log until the job has ended.

        Ctrl-C asks the job to stop, and its end is awaited; or else it is passed on.
        """

    def stop(self) -> None:
        """Ask the job to stop, and wait until it has written its checkpoint."""

    def outcome(self) -> int:
        """Return the exit code of a job that has ended; say or raise why it failed."""


class Backend(Protocol):
    """What a backend's module offers."""

    def request(self, plan: "Plan") -> dict[str, Any]:
        """Build all that will be sent, without sending it; pure and printable."""

    def submit(self, plan: "Plan", request: dict[str, Any]) -> JobHandle:
        """Stage what the job reads from this machine, and send the request unchanged."""

    def Job(self, run: "Run") -> JobHandle:  # noqa: N802  a class
        """Make the handle of a run's job."""


def load_backend(name: str) -> Backend:
    module: Backend = import_module(f"launcher.backends.{name}.backend")
    return module


if TYPE_CHECKING:
    # What cannot be seen of a module that is loaded by its name.
    from launcher.backends.docker import backend as docker
    from launcher.backends.process import backend as process
    from launcher.backends.sagemaker import backend as sagemaker

    _: tuple[Backend, Backend, Backend] = (docker, process, sagemaker)
