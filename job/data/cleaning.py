"""Clean rows into pairs: check each row, store it in Arrow columns with the hashes of its texts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from job.data.formats.layout import Absent, Document, RawRow
from job.data.given_documents import ID_CHARACTERS, GivenDocuments
from job.data.labels import NO_LABEL, Label, LabelReader
from job.data.more_negatives import DUPLICATE, MoreNegatives, excerpt
from job.data.schemas import DOCUMENT_SCHEMA, PAIR_SCHEMA, REJECTED_SCHEMA
from job.data.text_keys import pair_key, question_key, text_key
from job.data.words import characters
from job.runtime.counter import count_each
from job.storage.arrow_tables import TableFile, one_array, one_table

# A group's name is a label in tables, cut to this length; names that are equal when cut are merged.
GROUP_CHARACTERS = 100
# Tells the name of a document from an equal text.
PARENT = 0xBF58476D1CE4E5B9
# What tools write for no value.
NOTHING = ("", "nan", "none", "null", "n/a", "<na>")
MAX_BLANK = max(map(len, NOTHING))
# Tells a context that is not relevant from the same context as an answer.
NOT_RELEVANT = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Cleaned:
    """Usable rows (`kept`), rejected rows with their reasons, and the number of rows read."""

    kept: pa.Table
    rejected: pa.Table
    rows: int
    # Rows that repeat a pair and brought it another negative.
    merged: int = 0
    # Negatives whose document is not in the corpus, and why the first is dropped.
    lost_negatives: int = 0
    first_lost: str | None = None


def concatenate(parts: Sequence[Cleaned]) -> Cleaned:
    kept = one_table([part.kept for part in parts])
    rejected = one_table([part.rejected for part in parts])
    names = ("rows", "merged", "lost_negatives")
    counts = {name: sum(getattr(part, name) for part in parts) for name in names}
    first_lost = next((part.first_lost for part in parts if part.first_lost), None)
    return Cleaned(kept, rejected, **counts, first_lost=first_lost)


def count_reasons(rejected: pa.Table) -> dict[str, dict[str, Any]]:
    """Count rejected rows by reason; `first` locates up to three of each as `file:row`."""
    by_reason: dict[str, dict[str, Any]] = {}
    counts = pc.value_counts(one_array(rejected["reason"])).to_pylist()
    for found in sorted(counts, key=lambda count: -count["counts"]):
        # Take indices, not rows: there may be a million such rows.
        indices = pc.indices_nonzero(pc.equal(rejected["reason"], found["values"]))
        first = rejected.take(indices.slice(0, 3)).to_pylist()
        locations = [f"{row['file']}:{row['row']}" for row in first]
        by_reason[found["values"]] = {"rows": found["counts"], "first": locations}
    return by_reason


def clean_rows(
    rows: Iterable[RawRow],
    min_characters: int,
    split: str | None = None,
    labels: LabelReader | None = None,
    documents: GivenDocuments | None = None,
) -> Cleaned:
    """Clean rows in one pass; a given `split` overrides the split of every row.

    A context or negative that is the text of one of the `documents` without its title, or its id,
    is replaced by the document's full text. If a row repeats a pair, its negatives are added to the
    pair; a context that is not relevant by its label becomes a negative of its question.
    """
    cleaner = _Cleaner(min_characters, split, labels, documents)
    for row in count_each(rows, "read", "rows"):
        cleaner.add(row)
    return cleaner.cleaned()


class _Cleaner:
    def __init__(
        self,
        min_characters: int,
        split: str | None,
        labels: LabelReader | None,
        documents: GivenDocuments | None,
    ) -> None:
        self._min_characters, self._split = min_characters, split
        self._labels, self._documents = labels, documents
        self._pairs, self._rejected = TableFile(PAIR_SCHEMA), TableFile(REJECTED_SCHEMA)
        self._negatives = MoreNegatives()
        # Hashes of pairs. Not the texts, as there may be millions: a hash takes 90 bytes.
        self._seen: set[int] = set()
        self._rows = self._lost = 0
        self._first_lost: str | None = None

    def add(self, row: RawRow) -> None:
        self._rows += 1
        labels = self._labels.read(row) if self._labels else None
        positives = row.positives or [None]
        for number, found in enumerate(positives):
            positive = self._resolved(found, _at(row.document_ids, number))
            label = labels[number] if labels else None
            reason = _reason_to_reject(row, positive, self._min_characters)
            if label == NO_LABEL and not reason:
                reason = "no label"
            reason = reason or self._add(row, number, positive.strip(), label)
            if reason:
                texts = excerpt(row.anchor), excerpt(positive)
                self._rejected.add(row.file, row.row, reason, *texts)

    def _add(self, row: RawRow, number: int, positive: str, label: Label | None) -> str | None:
        """Add a pair, or a negative of its question; return why not."""
        split = self._split or row.split
        anchor_key = text_key(row.anchor)
        positive, positive_key = self._titled(positive, text_key(positive))
        if anchor_key == positive_key:
            return "question equals context"
        question = question_key(anchor_key, split)
        if label and not label.relevant:
            identity = pair_key(question ^ NOT_RELEVANT, positive_key)
            if identity in self._seen:
                return DUPLICATE
            self._seen.add(identity)
            self._negatives.add_to_question(row, question, positive, positive_key)
            return None
        identity = pair_key(question, positive_key)
        negatives = self._usable_negatives(row, {anchor_key, positive_key})
        if identity in self._seen:
            if not negatives:
                return DUPLICATE
            self._negatives.add_to_pair(row, identity, negatives)
            return None
        self._seen.add(identity)
        grade = label.grade if label else _at(row.grades, number)
        named = (row.query_id, _at(row.document_ids, number), grade)
        texts = (row.anchor.strip(), positive, [text for text, _ in negatives])
        owned = (*named, split, _group_name(row.group))
        keys = anchor_key, positive_key, _parent_key(row.parent)
        self._pairs.add(row.file, row.row, *texts, *owned, *keys)
        return None

    def _titled(self, text: str, key: int) -> tuple[str, int]:
        return (self._documents.with_title(key) if self._documents else None) or (text, key)

    def _resolved(self, context: Any, name: str | None = None) -> Any:  # noqa: ANN401
        """Replace a context that is an id in the corpus, or an object with one, by the document."""
        if self._documents is None:
            return context
        is_text = isinstance(context, str)
        if is_text and (len(context) > ID_CHARACTERS or self._documents.has(context)):
            return context
        known = self._documents.by_id(context)
        if known is None and name is not None and not is_text:
            known = self._documents.by_id(name)
        return context if known is None else known

    def _usable_negatives(self, row: RawRow, keys: set[int]) -> list[tuple[str, int]]:
        """Keep negatives that are text and neither the question nor an answer of the same row."""
        negatives = [self._resolved(negative) for negative in row.negatives]
        lost = [reason for negative in negatives if (reason := _why_lost(negative))]
        if lost:
            self._lost += len(lost)
            self._first_lost = self._first_lost or lost[0]
        texts = [
            negative.strip()
            for negative in negatives
            if isinstance(negative, str) and not _is_blank(negative) and is_encodable(negative)
        ]
        if not texts:
            return []
        answers = keys | {
            self._titled(positive, text_key(positive))[1]
            for positive in map(self._resolved, row.positives)
            if isinstance(positive, str)
        }
        found = [self._titled(text, text_key(text)) for text in texts]
        usable = [(text, key) for text, key in found if key not in answers]
        if len(usable) < len(found):
            self._lost += len(found) - len(usable)
            self._first_lost = self._first_lost or "it is the question or an answer of its row"
        return usable

    def cleaned(self) -> Cleaned:
        if self._labels:
            self._labels.finish()
        pairs, rejected = self._pairs.table(), self._rejected.table()
        found = self._negatives.merge(pairs)
        rejected = one_table([rejected, found.rejected])
        counts = self._rows, found.merged, self._lost
        return Cleaned(found.pairs, rejected, *counts, self._first_lost)


def clean_documents(documents: Iterable[Document]) -> Cleaned:
    """Clean documents in one pass; reject those without text or with an invalid id."""
    kept, rejected = TableFile(DOCUMENT_SCHEMA), TableFile(REJECTED_SCHEMA)
    count = 0
    for document in count_each(documents, "read", "documents"):
        count += 1
        text, has_valid_id = document.full, is_encodable(document.id)
        if reason := _fault(text, "document") or (None if has_valid_id else "id is not text"):
            rejected.add(document.file, document.row, reason, None, excerpt(text))
        else:
            own = text_key(document.text) if text != document.text else 0
            kept.add(document.id, text.strip(), text_key(text), own)
    return Cleaned(kept.table(), rejected.table(), count)


def _at(values: Sequence[Any], number: int) -> Any:  # noqa: ANN401  an id, a grade, or None
    return values[number] if number < len(values) else None


def _reason_to_reject(row: RawRow, positive: object, min_characters: int) -> str | None:
    if row.surplus:
        return "more fields than the header names"
    for name, value in (("question", row.anchor), ("context", positive)):
        if fault := _fault(value, name):
            return fault
        if characters(str(value).strip(), min_characters) < min_characters:
            return f"{name} is too short"
    return None


def _fault(value: object, name: str) -> str | None:
    if isinstance(value, Absent):
        return value.reason
    if value is None or (isinstance(value, str) and _is_blank(value)):
        return f"empty {name}"
    return None if isinstance(value, str) and is_encodable(value) else f"{name} is not text"


def _is_blank(text: str) -> bool:
    """Tell whether a text is empty, or the word that some tools write for no value."""
    stripped = text.strip()
    return len(stripped) <= MAX_BLANK and stripped.lower() in NOTHING


def _why_lost(negative: object) -> str | None:
    """Say why a negative cannot be used; None if it can, or is empty."""
    if isinstance(negative, Absent):
        return negative.reason
    is_empty = negative is None or (isinstance(negative, float) and math.isnan(negative))
    if is_empty or isinstance(negative, str):
        return None
    return f"it is not text (`{str(negative)[:40]}`), nor an id in the corpus"


def is_encodable(text: str) -> bool:
    """Tell whether a text can be written: tokenizers and Arrow refuse lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parent_key(value: object) -> int | None:
    """Return a key that differs from those of texts; None if the value is null or blank."""
    is_null = value is None or (isinstance(value, float) and math.isnan(value))
    name = "" if is_null else str(value).strip().removesuffix(".0")
    return text_key(f"document {name}") ^ PARENT if name else None


def _group_name(value: object) -> str | None:
    """Format any value as a label on one line; return None if it is null or blank."""
    # Tables store null as NaN.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    # A column of integers becomes floats (3 → 3.0) if a value is missing.
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    name = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    cut = name[: GROUP_CHARACTERS - 1].rstrip() + "…" if len(name) > GROUP_CHARACTERS else name
    return cut or None
