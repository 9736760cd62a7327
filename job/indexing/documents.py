"""The documents of a corpus: read, checked, sorted by id."""

import hashlib
import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.core.errors import DataError
from job.core.formatting import counted
from job.data.cleaning import is_encodable
from job.data.column_advice import longest_column
from job.data.column_names import column_names, listed
from job.data.dataset import Corpus
from job.data.formats import beir
from job.data.formats.layout import Record, titled
from job.data.formats.row_reader import FIRST_ROWS
from job.data.formats.values import TEXT_KEYS
from job.data.readers import explain_read_errors, read_records, require_utf8_name
from job.data.schemas import PLACE, TEXT
from job.data.sources import CORPUS_IDS
from job.data.text_files import WrongEncoding, likely_encoding
from job.storage.arrow_tables import IntArray, TableFile, column_values, one_array, rows_on_disk

SCHEMA = pa.schema(PLACE | {"id": TEXT, "text": TEXT})
DIGEST_BYTES = 8
TITLE = "title"


@dataclass(frozen=True)
class Columns:
    """The columns of ids and texts that the user names; None: detected in the first rows."""

    id: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Documents:
    """All documents, sorted by id; `notes` are sentences about what was left out."""

    corpus: Corpus
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.corpus)

    def digests(self) -> Iterator[bytes]:
        """Yield the digest of each text."""
        for text in column_values(self.corpus.texts):
            yield hashlib.blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).digest()

    def digest(self) -> str:
        """Hash ids and texts, in order; returns 16 hex digits."""
        whole = hashlib.sha256()
        for name, text in zip(column_values(self.corpus.ids), self.digests(), strict=True):
            whole.update(name.encode("utf-8") + b"\0" + text)
        return whole.hexdigest()[:16]


def read_documents(source: str, columns: Columns) -> Documents:
    """Read a file or folder; raises `DataError` that names the file and the row.

    Documents without text are left out, and repetitions of a document with the same id and text.
    """
    path = _existing(source)
    place = beir.corpus_of(path) if path.is_dir() and beir.is_beir(path) else path
    try:
        table, notes = _Reader(columns).read(read_records(place))
    except DataError as error:
        if isinstance(cause := error.__cause__, WrongEncoding):
            # `data.encoding`, which that error names, is a field of jobs.
            msg = f"{cause.reason} {_as_utf8(cause.file)}"
            raise DataError(msg) from None
        raise
    if not len(table):
        msg = f"`{path}` has no rows. Check the path."
        if notes:
            msg = f"`{path}` has no document with text ({'; '.join(notes)}). Name the column of "
            msg += "texts: `--text-column`."
        raise DataError(msg)
    ordered = rows_on_disk(table, pc.sort_indices(table["id"]).to_numpy().astype(np.int64))
    distinct = _without_repetitions(ordered)
    if dropped := len(ordered) - len(distinct):
        ordered = rows_on_disk(ordered, distinct)
        notes = (*notes, f"{counted(dropped, 'row')} left out: id and text of another row")
    ids, texts = (one_array(ordered[name]) for name in ("id", "text"))
    return Documents(Corpus(ids, texts), notes)


def _existing(source: str) -> Path:
    if "://" in source:
        msg = f"`--corpus` is `{source}`; it must be a file or folder on this machine. "
        raise DataError(msg + "Download it, and name the copy.")
    require_utf8_name(source)
    path = Path(source)
    with explain_read_errors(path):
        if not path.exists():
            msg = f"`--corpus` is `{path}`, which does not exist. Check the path."
            raise DataError(msg)
    return path


def _as_utf8(file: Path) -> str:
    likely = likely_encoding(file)
    if likely is None:
        return "Save it as UTF-8."
    old, new = (shlex.quote(str(p)) for p in (file, file.with_stem(f"{file.stem}-utf8")))
    return f"It looks like {likely}. Save it as UTF-8: `iconv -f {likely} -t utf-8 {old} > {new}`."


