"""Read rows from files, one at a time: JSONL, JSON, CSV, TSV (also gzipped) and Parquet.

This module only checks that a file has the format its name says; a broken file raises a
`DataError` that names the file and the line. `cleaning` checks the values.
"""

import codecs
import csv
import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from job.core.errors import DataError

TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMATS = (*TEXT_FORMATS, ".parquet")
SUFFIXES = ", ".join(f"`{suffix}`" for suffix in FORMATS) + " (text formats also with `.gz`)"
# No real text is longer, but a small compressed file may unpack to such a line.
MAX_LINE_BYTES = 64 * 1024 * 1024
# Limit on unpacking: the larger of these bytes and this multiple of the compressed size. gzip
# shrinks texts to between a tenth and a third of their size, a zip bomb to a thousandth.
MAX_UNPACKED_BYTES = 2**30
MAX_UNPACKED_RATIO = 200
# Exported documents exceed Python's default limit of 128 KiB.
csv.field_size_limit(MAX_LINE_BYTES)
# Key of a record's fields beyond the header's columns.
SURPLUS = "\0surplus"
# First bytes of other formats, and what to do with such a file.
MAGIC_BYTES = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive; export it as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (`.xls`); export it as CSV in UTF-8",
    b"PAR1": "a Parquet file; rename it to end in `.parquet`",
    b"\x1f\x8b": "a gzip file without the suffix `.gz`, or gzipped twice; unpack it",
}


@dataclass(frozen=True)
class Record:
    file: str
    # In JSONL, CSV and TSV the line number (a header is line 1), else the row number, from 1.
    row: int
    fields: dict[str, Any]


def file_format(path: Path) -> str | None:
    """Return the suffix that selects the reader, without `.gz`; None if no reader has it."""
    gzipped = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if gzipped else path.name).suffix.lower()
    return suffix if suffix in (TEXT_FORMATS if gzipped else FORMATS) else None


