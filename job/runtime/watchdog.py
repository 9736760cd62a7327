"""A run in which nothing moves any more ends itself, instead of being billed until its time is up.

Signs of life are log lines, passes of the model, and bytes read and written: a download counts.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from job.core.errors import Stalled
from job.runtime.logs import log

# Between two looks, at most; what a stalled run may take to tell its reason; what counts as moving.
LOOK_SECONDS, LAST_WORDS_SECONDS = 10.0, 10.0
MOVED_BYTES = 2**20
IO = Path("/proc/self/io")


class _Pulse:
    """When this process last gave a sign of life: one for all, as its model and its log are."""

    at = time.monotonic()


def record_activity(*_: object) -> None:
    """Give a sign of life; may be hung into a module, before its passes."""
    _Pulse.at = time.monotonic()


def _heard(_record: logging.LogRecord) -> bool:
    record_activity()
    return True


@contextmanager
def watched(minutes: float, write_failure: Callable[[str], None], log_file: Path) -> Iterator[None]:
    """End the process with `Stalled`'s code if nothing moves for so long; 0: never.

    The reason is written as the run's failure, and with every thread's stack to its log.
    """
    if not minutes:
        yield
        return
    record_activity()
    over = threading.Event()
    log.addFilter(_heard)
    _dread(60 * minutes)
    args = (60 * minutes, over, write_failure, log_file)
    threading.Thread(target=_watch, args=args, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        faulthandler.cancel_dump_traceback_later()
        log.removeFilter(_heard)


def _watch(
    limit: float, over: threading.Event, write_failure: Callable[[str], None], log_file: Path
) -> None:
    look, moved = min(limit / 4, LOOK_SECONDS), moved_bytes()
    while not over.wait(look):
        _dread(limit)
        if moved_bytes() - moved >= MOVED_BYTES:
            moved = moved_bytes()
            record_activity()
        if time.monotonic() - _Pulse.at > limit and not over.is_set():
            _end(limit, write_failure, log_file)


def _dread(limit: float) -> None:
    """Put off what ends the process if code that keeps Python's lock keeps us from looking.

    It does so with code 1 and the stacks, as nothing of ours runs any more.
    """
    after = 2 * limit + LOOK_SECONDS
    faulthandler.dump_traceback_later(after, exit=True, file=sys.__stderr__ or 2)


def moved_bytes() -> int:
    """Count the bytes that this process has read and written; 0 where the system keeps no count."""
    try:
        found = dict(line.split(": ") for line in IO.read_text("utf-8").splitlines())
    except OSError:
        return 0
    return int(found["rchar"]) + int(found["wchar"])


def _end(limit: float, write_failure: Callable[[str], None], log_file: Path) -> None:
    # The disk or the log may be what hangs.
    last = threading.Timer(LAST_WORDS_SECONDS, os._exit, (Stalled.exit_code,))
    last.daemon = True
    last.start()
    spoken = f"{limit / 60:g} minutes" if limit >= 60 else f"{limit:g} seconds"
    line = (
        f"Nothing has moved for {spoken}, so the run ended itself; where it stood is in its log. "
        "Launch it again to go on from its last checkpoint, or allow it more in "
        "`EMBEDTUNE_STALL_MINUTES`."
    )
    stacks = _stacks()
    with suppress(OSError):
        write_failure(line)
    if log_file.is_file():
        with suppress(OSError), log_file.open("a", encoding="utf-8") as handle:
            handle.write(f"{stacks}{line}\n")
    print(f"{stacks}Error: {line}", file=sys.stderr, flush=True)
    os._exit(Stalled.exit_code)


def _stacks() -> str:
    """Say where every thread stands; in Python, as faulthandler's writing would keep its lock."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
