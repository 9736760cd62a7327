"""What every layout becomes: rows as found, documents that belong to no row, and a source."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from job.spec.commands import check_command
from job.spec.schema import Columns, DataSpec


class Record(NamedTuple):
    """One row of a file: its values by column name."""

    file: str
    # In JSONL, CSV and TSV the line number (a header is line 1), else the row number, from 1.
    row: int
    fields: dict[str, Any]
    # The split, if the file's name or a key of the document tells it.
    split: str | None = None


@dataclass(frozen=True)
class Absent:
    """A missing text, with the reason why the row is dropped."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class RawRow:
    """One row before cleaning: values may have any type that the file format allows."""

    file: str
    row: int
    anchor: Any
    positives: list[Any]
    negatives: list[Any] = field(default_factory=list)
    # Value of the column `data.columns.group`.
    group: Any = None
    # Value of the column `data.columns.document`.
    parent: Any = None
    # Value of the column `data.columns.label`; None if there is no such column.
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
    # The location does not matter for equality.
    file: str = field(default="", compare=False)
    row: int = field(default=0, compare=False)

    @property
    def full(self) -> Any:  # noqa: ANN401  what a file holds is validated later
        """The text with its title before it, as the model reads it."""
        return titled(self.title, self.text)


@dataclass(frozen=True)
class Source:
    """Rows, to be read once, and additional documents that belong to no row."""

    rows: Iterator[RawRow]
    columns: dict[str, Any]
    documents: Iterable[Document] = ()
    # Name of the layout in `check`, the log and the report.
    format: str = "rows"
    # Sentences for `check` about what was decided, and about what looks wrong. Both grow while
    # rows are read.
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def titled(title: Any, text: Any) -> Any:  # noqa: ANN401  as above
    return f"{title} {text}" if title and isinstance(text, str) else text


@dataclass(frozen=True)
class Request:
    """What to read, and the settings of the spec that apply."""

    # Name in error messages.
    name: str
    path: Path
    # None for data of another domain, which the spec does not describe.
    columns: Columns | None = field(default_factory=Columns)
    # Column to slice the report by; `columns.group` is set only if the column is required.
    group: str | None = None
    # Column of the document that a context is a part of; `columns.document` as `columns.group`.
    parent: str | None = None
    encoding: str = "utf-8"
    format: str = "auto"
    # Whether `columns.label` may be missing: a test set may hold nothing but answers.
    label_is_optional: bool = False
    # Whether rows of all splits are pooled (`data.split: train+test`).
    pooled: bool = False
    # All that was set, for commands; None as `columns`.
    spec: DataSpec | None = None

    def command(self, **columns: str) -> str:
        """Return the command that checks the same data with these columns."""
        return self.command_with(**{f"columns.{key}": value for key, value in columns.items()})

    def command_with(self, **settings: object) -> str:
        """Return the command that checks the same data with these settings of `data`."""
        return check_command(self.name, self.spec or self.columns, **settings)


@dataclass(frozen=True)
class FolderLayout:
    """A layout recognized by the files of a folder. Exactly one of `open` and `files` is set."""

    name: str
    summary: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Request], Source] | None = None
    # Returns files of plain rows, and the split of each.
    files: Callable[[Path], dict[Path, str | None]] | None = None


@dataclass(frozen=True)
class DocumentLayout:
    """A layout recognized by the keys of a JSON document; `records` yields (row, fields, split)."""

    name: str
    summary: str
    recognizes: Callable[[Any], bool]
    records: Callable[[Any], Iterator[tuple[int, Any, str | None]]]
    documents: Callable[[Any], Iterator[Document]] | None = None
    # Loads other files that the document refers to; the path is that of the document.
    complete: Callable[[Any, Path], Any] | None = None


Fields = Mapping[str, Any]


@dataclass(frozen=True)
class RowLayout:
    """A layout recognized by the fields of the first rows, each with its first value."""

    name: str
    summary: str
    recognizes: Callable[[Fields], bool]
    # Columns of question and context, after `convert`.
    columns: Callable[[Fields], tuple[str, str]]
    # Columns of hard negatives, if rows have them. Without `convert`, those with usual names too.
    negatives: tuple[str, ...] = ()
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    # Sentences for `check`.
    notes: Callable[[Fields], Sequence[str]] | None = None


Layout = FolderLayout | DocumentLayout | RowLayout
