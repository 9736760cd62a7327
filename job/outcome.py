"""Do the work of a command: every outcome has an exit code, and a failure one line that says why.

The line goes to stderr and to `output/failure`. A traceback means a bug in embedtune.
"""

import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

import click

from job.distributed.torchrun import PEER_LOST, PEER_LOST_SECONDS, PeerLost, is_worker
from job.runtime.failures import explain
from job.storage.workspace import Workspace


def exit_code(
    work: Callable[[], int | None], workspace: Workspace | None, extra: str = "train"
) -> int:
    """Do the work and return its exit code; report a failure in one line.

    `extra` is the pip extra to suggest if a package is missing.
    """
    try:
        return work() or 0
    except BrokenPipeError:
        # The reader of our output closed the pipe (`| head`); Click then exits quietly.
        raise
    except PeerLost:
        # Let the process that failed first end first: its exit code and reason are the run's.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PEER_LOST_SECONDS)
        return PEER_LOST
    except BaseException as error:  # noqa: BLE001  only here, everything is caught
        expected = explain(error, workspace.root if workspace else None, extra)
        line = str(expected) if expected else f"{type(error).__name__}: {error}"
        if expected is None:
            traceback.print_exc()
        is_cause = workspace is None or not is_worker() or _is_first_failure(workspace)
        if expected and is_cause:
            click.echo(f"Error: {line}", err=True)
        # A workspace that is still locked belongs to the run of another process.
        if workspace is not None and is_cause and (is_worker() or not workspace.is_locked()):
            # If it is not writable, the line on stderr already says so.
            with suppress(OSError):
                workspace.write_failure(line)
        return expected.exit_code if expected else 1


def _is_first_failure(workspace: Workspace) -> bool:
    """Return whether this worker is the first of its host to fail; the others fail because of it.

    Torchrun stops the others, and some failures occur on all ranks of a host.
    """
    try:
        workspace.failure.parent.mkdir(parents=True, exist_ok=True)
        workspace.failure.touch(exist_ok=False)
    except OSError:
        # The file exists, or the workspace is not writable; report the latter.
        return not workspace.failure.is_file()
    return True
