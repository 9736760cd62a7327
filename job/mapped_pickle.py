"""Hands a value to the other processes of a host by a file, whose arrays they memory-map."""

import mmap
import pickle
import tempfile
from pathlib import Path
from typing import Any

# Arrow and numpy read aligned memory only, or copy it.
ALIGNMENT = 64


def save_mapped(value: object) -> str:
    """Write a value to a file where `TMPDIR` says; returns the file's path."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    with tempfile.NamedTemporaryFile(delete=False) as file:
        pickle.dump((head, [len(part) for part in raw]), file)
        for part in raw:
            file.seek(_aligned(file.tell()))
            file.write(part)
    return file.name


def load_mapped(path: str) -> Any:  # noqa: ANN401  whatever was saved
    """Read such a file; its arrays are read from the file when they are used, and are read-only."""
    with Path(path).open("rb") as file:
        head, lengths = pickle.load(file)  # noqa: S301  written by this run
        start = file.tell()
        # The last buffers may be empty, beyond the file's end.
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    buffers = []
    for length in lengths:
        start = _aligned(start)
        buffers.append(view[start : start + length])
        start += length
    return pickle.loads(head, buffers=buffers)  # noqa: S301


def _aligned(place: int) -> int:
    return -(-place // ALIGNMENT) * ALIGNMENT
