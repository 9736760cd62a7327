"""Rows become pairs: judged one by one, kept in Arrow columns, each with the keys of its texts."""

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.sources import Document, RawRow

BATCH = 10_000
# Shown of a rejected row's texts; enough to find it again.
EXCERPT = 200
# So many characters at a time: a run of marks takes the square of its length, hours for a line.
NORMALIZED = 10_000
# A group's name is a label in tables; those that are alike so far are taken for one.
GROUP_CHARACTERS = 100

PAIR_SCHEMA = pa.schema(
    [
        ("file", pa.large_string()),
        ("row", pa.int64()),
        ("anchor", pa.large_string()),
        ("positive", pa.large_string()),
        ("negatives", pa.list_(pa.large_string())),
        ("query_id", pa.large_string()),
        ("split", pa.large_string()),
        ("group", pa.large_string()),
        ("anchor_key", pa.uint64()),
        ("positive_key", pa.uint64()),
    ]
)
DOCUMENT_SCHEMA = pa.schema(
    [("id", pa.large_string()), ("text", pa.large_string()), ("key", pa.uint64())]
)
REJECTED_SCHEMA = pa.schema(
    [
        ("file", pa.large_string()),
        ("row", pa.int64()),
        ("reason", pa.large_string()),
        ("anchor", pa.large_string()),
        ("positive", pa.large_string()),
    ]
)


@dataclass(frozen=True)
class JudgedPairs:
    """`pairs` can be used, `rejected` says why not; `rows` counts what was read."""

    rows: int
    pairs: pa.Table
    rejected: pa.Table

    def dropped(self) -> dict[str, dict[str, Any]]:
        """Count the rejected by reason, with where the first few of each stand."""
        by_reason: dict[str, dict[str, Any]] = {}
        counts = Counter(self.rejected["reason"].to_pylist())
        for reason, count in counts.most_common():
            first = self.rejected.filter(pc.equal(self.rejected["reason"], reason)).slice(0, 3)
            places = [
                f"{file}:{row}"
                for file, row in zip(
                    first["file"].to_pylist(), first["row"].to_pylist(), strict=True
                )
            ]
            by_reason[reason] = {"rows": count, "first": places}
        return by_reason


def judge_rows(
    rows: Iterable[RawRow], min_characters: int, split: str | None = None
) -> JudgedPairs:
    """Read all rows once; `split` marks them all as belonging to one split."""
    pairs, rejected = _Columns(PAIR_SCHEMA), _Columns(REJECTED_SCHEMA)
    seen: set[tuple[str | None, int, int]] = set()
    count = 0
    for row in rows:
        count += 1
        for positive in row.positives or [None]:
            reason = _reason_to_reject(row, positive, min_characters)
            keys = (0, 0) if reason else (text_key(row.anchor), text_key(positive))
            identity = (split or row.split, *keys)
            if not reason and keys[0] == keys[1]:
                reason = "question equals context"
            elif not reason and identity in seen:
                reason = "exact duplicate"
            if reason:
                rejected.add(row.file, row.row, reason, _excerpt(row.anchor), _excerpt(positive))
                continue
            seen.add(identity)
            negatives = _usable_negatives(row, keys)
            pairs.add(
                row.file,
                row.row,
                row.anchor.strip(),
                positive.strip(),
                negatives,
                row.query_id,
                split or row.split,
                _group_name(row.group),
                *keys,
            )
    return JudgedPairs(count, pairs.table(), rejected.table())


def judge_documents(documents: Iterable[Document]) -> pa.Table:
    """Keep the documents that have text."""
    kept = _Columns(DOCUMENT_SCHEMA)
    for document in documents:
        text = document.text
        if (
            isinstance(text, str)
            and text.strip()
            and _is_encodable(text)
            and _is_encodable(document.id)
        ):
            kept.add(document.id, document.text.strip(), text_key(document.text))
    return kept.table()


def normalize(text: str) -> str:
    """Reduce a text to what makes it the same text: letters without case, width and spacing."""
    parts = (text[start : start + NORMALIZED] for start in range(0, len(text), NORMALIZED))
    composed = "".join(unicodedata.normalize("NFKC", part) for part in parts)
    return " ".join(composed.casefold().split())


def text_key(text: str) -> int:
    """Hash a normalized text to 64 bits: with a million texts, 1 in 37 million runs collides."""
    digest = hashlib.blake2b(normalize(text).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _reason_to_reject(row: RawRow, positive: object, min_characters: int) -> str | None:
    if row.surplus:
        return "more fields than the header names"
    for name, value in (("question", row.anchor), ("context", positive)):
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"empty {name}"
        # A lone surrogate is no character: tokenizers and Arrow refuse it.
        if not isinstance(value, str) or not _is_encodable(value):
            return f"{name} is not text"
        if len(value.strip()) < min_characters:
            return f"{name} is too short"
    return None


def _usable_negatives(row: RawRow, keys: tuple[int, int]) -> list[str]:
    """Keep negatives that are text and neither the question nor an answer of the same row."""
    answers = {text_key(p) for p in row.positives if isinstance(p, str)} | set(keys)
    return [
        negative.strip()
        for negative in row.negatives
        if isinstance(negative, str)
        and negative.strip()
        and _is_encodable(negative)
        and text_key(negative) not in answers
    ]


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _group_name(value: object) -> str | None:
    """Write any value as a label on one line; nothing where it is null or blank."""
    # Not-a-number is what tables have for null.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    # One file writes 3 where another, with a gap in the column, writes 3.0.
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    name = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    cut = name[: GROUP_CHARACTERS - 1].rstrip() + "…" if len(name) > GROUP_CHARACTERS else name
    return cut or None


def _excerpt(value: object) -> str | None:
    if value is None:
        return None
    return str(value)[:EXCERPT].encode("utf-8", "replace").decode("utf-8")


class _Columns:
    """Collects rows into Arrow batches, so that few Python objects live at once."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, *values: object) -> None:
        self._rows.append(values)
        if len(self._rows) == BATCH:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self._batches, self._schema).combine_chunks()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [[] for _ in self._schema]
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows = []


def column_texts(table: pa.Table, name: str) -> Iterator[str]:
    """Iterate over a text column a batch at a time."""
    for batch in table.select([name]).to_batches(max_chunksize=BATCH):
        yield from batch.column(0).to_pylist()


def column_array(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    array: np.ndarray[Any, np.dtype[Any]] = table[name].to_numpy()
    return array
