"""Large matrices lie in a file that is mapped into memory, so that they need none of their own."""

import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

from job.errors import MachineError

if TYPE_CHECKING:
    import torch

# Of so many bytes or more: 87,000 vectors of 768 float32.
MAPPED_FROM = 2**28


def empty_matrix(rows: int, width: int) -> "torch.Tensor":
    """Make room for vectors, (rows, width), float32.

    A file for them lies where `TMPDIR` says, has no name, and goes when nobody uses it any more.
    """
    import numpy as np
    import torch

    size = 4 * rows * width
    if size < MAPPED_FROM:
        return torch.empty(rows, width)
    with tempfile.TemporaryFile() as file:
        _reserve(file.fileno(), size)
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(rows, width)))


def _reserve(file: int, size: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        msg = (
            f"The vectors take {size / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free where "
            f"`{folder}` lies. Free some, or name another folder with `TMPDIR`."
        )
        raise MachineError(msg)
    if sys.platform == "linux":
        # Taken at once: a mapped file that finds no room later would kill the process.
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
