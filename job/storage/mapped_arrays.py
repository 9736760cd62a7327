"""Large matrices lie in a file that is mapped into memory, so that they need none of their own."""

import math
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from job.core.errors import MachineError

if TYPE_CHECKING:
    import torch

# Of so many bytes or more: 87,000 vectors of 768 float32.
MAPPED_FROM = 2**28


def empty_matrix(rows: int, width: int) -> "torch.Tensor":
    """Make room for vectors, (rows, width), float32."""
    import torch

    return torch.from_numpy(zeros((rows, width), np.float32, MAPPED_FROM))


def zeros(shape: tuple[int, int], kind: type[Any], mapped_from: int) -> np.ndarray[Any, Any]:
    """Make room for numbers, from so many bytes on in a file, which is told if there is no disk.

    The file lies where `TMPDIR` says, has no name, and goes when nobody uses it any more.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < mapped_from:
        return np.zeros(shape, kind)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        msg = f"A matrix takes {size / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free where "
        raise MachineError(msg + f"`{folder}` lies. Free some, or set `TMPDIR` to another folder.")
    with tempfile.TemporaryFile() as file:
        if sys.platform == "linux":
            # Taken at once: a mapped file that finds no room later would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
        return np.memmap(file, kind, "r+", shape=shape)