class _Reader:
    """Reads ids and texts; the first rows decide which columns have them."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._empty, self._first_empty = 0, ""

    def read(self, records: Iterator[Record]) -> tuple[pa.Table, tuple[str, ...]]:
        first = list(itertools.islice(records, FIRST_ROWS))
        ids = self._id_columns(first)
        found = TableFile(SCHEMA)
        number = 0
        for number, record in enumerate(itertools.chain(first, records), start=1):
            text = self._text(record, first)
            if text is None:
                self._empty += 1
                self._first_empty = self._first_empty or f"{record.file}:{record.row}"
                continue
            name = _id(record, ids) if ids else f"c{number:08d}"
            found.add(record.file, record.row, name, text)
        notes = [] if ids or not number else ["no column of ids: documents are numbered by row"]
        if self._empty:
            left = f"{counted(self._empty, 'document')} without text left out"
            notes.append(f"{left} (first: {self._first_empty})")
        return found.table(), tuple(notes)

    def _id_columns(self, first: Sequence[Record]) -> tuple[str, ...]:
        known = {name for record in first for name in record.fields}
        if (column := self._columns.id) is not None:
            if first and column not in known:
                msg = f"`{first[0].file}` has no column `{column}`, but "
                msg += f"{listed(column_names(first[0].fields))}. Name the column of ids: "
                raise DataError(msg + "`--id-column NAME`.")
            return (column,)
        return tuple(name for name in CORPUS_IDS if name in known)[:1]

    def _text(self, record: Record, first: Sequence[Record]) -> str | None:
        """Return a document's text with its title before it, stripped; None if it has none."""
        fields, column = record.fields, self._columns.text
        if column is not None:
            if column not in fields:
                raise DataError(_no_text(record, column, first))
            title = None if column == TITLE else fields.get(TITLE)
            full = titled(title, fields[column])
        elif not any(key in fields for key in TEXT_KEYS):
            raise DataError(_no_text(record, TEXT_KEYS[0], first))
        else:
            full = beir.document("", record).full
        if full is None or (isinstance(full, str) and not full.strip()):
            return None
        if not isinstance(full, str) or not is_encodable(full):
            shown = str(full)[:40].encode("utf-8", "backslashreplace").decode("utf-8")
            msg = f"`{record.file}` row {record.row}: the text is no text (`{shown}`). Correct or "
            raise DataError(msg + "remove that row, or name another column: `--text-column`.")
        return full.strip()


def _id(record: Record, columns: Sequence[str]) -> str:
    """Return a document's id as it is: the application looks it up."""
    value: Any = record.fields.get(columns[0])
    is_id = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    if not is_id or "\0" in (name := str(value)) or not is_encodable(name):
        msg = (
            f"`{record.file}` row {record.row} has no id in `{columns[0]}` (found {value!r:.40}). "
        )
        raise DataError(msg + "Give each row a text or a whole number, or name `--id-column`.")
    return name


def _no_text(record: Record, column: str, first: Sequence[Record]) -> str:
    msg = f"`{record.file}` row {record.row} has no column `{column}`, but "
    likely = longest_column([known.fields for known in first])
    return f"{msg}{listed(column_names(record.fields))}. Name the column of texts: " + (
        f"`--text-column {likely}`." if likely else "`--text-column NAME`."
    )


def _without_repetitions(table: pa.Table) -> IntArray:
    """Return the first row of each id; refuse an id with two texts. Rows are sorted by id."""
    ids, texts = one_array(table["id"]), one_array(table["text"])
    if len(table) < 2:
        return np.arange(len(table))
    repeated = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(repeated):
        one, other = texts[int(row)].as_py(), texts[int(row) + 1].as_py()
        if one != other:
            places = [f"{table['file'][n]} row {table['row'][n]}" for n in (int(row), int(row) + 1)]
            msg = f"Two documents have the id `{ids[int(row)]}`: {' and '.join(places)}. Give each "
            raise DataError(msg + "document an id of its own, or name another `--id-column`.")
    return np.flatnonzero(~np.concatenate([[False], repeated])).astype(np.int64)
