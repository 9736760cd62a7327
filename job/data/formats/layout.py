"""What every layout becomes: rows as found, documents that belong to no row, and a source."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from job.spec.schema import Columns


class Record(NamedTuple):
    """One row of a file, its values under the names that the file gives them."""

    file: str
    # The line in text files (the header of a CSV is line 1), else the row, from 1.
    row: int
    fields: dict[str, Any]
    # The split that the name of the file, or a key above the rows, gives.
    split: str | None = None


@dataclass(frozen=True)
class Absent:
    """Stands in a row for a text that cannot be found; `reason` says why, for the user."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class RawRow:
    """One row as found; the values may still be anything that the file could hold."""

    file: str
    row: int
    anchor: Any
    positives: list[Any]
    negatives: list[Any] = field(default_factory=list)
    # What the column `data.columns.group` holds.
    group: Any = None
    # What the column `data.columns.label` holds; None if there is no such column.
    label: Any = None
    surplus: bool = False
    # The owner's ids, if the layout has them; one document id for each positive.
    query_id: str | None = None
    document_ids: list[str | None] = field(default_factory=list)
    # Relevance above 0 of each positive, if the layout has grades (BEIR, TREC).
    grades: list[float] = field(default_factory=list)
    # The split that the owner chose.
    split: str | None = None


@dataclass(frozen=True)
class Document:
    id: str
    title: Any
    text: Any
    # The place where it was found does not make it another document.
    file: str = field(default="", compare=False)
    row: int = field(default=0, compare=False)

    @property
    def full(self) -> Any:  # noqa: ANN401  what a file holds is validated later
        """The text with its title before it, as the model reads it."""
        return titled(self.title, self.text)


@dataclass(frozen=True)
class Source:
    """Rows to be read once, front to back, and the documents that belong to no row."""

    rows: Iterator[RawRow]
    columns: dict[str, Any]
    documents: Iterable[Document] = ()
    # Name of the layout, for `check`, log and report.
    format: str = "rows"
    # Sentences for `check` about what was decided.
    notes: Sequence[str] = ()


def titled(title: Any, text: Any) -> Any:  # noqa: ANN401  as above
    return f"{title} {text}" if title and isinstance(text, str) else text


@dataclass(frozen=True)
class Request:
    """What a user asked to read, and how."""

    # As it stands in errors.
    name: str
    path: Path
    # None if the spec cannot name columns, as for data of another domain.
    columns: Columns | None = field(default_factory=Columns)
    # The column to slice by; `columns.group` is the same where it must exist.
    group: str | None = None
    encoding: str = "utf-8"
    format: str = "auto"
    # Whether `columns.label` may be missing: a test set may hold nothing but answers.
    label_is_optional: bool = False
    # Whether splits in names of files are one split (`data.split: train+test`).
    pooled: bool = False

    def command(self, **columns: str) -> str:
        """Return the command that checks the same data with these columns."""
        named = (f"data.columns.{key}={value}" for key, value in columns.items())
        return " ".join(
            ["embedtune check", shlex.quote(self.name), *(f"--set {shlex.quote(n)}" for n in named)]
        )


@dataclass(frozen=True)
class FolderLayout:
    """A layout told by the files of a folder: read as a whole, or as rows of its files."""

    name: str
    summary: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Request], Source] | None = None
    # Files and the split of each.
    files: Callable[[Path], dict[Path, str | None]] | None = None


@dataclass(frozen=True)
class DocumentLayout:
    """A layout told by one JSON document, which holds rows (number, fields, split)."""

    name: str
    summary: str
    recognizes: Callable[[Any], bool]
    records: Callable[[Any], Iterator[tuple[int, Any, str | None]]]
    documents: Callable[[Any], Iterator[Document]] | None = None
    # Makes a document of one that names other files; the path is its own.
    complete: Callable[[Any, Path], Any] | None = None


Fields = Mapping[str, Any]


@dataclass(frozen=True)
class RowLayout:
    """A layout told by the fields of the first rows, each with its first value."""

    name: str
    summary: str
    recognizes: Callable[[Fields], bool]
    # Which fields ask and answer, once `convert` has seen the row.
    columns: Callable[[Fields], tuple[str, str]]
    # Those of hard negatives, as far as rows have them, beside those found by their names (which
    # are the rows' own, before `convert`).
    negatives: tuple[str, ...] = ()
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    # What `check` should say of rows like these.
    notes: Callable[[Fields], Sequence[str]] | None = None


Layout = FolderLayout | DocumentLayout | RowLayout
