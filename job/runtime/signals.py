"""SIGTERM and SIGINT: finish the step and write a checkpoint while training, else stop at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from job.runtime.logs import tell


class StopSignal:
    """Asked to stop? `requested` says so to the training, which ends after its step."""

    def __init__(self) -> None:
        self._received = self._told = False
        self._training = False

    @property
    def requested(self) -> bool:
        return self._received or self._told

    def request(self) -> None:
        """Ask for the same as a first signal; one of our own may still follow."""
        self._told = True

    def check(self) -> None:
        """Raise again for a signal whose KeyboardInterrupt Python swallowed, as in a `__del__`."""
        if self._received:
            raise KeyboardInterrupt

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a first signal only sets `requested`."""
        self._training = True
        try:
            yield
        finally:
            self._training = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        is_first, self._received = not self._received, True
        if not (is_first and self._training):
            # `job.__main__` makes an exit code of it.
            raise KeyboardInterrupt
        tell("stop", f"{signal.Signals(number).name} received, finishing this step first")
