"""Clean rows into pairs: check each row, store it in Arrow columns with the hashes of its texts."""

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from job.data.formats.layout import Absent, Document, RawRow
from job.storage.arrow_tables import TableFile, one_array, one_table

# Characters of a rejected row's texts to save: enough to find the row again.
EXCERPT_CHARACTERS = 200
# Characters to normalize at a time. NFKC takes quadratic time on a run of combining marks: hours
# for one long line.
NORMALIZE_CHARACTERS = 10_000
# Any odd number with many digits.
PAIR_FACTOR = 0xD6E8FEB86659FD93
MASK = 2**64 - 1
# A group's name is a label in tables, cut to this length; names that are equal when cut are merged.
GROUP_CHARACTERS = 100

TEXT = pa.large_string()
LOCATION = {"file": TEXT, "row": pa.int64()}
PAIR_SCHEMA = pa.schema(
    LOCATION
    | {"anchor": TEXT, "positive": TEXT, "negatives": pa.list_(TEXT)}
    | {"query_id": TEXT, "split": TEXT, "group": TEXT}
    | {"anchor_key": pa.uint64(), "positive_key": pa.uint64()}
)
DOCUMENT_SCHEMA = pa.schema({"id": TEXT, "text": TEXT, "key": pa.uint64()})
REJECTED_SCHEMA = pa.schema(LOCATION | {"reason": TEXT, "anchor": TEXT, "positive": TEXT})


@dataclass(frozen=True)
class Cleaned:
    """Usable rows (`kept`), rejected rows with their reasons, and the number of rows read."""

    kept: pa.Table
    rejected: pa.Table
    rows: int


def concatenate(parts: Sequence[Cleaned]) -> Cleaned:
    kept = one_table([part.kept for part in parts])
    rejected = one_table([part.rejected for part in parts])
    return Cleaned(kept, rejected, sum(part.rows for part in parts))


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


def clean_rows(rows: Iterable[RawRow], min_characters: int, split: str | None = None) -> Cleaned:
    """Clean rows in one pass; a given `split` overrides the split of every row."""
    pairs, rejected = TableFile(PAIR_SCHEMA), TableFile(REJECTED_SCHEMA)
    # Hashes of pairs by split. Not the texts, as there may be millions: a hash takes 90 bytes.
    seen: dict[str | None, set[int]] = defaultdict(set)
    count = 0
    for row in rows:
        count += 1
        for positive in row.positives or [None]:
            reason = _reason_to_reject(row, positive, min_characters)
            keys = (0, 0) if reason else (text_key(row.anchor), text_key(positive))
            known, identity = seen[split or row.split], pair_key(*keys)
            if not reason and keys[0] == keys[1]:
                reason = "question equals context"
            elif not reason and identity in known:
                reason = "exact duplicate"
            if reason:
                rejected.add(row.file, row.row, reason, _excerpt(row.anchor), _excerpt(positive))
                continue
            known.add(identity)
            texts = (row.anchor.strip(), positive.strip(), _usable_negatives(row, keys))
            labels = (row.query_id, split or row.split, _group_name(row.group))
            pairs.add(row.file, row.row, *texts, *labels, *keys)
    return Cleaned(pairs.table(), rejected.table(), count)


def clean_documents(documents: Iterable[Document]) -> Cleaned:
    """Clean documents in one pass; reject those without text or with an invalid id."""
    kept, rejected = TableFile(DOCUMENT_SCHEMA), TableFile(REJECTED_SCHEMA)
    count = 0
    for document in documents:
        count += 1
        text, has_valid_id = document.full, _is_encodable(document.id)
        if reason := _fault(text, "document") or (None if has_valid_id else "id is not text"):
            rejected.add(document.file, document.row, reason, None, _excerpt(text))
        else:
            kept.add(document.id, text.strip(), text_key(text))
    return Cleaned(kept.table(), rejected.table(), count)


def normalize(text: str) -> str:
    """Remove differences of case, character width and white space."""
    starts = range(0, len(text), NORMALIZE_CHARACTERS)
    parts = (text[start : start + NORMALIZE_CHARACTERS] for start in starts)
    composed = "".join(unicodedata.normalize("NFKC", part) for part in parts)
    return " ".join(composed.casefold().split())


def text_key(text: str) -> int:
    """Hash a normalized text to 64 bits.

    With a million texts, the chance of a collision is 1 in 37 million.
    """
    digest = hashlib.blake2b(normalize(text).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def pair_key(question: int, context: int) -> int:
    """Combine two keys, in this order, into one 64-bit key."""
    return (question * PAIR_FACTOR + context) & MASK


def _reason_to_reject(row: RawRow, positive: object, min_characters: int) -> str | None:
    if row.surplus:
        return "more fields than the header names"
    for name, value in (("question", row.anchor), ("context", positive)):
        if fault := _fault(value, name):
            return fault
        if len(str(value).strip()) < min_characters:
            return f"{name} is too short"
    return None


def _fault(value: object, name: str) -> str | None:
    if isinstance(value, Absent):
        return value.reason
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"empty {name}"
    return None if isinstance(value, str) and _is_encodable(value) else f"{name} is not text"


def _usable_negatives(row: RawRow, keys: tuple[int, int]) -> list[str]:
    """Return the negatives that are text and equal neither the row's question nor its answers."""
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
    # Tokenizers and Arrow refuse lone surrogates, which are not characters.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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


def _excerpt(value: object) -> str | None:
    shown = None if value is None else str(value)[:EXCERPT_CHARACTERS]
    return shown and shown.encode("utf-8", "replace").decode("utf-8")
