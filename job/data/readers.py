"""Rows out of files: JSONL, JSON, CSV, TSV and Parquet, compressed or not, a row at a time.

Nothing is judged here beyond "is this file what its name says": a broken file is a `DataError`
that names the file and the line.
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
# No text is so long; a small compressed file may well unpack to such a line.
MAX_LINE_BYTES = 64 * 1024 * 1024
# A compressed file may unpack to so many bytes, or to so many times its size if that is more. Texts
# take a third to a tenth of their size; a bomb takes a thousandth.
MAX_UNPACKED_BYTES = 2**30
MAX_UNPACKED_RATIO = 200
# Python's default limit of 128 KiB is below what exported documents reach.
csv.field_size_limit(MAX_LINE_BYTES)
# Key under which csv puts the fields that the header has no name for.
SURPLUS = "\0surplus"
# How files begin that are no text, whatever their names say.
FOREIGN = {
    b"PK\x03\x04": "a workbook or another ZIP archive; export it as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old workbook; export it as CSV in UTF-8",
    b"PAR1": "Parquet; end its name in `.parquet`",
    b"\x1f\x8b": "compressed once more than its name says; unpack it",
}


@dataclass(frozen=True)
class Record:
    file: str
    # The line in text files (a CSV's header is line 1), else the row, from 1.
    row: int
    fields: dict[str, Any]


def file_format(path: Path) -> str | None:
    """Suffix that decides how a file is read, below a `.gz` if there is one."""
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    return suffix if suffix in (TEXT_FORMATS if packed else FORMATS) else None


def list_files(path: Path) -> list[Path]:
    """List the data files at a path: itself, or what a folder holds, in the order of names."""
    if path.is_file():
        if file_format(path) is None:
            msg = f"`{path}` has a suffix that says no format; expected {SUFFIXES}."
            raise DataError(msg)
        return [path]
    if not path.is_dir():
        msg = f"`{path}` is neither a file nor a folder; save the rows as a file."
        raise DataError(msg)
    files = sorted(
        file
        for file in _files_below(path)
        if file.is_file()
        and file_format(file)
        # Notebooks, sync tools and Git keep copies in hidden folders.
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        msg = f"The folder `{path}` holds no data file; expected {SUFFIXES}."
        raise DataError(msg)
    return files


def _files_below(path: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        # Passed over, its rows would be missing in silence.
        with explained(error.filename):
            raise error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            for part in (folder, name):
                # No report, and no list of dropped rows, could hold it.
                shown = os.fsencode(part).decode("utf-8", "backslashreplace")
                if shown != part:
                    msg = f"The name `{shown}` is not UTF-8; rename that file or folder."
                    raise DataError(msg)
            yield Path(folder, name)


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Say which path it was that cannot be read."""
    try:
        yield
    except OSError as error:
        # gzip and Parquet report broken content as operating system errors without a number.
        reason = error.strerror or next(iter(str(error).splitlines()), "no reason was given")
        remedy = "Write or fetch it anew" if error.errno is None else "Make it readable"
        msg = f"`{path}` cannot be read: {reason.rstrip('.')}. {remedy}, or remove it."
        raise DataError(msg) from None


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file or of each file in a folder."""
    readers = {".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}
    with explained(path):
        files = list_files(path)
    for file in files:
        read = readers.get(file_format(file) or "", _read_jsonl)
        with explained(file):
            yield from read(file)


def _read_lines(file: Path) -> Iterator[str]:
    """Decode line by line, so that a wrong byte is reported with its line."""
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    line, room = 0, max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * file.stat().st_size)
    try:
        with opener(file, "rb") as handle:
            lines = iter(lambda: handle.readline(MAX_LINE_BYTES), b"")
            for line, raw in enumerate(lines, start=1):
                if len(raw) == MAX_LINE_BYTES:
                    msg = f"`{file}` line {line} is longer than {MAX_LINE_BYTES:,} bytes; split it."
                    raise DataError(msg)
                if (room := room - len(raw)) < 0:
                    msg = f"`{file}` unpacks to more than {MAX_UNPACKED_BYTES:,} bytes and "
                    msg += f"{MAX_UNPACKED_RATIO} times its size (up to line {line}), as no real "
                    raise DataError(msg + "texts do. If they are yours, `gunzip` it.")
                if line == 1:
                    _refuse_foreign(file, raw)
                text = raw.decode("utf-8")
                yield text.removeprefix("\ufeff") if line == 1 else text
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} in line {line}"
        msg = f"`{file}` is not UTF-8: {byte}. Save it as UTF-8."
        raise DataError(msg) from None
    except (EOFError, zlib.error):
        msg = f"`{file}` is a damaged or cut-off gzip file (after line {line}). Fetch it again."
        raise DataError(msg) from None


def _refuse_foreign(file: Path, start: bytes) -> None:
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            msg = f"`{file}` is {what}."
            raise DataError(msg)
    if b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        msg = f"`{file}` is not UTF-8: its first line holds zero bytes, as UTF-16 does. "
        raise DataError(msg + "Save it as UTF-8.")


def _read_jsonl(file: Path) -> Iterator[Record]:
    for number, line in enumerate(_read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            found = f"{_json_fault(error)}. Found {line.strip()[:60]!r}"
            msg = f"`{file}` line {number} is not valid JSON: {found}."
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
            # Many tools write JSON lines under the name `.json`.
            yield from _read_jsonl(file)
            return
        where = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        msg = f"`{file}` is not valid JSON, {where}{_json_fault(error)}."
        raise DataError(msg) from None
    lists = [document]
    if not isinstance(document, list):
        inner = document.values() if isinstance(document, dict) else ()
        lists = [v for v in inner if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(lists) != 1:
        msg = f"`{file}` holds no list of rows; expected a list of objects or JSON lines."
        raise DataError(msg)
    for number, value in enumerate(lists[0], start=1):
        yield _record(file, number, value)


def _read_csv(file: Path) -> Iterator[Record]:
    lines = _read_lines(file)
    header = next(lines, "")
    # Spreadsheets in half of Europe write semicolons and call it CSV.
    comma = ";" if header.count(";") > header.count(",") else ","
    delimiter = "\t" if file_format(file) == ".tsv" else comma
    # Strict: a quote that never closes would swallow the rest of the file.
    reader = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        _refuse_doubles(file, names)
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


def _refuse_doubles(file: Path, names: list[str]) -> None:
    """Refuse two columns of one name, of which the last would win in silence."""
    counts = Counter(name for name in names if name.strip())
    if doubles := [name for name, count in counts.items() if count > 1]:
        msg = f"`{file}` has the column `{doubles[0]}` twice; rename one of them."
        raise DataError(msg)


def _read_parquet(file: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        whole = pq.ParquetFile(file)
        _refuse_doubles(file, whole.schema_arrow.names)
        for batch in whole.iter_batches(batch_size=8192):
            for fields in batch.to_pylist():
                number += 1
                yield Record(str(file), number, fields)
    # The others are values that Python has none for: bytes in texts, years, time zones.
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"`{file}` is not a readable Parquet file: {reason.rstrip('.')}. Write it anew."
        raise DataError(msg) from None
