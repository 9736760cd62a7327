"""SIGTERM and SIGINT: finish the step and write a checkpoint while training, else stop at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from job.progress import log


class StopSignal:
    """Asked to stop? `requested` says so to the training, which ends after its step."""

    def __init__(self) -> None:
        self.requested = False
        self._training = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Within this block a first signal only sets `requested`."""
        self._training = True
        try:
            yield
        finally:
            self._training = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested or not self._training:
            # No library swallows a KeyboardInterrupt; `job.__main__` makes an exit code of it.
            raise KeyboardInterrupt
        self.requested = True
        log.info("stop: %s received, finishing this step first", signal.Signals(number).name)
