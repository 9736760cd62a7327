"""Arrow tables larger than memory: columns are temporary, memory-mapped files.

Each column is a single chunk. Taking a few rows then reads only those, while Arrow would first
combine the chunks of a column in memory.
"""

import mmap
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

# Rows held in memory at a time, as Python objects or as a copy.
BATCH = 10_000
# Buffers up to this many bytes stay in memory; larger ones go to a file.
MAX_IN_MEMORY = 2**22

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
KeyArray = np.ndarray[Any, np.dtype[np.uint64]]


class TableFile:
    """Collects rows one by one; `table` returns them as a table with one chunk per column."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = [_ColumnFile(field.type) for field in schema]
        # Rows of the next batch.
        self._rows: list[tuple[Any, ...]] = []

    def add(self, *values: object) -> None:
        self._rows.append(values)
        if len(self._rows) == BATCH:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.table([column.array() for column in self._columns], schema=self._schema)

    def _flush(self) -> None:
        if self._rows:
            values = zip(*self._rows, strict=True)
            for field, column, part in zip(self._schema, self._columns, values, strict=True):
                column.append(pa.array(part, field.type))
            self._rows = []


def column_on_disk(arrays: Iterable[pa.Array], kind: pa.DataType) -> pa.Array:
    """Concatenate arrays into one, on disk if it is large."""
    column = _ColumnFile(kind)
    for array in arrays:
        column.append(array)
    return column.array()


def rows_on_disk(table: pa.Table, positions: IntArray) -> pa.Table:
    """Return these rows of a table, on disk if they are large."""
    taken = (JoinedColumn([column]).batches(positions) for column in table.columns)
    return pa.table(list(map(column_on_disk, taken, table.schema.types)), schema=table.schema)


def one_table(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables of one schema into one with a single chunk per column."""
    nonempty = [table for table in tables if len(table)] or tables[:1]
    if len(nonempty) == 1:
        return nonempty[0]
    whole = pa.concat_tables(nonempty)
    columns = [column_on_disk(column.chunks, column.type) for column in whole.columns]
    return pa.table(columns, schema=whole.schema)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; a single chunk is not copied, as `combine_chunks` would."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def column_values(column: pa.Array | pa.ChunkedArray) -> Iterator[Any]:
    """Yield the values of a column as Python objects, a batch in memory at a time."""
    for array in _chunks(column):
        for start in range(0, len(array), BATCH):
            yield from array.slice(start, BATCH).to_pylist()


class JoinedColumn:
    """Several columns as one; positions count through all of them."""

    def __init__(self, columns: Iterable[pa.ChunkedArray | pa.Array]) -> None:
        chunks = (chunk for column in columns for chunk in _chunks(column))
        self._arrays = [chunk for chunk in chunks if len(chunk)]
        self._starts = np.cumsum([0, *map(len, self._arrays)])

    def __getitem__(self, position: int) -> Any:  # noqa: ANN401  a value of any type
        source = bisect_right(self._starts, position) - 1
        return self._arrays[source][int(position - self._starts[source])].as_py()

    def batches(self, positions: IntArray) -> Iterator[pa.Array]:
        """Yield the values at these positions, in this order, in batches."""
        for start in range(0, len(positions), BATCH):
            batch = positions[start : start + BATCH]
            sources = np.searchsorted(self._starts, batch, side="right") - 1
            parts = [
                self._arrays[source].take(pa.array(batch[sources == source] - self._starts[source]))
                for source in np.unique(sources)
            ]
            # Parts are grouped by source: restore the requested order.
            order = np.argsort(np.argsort(sources, kind="stable"))
            yield pa.concat_arrays(parts).take(pa.array(order))


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


class _ColumnFile:
    """The buffers of one column in Arrow's columnar format, each in a file."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._length = self._nulls = self._end = 0
        self._valid, self._values = _Buffer(), _Buffer()
        self._items = _ColumnFile(kind.value_type) if pa.types.is_list(kind) else None
        # Where each value ends; unused for columns of numbers.
        self._offset = np.dtype(np.int32 if self._items else np.int64)
        self._offsets = _Buffer(bytes(self._offset.itemsize))

    def append(self, array: pa.Array) -> None:
        if not len(array):
            return
        self._length += len(array)
        self._nulls += array.null_count
        self._valid.write(array.is_valid().cast(pa.uint8()).to_numpy())
        if pa.types.is_primitive(self._kind):
            width, first = self._kind.byte_width, array.offset
            self._values.write(array.buffers()[1][first * width : (first + len(array)) * width])
            return
        offsets = np.frombuffer(array.buffers()[1], self._offset)
        offsets = offsets[array.offset : array.offset + len(array) + 1]
        start, stop = int(offsets[0]), int(offsets[-1])
        self._offsets.write(offsets[1:] + self._offset.type(self._end - start))
        self._end += stop - start
        if self._items:
            self._items.append(array.values[start:stop])
        elif stop > start:
            self._values.write(array.buffers()[2][start:stop])

    def array(self) -> pa.Array:
        valid = np.frombuffer(self._valid.finished(), np.uint8)
        bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
        buffers = [bits if self._nulls else None]
        if not pa.types.is_primitive(self._kind):
            buffers.append(self._offsets.finished())
        if not self._items:
            buffers.append(self._values.finished())
        children = [self._items.array()] if self._items else []
        return pa.Array.from_buffers(
            self._kind, self._length, buffers, self._nulls, children=children
        )


class _Buffer:
    """Bytes in memory, or in an unnamed file if they are many.

    The system deletes the file with its last mapping, even if the job is killed.
    """

    def __init__(self, start: bytes = b"") -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=MAX_IN_MEMORY)  # noqa: SIM115  below
        # Closes the file of a table that is never finished, as when a row raises an error.
        weakref.finalize(self, self._file.close)
        self._file.write(start)

    def write(self, values: Any) -> None:  # noqa: ANN401  any object with a buffer
        self._file.write(memoryview(values).cast("B"))

    def finished(self) -> pa.Buffer:
        with self._file as file:
            if (size := file.tell()) > MAX_IN_MEMORY:
                file.flush()
                return pa.py_buffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
            file.seek(0)
            return pa.py_buffer(file.read())
