"""What every layout becomes: rows as found, documents that belong to no row, and a source."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


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
