"""Handle SIGTERM and SIGINT: in training, finish the step and write a checkpoint; else stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from job.runtime.logs import tell


class StopSignal:
    """Stop requests of this process; training polls `requested` after each step."""

    def __init__(self) -> None:
        self._received = self._requested = False
        self._training = False

    @property
    def requested(self) -> bool:
        return self._received or self._requested

    def request(self) -> None:
        """Record a stop request that came to another rank; a signal may still follow here."""
        self._requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt again if Python swallowed it, as it does in a `__del__`."""
        if self._received:
            raise KeyboardInterrupt

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block, the first signal only sets `requested`."""
        self._training = True
        try:
            yield
        finally:
            self._training = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        is_first, self._received = not self._received, True
        if not (is_first and self._training):
            # `job.__main__` converts it to an exit code.
            raise KeyboardInterrupt
        tell("stop", f"{signal.Signals(number).name} received, finishing this step first")