def list_files(path: Path) -> list[Path]:
    """Return the path of a data file, or the data files below a folder, sorted by name."""
    if path.is_file():
        if file_format(path) is None:
            msg = f"The suffix of `{path}` is not supported. Supported: {SUFFIXES}."
            raise DataError(msg)
        return [path]
    if not path.is_dir():
        msg = f"`{path}` is neither a regular file nor a folder. Save the rows in a file."
        raise DataError(msg)
    files = sorted(
        file
        for file in _files_below(path)
        if file.is_file()
        and file_format(file)
        # Jupyter, sync tools and Git store copies of files in hidden folders.
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        msg = f"The folder `{path}` contains no data file. Supported suffixes: {SUFFIXES}."
        raise DataError(msg)
    return files


def _files_below(path: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        # `os.walk` would skip the folder, and its rows would be missing without a message.
        with explain_read_errors(error.filename):
            raise error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            for part in (folder, name):
                # Such a name cannot be written to the report or the list of dropped rows.
                shown = os.fsencode(part).decode("utf-8", "backslashreplace")
                if shown != part:
                    msg = f"The name `{shown}` is not UTF-8. Rename that file or folder."
                    raise DataError(msg)
            yield Path(folder, name)


@contextmanager
def explain_read_errors(path: Path | str) -> Iterator[None]:
    """Convert an `OSError` into a `DataError` that names the path."""
    try:
        yield
    except OSError as error:
        # For broken content, gzip and pyarrow raise an OSError without an error number.
        reason = error.strerror or next(iter(str(error).splitlines()), "no reason was given")
        remedy = "Create or fetch it again" if error.errno is None else "Make it readable"
        msg = f"`{path}` cannot be read: {reason.rstrip('.')}. {remedy}, or remove it."
        raise DataError(msg) from None


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file, or of all data files below a folder."""
    readers = {".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}
    with explain_read_errors(path):
        files = list_files(path)
    for file in files:
        read = readers.get(file_format(file) or "", _read_jsonl)
        with explain_read_errors(file):
            yield from read(file)


def _read_lines(file: Path) -> Iterator[str]:
    """Decode line by line, so that an error can name the line."""
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    line, room = 0, max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * file.stat().st_size)
    try:
        with opener(file, "rb") as handle:
            lines = iter(lambda: handle.readline(MAX_LINE_BYTES), b"")
            for line, raw in enumerate(lines, start=1):
                if len(raw) == MAX_LINE_BYTES:
                    msg = f"`{file}` line {line} is longer than {MAX_LINE_BYTES:,} bytes. Split it."
                    raise DataError(msg)
                if (room := room - len(raw)) < 0:
                    msg = f"`{file}` unpacks to more than {MAX_UNPACKED_BYTES:,} bytes and "
                    msg += f"{MAX_UNPACKED_RATIO} times its size (at line {line}): it may be a zip "
                    raise DataError(msg + "bomb. If you trust it, unpack it with `gunzip` first.")
                if line == 1:
                    _refuse_other_formats(file, raw)
                text = raw.decode("utf-8")
                yield text.removeprefix("\ufeff") if line == 1 else text
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} in line {line}"
        msg = f"`{file}` is not UTF-8: {byte}. Save it as UTF-8."
        raise DataError(msg) from None
    except (EOFError, zlib.error):
        msg = f"`{file}` is a damaged or truncated gzip file (after line {line}). Fetch it again."
        raise DataError(msg) from None


def _refuse_other_formats(file: Path, start: bytes) -> None:
    for magic, what in MAGIC_BYTES.items():
        if start.startswith(magic):
            msg = f"`{file}` is {what}."
            raise DataError(msg)
    # With a byte order mark, decoding fails at byte 0xff or 0xfe, with a message as clear as this.
    if b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        msg = f"`{file}` is not UTF-8: its first line contains zero bytes, so it may be UTF-16. "
        raise DataError(msg + "Save it as UTF-8.")


def _read_jsonl(file: Path) -> Iterator[Record]:
    for number, line in enumerate(_read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{_json_fault(error)}. Found {line.strip()[:60]!r}"
            msg = f"`{file}` line {number} is not valid JSON: {reason}."
            raise DataError(msg) from None
        yield _record(file, number, value)


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # Python refuses to read integers of more than 4,300 digits.
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _record(file: Path, number: int, value: object) -> Record:
    if not isinstance(value, dict):
        msg = f"`{file}` row {number} is a {type(value).__name__}; "
        raise DataError(msg + 'expected an object such as {"question": …, "context": …}.')
    return Record(str(file), number, value)


def _read_json(file: Path) -> Iterator[Record]:
    text = "".join(_read_lines(file))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":
            # Many tools give JSON lines the suffix `.json`.
            yield from _read_jsonl(file)
            return
        line = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        msg = f"`{file}` is not valid JSON, {line}{_json_fault(error)}."
        raise DataError(msg) from None
    lists = [document]
    if not isinstance(document, list):
        inner = document.values() if isinstance(document, dict) else ()
        lists = [v for v in inner if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(lists) != 1:
        msg = f"`{file}` must contain exactly one list of objects, or JSON lines."
        raise DataError(msg)
    for number, value in enumerate(lists[0], start=1):
        yield _record(file, number, value)


def _read_csv(file: Path) -> Iterator[Record]:
    lines = _read_lines(file)
    header = next(lines, "")
    # In many European locales, spreadsheets separate the fields of a CSV with semicolons.
    comma = ";" if header.count(";") > header.count(",") else ","
    delimiter = "\t" if file_format(file) == ".tsv" else comma
    # Not strict, csv would read the rest of the file as one field after an unclosed quote.
    reader = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        _refuse_duplicate_columns(file, names)
        line = reader.line_num + 1
        for values in reader:
            if values:
                fields = dict.fromkeys(names) | dict(zip(names, values, strict=False))
                surplus = {SURPLUS: values[len(names) :]} if len(values) > len(names) else {}
                yield Record(str(file), line, fields | surplus)
            line = reader.line_num + 1
    except csv.Error as error:
        msg = f"`{file}` line {reader.line_num} is not valid CSV: {error}."
        raise DataError(msg) from None


def _refuse_duplicate_columns(file: Path, names: list[str]) -> None:
    """Refuse columns with the same name: the last one would silently replace the others."""
    counts = Counter(name for name in names if name.strip())
    if duplicates := [name for name, count in counts.items() if count > 1]:
        msg = f"`{file}` has the column `{duplicates[0]}` twice. Rename or remove one of them."
        raise DataError(msg)


def _read_parquet(file: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        parquet = pq.ParquetFile(file)
        _refuse_duplicate_columns(file, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(batch_size=8192):
            for fields in batch.to_pylist():
                number += 1
                yield Record(str(file), number, fields)
    # The other errors come from values that Python cannot represent: invalid UTF-8 in a string,
    # years out of range, unknown time zones.
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"`{file}` is not a readable Parquet file: {reason.rstrip('.')}. Create it again."
        raise DataError(msg) from None
