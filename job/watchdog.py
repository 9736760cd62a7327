"""A run in which nothing moves any more ends itself, instead of being billed until its time is up.

Signs of life are log lines, passes of the model, and bytes read and written: a download counts.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from job.errors import Stalled
from job.progress import log
from job.workspace import Workspace

# Between two looks, at most; what a stalled run may take to tell its reason; what counts as moving.
LOOK_SECONDS, LAST_WORDS_SECONDS = 10.0, 10.0
MOVED_BYTES = 2**20
IO = Path("/proc/self/io")


class _Pulse:
    """When this process last gave a sign of life: one for all, as its model and its log are."""

    at = time.monotonic()


def alive(*_: object) -> None:
    """Give a sign of life; may be hung into a module, before its passes."""
    _Pulse.at = time.monotonic()


@contextmanager
def watched(workspace: Workspace, minutes: float) -> Iterator[None]:
    """End the process with `Stalled`'s code if nothing moves for so long; 0: never."""
    if not minutes:
        yield
        return
    alive()
    listener, over = _Listener(), threading.Event()
    log.addHandler(listener)
    threading.Thread(target=_watch, args=(workspace, 60 * minutes, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        faulthandler.cancel_dump_traceback_later()
        log.removeHandler(listener)


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        alive(record)


def _watch(workspace: Workspace, limit: float, over: threading.Event) -> None:
    look, moved = min(limit / 4, LOOK_SECONDS), moved_bytes()
    while not over.wait(look):
        # Whoever holds Python's lock keeps this thread from looking. Then this ends the process,
        # with code 1 and the stacks, since nothing of Python runs any more.
        faulthandler.dump_traceback_later(2 * limit + look, exit=True, file=sys.__stderr__ or 2)
        if moved_bytes() - moved >= MOVED_BYTES:
            moved = moved_bytes()
            alive()
        if time.monotonic() - _Pulse.at > limit and not over.is_set():
            _end(workspace, limit)


def moved_bytes() -> int:
    """Count the bytes that this process has read and written; 0 where the system keeps no count."""
    try:
        found = dict(line.split(": ") for line in IO.read_text("utf-8").splitlines())
    except OSError:
        return 0
    return int(found["rchar"]) + int(found["wchar"])


def _end(workspace: Workspace, limit: float) -> None:
    # The disk or the log may be what hangs.
    last = threading.Timer(LAST_WORDS_SECONDS, os._exit, (Stalled.exit_code,))
    last.daemon = True
    last.start()
    line = str(
        Stalled(
            f"Nothing has moved for {limit / 60:g} minutes, so the run ended itself; where it "
            "stood is in its log. Launch it again to go on from its last checkpoint, or allow it "
            "more in `EMBEDTUNE_STALL_MINUTES`."
        )
    )
    with suppress(OSError):
        workspace.write_failure(line)
    with suppress(OSError):
        _dump_stacks(workspace.logs / "job.log")
    print(f"Error: {line}", file=sys.stderr, flush=True)
    os._exit(Stalled.exit_code)


def _dump_stacks(path: Path) -> None:
    """Write where every thread stands to a log that there is, and to stderr."""
    if path.is_file():
        with path.open("a", encoding="utf-8") as handle:
            faulthandler.dump_traceback(handle, all_threads=True)
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
