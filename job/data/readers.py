"""Read rows from files, one at a time: JSON lines and documents, tables, Parquet, Arrow, Excel.

This module only checks that a file has the format its name says; a broken file raises a
`DataError` that names the file and the line. `cleaning` checks the values.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.core.folders import files_below
from job.data.arrow_files import read_arrow, read_parquet
from job.data.column_names import listed
from job.data.formats.documents import (
    UnevenColumns,
    header_row,
    is_list,
    named_row,
    read_list,
    wrapped,
)
from job.data.formats.layout import Document, DocumentLayout
from job.data.formats.layout import Record as Record  # noqa: PLC0414  others know it from here
from job.data.formats.splits import file_splits
from job.data.tables import SURPLUS as SURPLUS  # noqa: PLC0414  as above
from job.data.tables import read_table
from job.data.text_files import read_lines, renaming
from job.data.workbooks import WORKBOOKS, read_workbook
from job.runtime.logs import warn
from job.spec.commands import check_command

TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMATS = (*TEXT_FORMATS, ".parquet", ".arrow", *WORKBOOKS)
SUFFIXES = ", ".join(f"`{suffix}`" for suffix in FORMATS) + " (text formats also with `.gz`)"
# A JSON document is read as a whole and takes several times its size in memory.
LARGE_DOCUMENT = 10**9
NO_SPACE = re.compile(r"\S")
# A list of rows, or an object with one such list, under any key.
ROWS = DocumentLayout("rows", "a list of objects", is_list, read_list)
LISTS = "lists"


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
            raise DataError(msg + renaming(path))
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
        raise DataError(msg + " Documents without questions: `--documents` instead of `--data`.")
    return files


def _files_below(path: Path) -> Iterator[Path]:
    try:
        for file in files_below(path):
            require_utf8_name(str(file))
            yield file
    except OSError as error:
        with explain_read_errors(error.filename):
            raise


def require_utf8_name(name: str) -> None:
    """Refuse a name that cannot be written to the report or to the tables of rows."""
    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    if shown != name:
        msg = f"The name `{shown}` is not UTF-8. Rename that file or folder."
        raise DataError(msg)


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


def read_records(path: Path, encoding: str = "utf-8") -> Iterator[Record]:
    """Yield the rows of a file, or of all data files below a folder."""
    return RecordFiles.at(path, encoding).records()


class RecordFiles:
    """Files whose rows are read once, in order; `layouts` and `notes` say what they are."""

    def __init__(
        self,
        files: Mapping[Path, str | None],
        encoding: str = "utf-8",
        layouts: Sequence[DocumentLayout] = (ROWS,),
        named: Sequence[str] = (),
    ) -> None:
        """`files` gives the split of each file; `named` are the columns that the spec names."""
        self.files = files
        self.notes: list[str] = []
        # Names of the layouts of JSON documents that were read so far.
        self.layouts: dict[str, None] = {}
        self._encoding, self._known, self._named = encoding, layouts, named
        # The last document: recognition, documents and rows each need it.
        self._parsed: tuple[Path, tuple[DocumentLayout, Any]] | None = None

    @classmethod
    def at(
        cls,
        path: Path,
        encoding: str = "utf-8",
        layouts: Sequence[DocumentLayout] = (ROWS,),
        named: Sequence[str] = (),
        *,
        leave_out: Sequence[Path] = (),
        pooled: bool = True,
    ) -> "RecordFiles":
        """Read a file or a folder; unless `pooled`, the names of files decide the splits."""
        with explain_read_errors(path):
            files = [file for file in list_files(path) if file not in leave_out]
        splits = {} if pooled else file_splits(files, path)
        return cls({file: splits.get(file) for file in files}, encoding, layouts, named)

    def records(self) -> Iterator[Record]:
        for file, split in self.files.items():
            with explain_read_errors(file):
                rows = self._read(file)
                yield from (row._replace(split=split) for row in rows) if split else rows

    def documents(self) -> Iterator[Document]:
        """Yield the documents that the files contain besides their rows."""
        for file in self.files:
            with explain_read_errors(file):
                if self._is_whole(file) and (found := self._parse(file)) is not None:
                    layout, whole = found
                    if layout.documents is not None:
                        yield from layout.documents(whole)

    def _read(self, file: Path) -> Iterator[Record]:
        suffix = file_format(file)
        if suffix in (".csv", ".tsv"):
            return read_table(file, self._encoding, self._named)
        if suffix == ".parquet":
            return read_parquet(file)
        if suffix == ".arrow":
            return read_arrow(file)
        if suffix in WORKBOOKS:
            return read_workbook(file)
        return self._read_json(file)

    def _read_json(self, file: Path) -> Iterator[Record]:
        if self._is_whole(file) and (found := self._parse(file)) is not None:
            layout, whole = found
            self.layouts[layout.name] = None
            return self._even(file, self._rows(file, layout.records(whole)))
        return self._rows(file, self._lines(file))

    def _even(self, file: Path, records: Iterator[Record]) -> Iterator[Record]:
        try:
            yield from records
        except UnevenColumns as error:
            command = check_command(str(file), format="rows")
            msg = f"`{file}` has {error}. Give each column a value for each row; if the lists are "
            raise DataError(msg + f"those of a single row: `{command}`.") from None

    def _is_whole(self, file: Path) -> bool:
        """Tell whether a file is one JSON document rather than JSON lines."""
        suffix = file_format(file)
        if suffix == ".json" or suffix not in (".jsonl", ".ndjson"):
            return suffix == ".json"
        first = next(
            (line.strip() for line in read_lines(file, self._encoding) if line.strip()), ""
        )
        if not first.startswith("["):
            return first == "{"
        try:
            # A row that is a list contains strings, a list of rows contains rows.
            return all(isinstance(value, list | dict) for value in json.loads(first))
        except (ValueError, RecursionError):
            return True

    def _parse(self, file: Path) -> tuple[DocumentLayout, Any] | None:
        """Parse a JSON document and recognize its layout; None if the file has JSON lines."""
        if self._parsed and self._parsed[0] == file:
            return self._parsed[1]
        if file.stat().st_size > LARGE_DOCUMENT:
            note = f"`{file}` is one JSON document of {file.stat().st_size / 1e9:.1f} GB, which is "
            note += "read as a whole; JSON lines (`.jsonl`) need a fraction of the memory."
            self.notes.append(note)
            # Before it is read: the memory may not suffice.
            warn("data", note)
        text = "".join(read_lines(file, self._encoding))
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            if getattr(error, "msg", "") != "Extra data" and file_format(file) == ".json":
                where = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
                msg = f"`{file}` is not valid JSON, {where}{_json_fault(error)}."
                raise DataError(msg) from None
            # Many tools give JSON lines the suffix `.json`; `jq` indents each object.
            document = _objects(text)
            if document is None:
                return None
        layout, document = self._layout(file, document)
        if layout.complete is not None:
            document = layout.complete(document, file)
        self._parsed = (file, (layout, document))
        return self._parsed[1]

    def _layout(self, file: Path, document: object) -> tuple[DocumentLayout, Any]:
        """Return the layout of a document, or of the only list or object in it."""
        for part in (document, wrapped(document)):
            if found := next((known for known in self._known if known.recognizes(part)), None):
                return found, part
        keys = f", but has the keys {listed([*document])}" if isinstance(document, dict) else ""
        msg = f"`{file}` must contain exactly one list of objects, or JSON lines{keys}. "
        msg += "Put the rows into one list, or each list into a file of a folder; "
        msg += "`embedtune check --help` names the other layouts."
        if ROWS not in self._known:
            expected = "; or ".join(known.summary for known in self._known)
            msg = f"`{file}` is not in the layout that `data.format` names: {expected}."
        raise DataError(msg)

    def _lines(self, file: Path) -> Iterator[tuple[int, Any, None]]:
        for number, line in enumerate(read_lines(file, self._encoding), start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line), None
            except (ValueError, RecursionError) as error:
                reason = f"{_json_fault(error)}. Found {line.strip()[:60]!r}"
                msg = f"`{file}` line {number} is not valid JSON: {reason}."
                raise DataError(msg) from None

    def _rows(self, file: Path, values: Iterable[tuple[int, Any, str | None]]) -> Iterator[Record]:
        """Make records of objects, or of lists if the first row is one."""
        lists: bool | None = None
        header: list[str] | None = None
        name = str(file)
        for number, value, split in values:
            if lists is None:
                lists = isinstance(value, list)
                if lists:
                    self.layouts[LISTS] = None
                if header := header_row(value):
                    continue
            fields = value
            if lists and isinstance(value, list):
                fields = dict(zip(header, value, strict=False)) if header else named_row(value)
            if not isinstance(fields, dict) or (lists and isinstance(value, dict)):
                msg = f"`{file}` row {number} is {JSON_NAMES.get(type(value), 'a number')}, not "
                msg += f"{EXPECTED_LIST if lists else EXPECTED}. Correct or remove it."
                raise DataError(msg)
            yield Record(name, number, fields, split)


JSON_NAMES = {type(None): "null", bool: "true or false", str: "a text", dict: "an object",
              list: "a list"}  # fmt: skip
EXPECTED = 'an object such as {"question": …, "context": …}'
EXPECTED_LIST = 'a list such as ["question", "context", "negative"]'


def _objects(text: str) -> list[Any] | None:
    """Parse objects that follow each other, each over several lines; None if they do not."""
    found, at, decoder = [], 0, json.JSONDecoder()
    if text.lstrip().partition("\n")[0].strip() != "{":
        return None
    try:
        # `raw_decode` does not skip white space.
        while (start := NO_SPACE.search(text, at)) is not None:
            value, at = decoder.raw_decode(text, start.start())
            found.append(value)
    except (ValueError, RecursionError):
        return None
    return found


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # Python refuses to read integers of more than 4,300 digits.
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
