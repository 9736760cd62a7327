"""Hands a value to the other processes of a host: its arrays and tables lie in files, mapped."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SavedArray:
    """A file that stands for a numpy array, an Arrow array or an Arrow table, as its name says."""

    path: Path


def save_arrays(value: object, folder: Path) -> Any:  # noqa: ANN401  of the same type
    """Return a copy of dataclasses and dictionaries in which files stand for all arrays."""
    import numpy as np
    import pyarrow as pa

    numbers = count()

    def saved(part: object) -> object:
        if isinstance(part, np.ndarray):
            path = folder / f"{next(numbers)}.npy"
            np.save(path, part, allow_pickle=False)
            return SavedArray(path)
        if isinstance(part, pa.Table | pa.Array):
            table = part if isinstance(part, pa.Table) else pa.table({"array": part})
            path = folder / f"{next(numbers)}.{'table' if part is table else 'array'}"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            return SavedArray(path)
        return part

    return _changed(value, saved)


def load_arrays(value: object) -> Any:  # noqa: ANN401  of the type that was saved
    """Put the arrays back; they are read from their files when they are used."""
    import numpy as np
    import pyarrow as pa

    from job.storage.arrow_tables import one_array

    def loaded(part: object) -> object:
        if not isinstance(part, SavedArray):
            return part
        if part.path.suffix == ".npy":
            # What is changed in memory does not reach the file.
            return np.load(part.path, mmap_mode="c", allow_pickle=False)
        table = pa.ipc.open_file(pa.memory_map(str(part.path))).read_all()
        return table if part.path.suffix == ".table" else one_array(table["array"])

    return _changed(value, loaded)


def _changed(value: Any, change: Callable[[object], object]) -> Any:  # noqa: ANN401
    """Change whatever a value holds in its dataclasses, dictionaries and tuples."""
    if isinstance(value, SavedArray):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: _changed(getattr(value, each.name), change) for each in fields(value)}
        return replace(value, **held)
    if isinstance(value, dict):
        return {key: _changed(part, change) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)
    return change(value)
