"""Large matrices in memory-mapped temporary files, so that they may exceed memory."""

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

# Matrices from this many bytes on are files: 87,000 vectors of 768 float32.
MAPPED_FROM = 2**28


def empty_matrix(rows: int, width: int) -> "torch.Tensor":
    """Allocate a float32 tensor for vectors: (rows, width)."""
    import torch

    return torch.from_numpy(zeros((rows, width), np.float32, MAPPED_FROM))


def zeros(shape: tuple[int, int], kind: type[Any], mapped_from: int) -> np.ndarray[Any, Any]:
    """Allocate an array of zeros; from `mapped_from` bytes on, in a memory-mapped file.

    The file is in `TMPDIR`, unnamed, and deleted with its last use. Raises `MachineError` if the
    disk has too little space.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < mapped_from:
        return np.zeros(shape, kind)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        msg = f"A matrix needs {size / 1e9:.1f} GB of disk, but only {free / 1e9:.1f} GB are free "
        raise MachineError(msg + f"in `{folder}`. Free some, or set `TMPDIR` to another folder.")
    with tempfile.TemporaryFile() as file:
        if sys.platform == "linux":
            # Reserve the space now: writing to a mapped file on a full disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
        return np.memmap(file, kind, "r+", shape=shape)
