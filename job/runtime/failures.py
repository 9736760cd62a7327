"""The expected errors behind exceptions: interruptions, missing packages, a full disk or memory."""

import errno
import shutil
from pathlib import Path

from job.core.errors import EmbedtuneError, Interrupted, MachineError, OutOfMemory, first_line
from job.runtime.oom import is_out_of_memory

# With less free disk space than this, any failed write means a full disk.
DISK_FULL_BYTES = 1024 * 1024


def explain(error: BaseException, folder: Path | None, extra: str) -> EmbedtuneError | None:
    """Return the expected error for an exception, or None for a bug in embedtune.

    `folder` is where the run writes; `extra` is the pip extra with its packages.
    """
    if isinstance(error, EmbedtuneError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(
            "Interrupted; files already written are kept. Start the same command again to go on."
        )
    package = (getattr(error, "name", None) or "job").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package not in ("job", "launcher"):
        msg = f"The package `{error.name}` is missing: `pip install 'embedtune[{extra}]'`."
        return MachineError(msg)
    if is_out_of_memory(error):
        why = first_line(error)
        msg = f"Memory ran out ({why}). Set a smaller `training.mini_batch_size`, such as 16."
        return OutOfMemory(msg)
    is_full = (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        # safetensors' error has the cause only in its text; torch's has none.
        or f"(os error {errno.ENOSPC})" in str(error)
    )
    if folder and isinstance(error, Exception) and folder.is_dir():
        is_full = is_full or shutil.disk_usage(folder).free < DISK_FULL_BYTES
    if is_full:
        return MachineError("The disk is full. Free some space and start the same command again.")
    return None
