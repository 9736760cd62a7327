"""End a run that makes no progress, so that it is not billed until its time limit.

Progress means log lines, forward passes of the model, and bytes read or written (downloads).
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

# Longest time between two checks, and the time a stalled run has to report its reason.
CHECK_SECONDS, REPORT_SECONDS = 10.0, 10.0
# Each time this many bytes were read or written counts as progress.
MOVED_BYTES = 2**20
IO = Path("/proc/self/io")


class _LastProgress:
    """Time of the last progress; one per process, like its model and its log."""

    at = time.monotonic()


def record_activity(*_: object) -> None:
    """Reset the stall timer; usable as a forward pre-hook of a module."""
    _LastProgress.at = time.monotonic()


def _count_line(_record: logging.LogRecord) -> bool:
    record_activity()
    return True


@contextmanager
def watched(minutes: float, write_failure: Callable[[str], None], log_file: Path) -> Iterator[None]:
    """End the process with `Stalled`'s exit code after this time without progress; 0 disables it.

    The reason goes to the failure file, and to the log with every thread's stack.
    """
    if not minutes:
        yield
        return
    record_activity()
    over = threading.Event()
    log.addFilter(_count_line)
    _reset_kill_timer(60 * minutes)
    args = (60 * minutes, over, write_failure, log_file)
    threading.Thread(target=_watch, args=args, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        faulthandler.cancel_dump_traceback_later()
        log.removeFilter(_count_line)


def _watch(
    limit: float, over: threading.Event, write_failure: Callable[[str], None], log_file: Path
) -> None:
    interval, moved = min(limit / 4, CHECK_SECONDS), moved_bytes()
    while not over.wait(interval):
        _reset_kill_timer(limit)
        if moved_bytes() - moved >= MOVED_BYTES:
            moved = moved_bytes()
            record_activity()
        if time.monotonic() - _LastProgress.at > limit and not over.is_set():
            _end(limit, write_failure, log_file)


def _reset_kill_timer(limit: float) -> None:
    """Reset the timer that kills the process when native code holds the GIL too long.

    It dumps the stacks and exits with code 1: no Python code can run to set another one.
    """
    after = 2 * limit + CHECK_SECONDS
    faulthandler.dump_traceback_later(after, exit=True, file=sys.__stderr__ or 2)


def moved_bytes() -> int:
    """Return the bytes this process has read and written; 0 if the system does not count them."""
    try:
        counts = dict(line.split(": ") for line in IO.read_text("utf-8").splitlines())
    except OSError:
        return 0
    return int(counts["rchar"]) + int(counts["wchar"])


def _end(limit: float, write_failure: Callable[[str], None], log_file: Path) -> None:
    # The disk or stderr may be what hangs: exit even if the report cannot be written.
    deadline = threading.Timer(REPORT_SECONDS, os._exit, (Stalled.exit_code,))
    deadline.daemon = True
    deadline.start()
    duration = f"{limit / 60:g} minutes" if limit >= 60 else f"{limit:g} seconds"
    line = (
        f"The run made no progress for {duration} and ended itself; its log has the stack traces. "
        "Relaunch the run to resume from its last checkpoint, or raise `EMBEDTUNE_STALL_MINUTES`."
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
    """Return every thread's stack trace; faulthandler would hold the GIL while it writes."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
