"""Share a value between the processes of a host: arrays and tables become memory-mapped files."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SavedArray:
    """Replaces an array in a shared value; the file's suffix gives the type."""

    path: Path


def save_arrays(value: object, folder: Path) -> Any:  # noqa: ANN401  of the same type
    """Write all arrays to files; return a copy of the value with `SavedArray`s in their place."""
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

    return _map_parts(value, saved)


def load_arrays(value: object) -> Any:  # noqa: ANN401  of the type that was saved
    """Return a copy of the value with its arrays, memory-mapped from their files."""
    import numpy as np
    import pyarrow as pa

    from job.storage.arrow_tables import one_array

    def loaded(part: object) -> object:
        if not isinstance(part, SavedArray):
            return part
        if part.path.suffix == ".npy":
            # Copy on write: changes in memory do not reach the file.
            return np.load(part.path, mmap_mode="c", allow_pickle=False)
        table = pa.ipc.open_file(pa.memory_map(str(part.path))).read_all()
        return table if part.path.suffix == ".table" else one_array(table["array"])

    return _map_parts(value, loaded)


def _map_parts(value: Any, change: Callable[[object], object]) -> Any:  # noqa: ANN401
    """Apply `change` to the parts of a value in dataclasses, dictionaries and tuples."""
    if isinstance(value, SavedArray):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _map_parts(getattr(value, each.name), change) for each in fields(value)}
        return replace(value, **parts)
    if isinstance(value, dict):
        return {key: _map_parts(part, change) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_map_parts(part, change) for part in value)
    return change(value)
