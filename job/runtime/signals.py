"""Handle SIGTERM and SIGINT: in training, finish the step and write a checkpoint; else stop."""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import FrameType

from job.core.errors import Interrupted
from job.runtime.logs import tell

# SageMaker kills a job this long after it has sent SIGTERM.
KILL_SECONDS = 120.0
# Python runs a handler only in its main thread, which a wait for the GPU holds up. If it takes
# longer than this, the other ranks have left; in training they may still compute their step.
UNHANDLED_SECONDS, UNHANDLED_TRAINING_SECONDS = 10.0, 60.0
# What a handler writes behind the number of its signal, which Python writes.
HANDLED = b"\0"


class StopSignal:
    """Stop requests of this process; training polls `requested` after each step."""

    def __init__(self) -> None:
        self._received = self._requested = False
        self._training = False
        self._pipe: int | None = None

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

    def exit_if_unhandled(self) -> None:
        """End this process if it does not handle a signal in time.

        For a process that waits for others: torchrun and the cloud would wait two minutes for it.
        """
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        Thread(target=self._watch, args=(read,), daemon=True).start()

    def _watch(self, pipe: int) -> None:
        seconds: float | None = None
        while select.select([pipe], [], [], seconds)[0]:
            limit = UNHANDLED_TRAINING_SECONDS if self._training else UNHANDLED_SECONDS
            seconds = None if os.read(pipe, 1) == HANDLED else limit
        # What it waits for never comes, so it cannot end in order.
        os._exit(Interrupted.exit_code)

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
        if self._pipe is not None:
            os.write(self._pipe, HANDLED)
        is_first, self._received = not self._received, True
        if not (is_first and self._training):
            # `job.__main__` converts it to an exit code.
            raise KeyboardInterrupt
        tell("stop", f"{signal.Signals(number).name} received, finishing this step first")


def wait_for_kill(seconds: float = KILL_SECONDS) -> None:
    """Wait until this machine is taken away; a second signal ends the wait.

    SageMaker counts a managed spot job as interrupted, and starts it on another machine, only if
    its container is killed. A container that ends by itself with an error has failed.
    """
    tell("stop", f"waiting at most {seconds:.0f} s for the end of this machine")
    # With several processes, the handlers so far only forward signals to workers, which have ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        time.sleep(seconds)
