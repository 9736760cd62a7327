"""Read the rows of Parquet and Arrow files, a batch in memory at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.data.formats.layout import Record
from job.data.tables import refuse_duplicate_columns


def read_parquet(file: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        whole = pq.ParquetFile(file)
        refuse_duplicate_columns(file, whole.schema_arrow.names)
        yield from whole.iter_batches(batch_size=8192)

    return _read_batches(file, "Parquet", batches)


def read_arrow(file: Path) -> Iterator[Record]:
    """Read Arrow in either of its formats; `datasets` saves streams."""
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        mapped = pa.memory_map(str(file))
        try:
            stream = pa.ipc.open_stream(mapped)
        except pa.ArrowInvalid:
            whole = pa.ipc.open_file(pa.memory_map(str(file)))
            stream = (whole.get_batch(number) for number in range(whole.num_record_batches))
        for batch in stream:
            refuse_duplicate_columns(file, batch.schema.names)
            yield from (batch.slice(at, 8192) for at in range(0, len(batch), 8192))

    return _read_batches(file, "Arrow", batches)


def _read_batches(file: Path, kind: str, batches: Callable[[], Iterator[Any]]) -> Iterator[Record]:
    import pyarrow as pa

    name, number = str(file), 0
    try:
        for batch in batches():
            for fields in batch.to_pylist():
                number += 1
                yield Record(name, number, fields)
    # The other errors come from values that Python cannot represent: invalid UTF-8 in a string,
    # years out of range, unknown time zones.
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = (
            "Save it again with `datasets.save_to_disk`" if kind == "Arrow" else "Create it again"
        )
        msg = f"`{file}` is not a readable {kind} file: {reason.rstrip('.')}. {remedy}."
        raise DataError(msg) from None
