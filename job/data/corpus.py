"""The corpus of a run: all documents without duplicates, sorted by id."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.data.rows import Rows
from job.data.schemas import DOCUMENT_SCHEMA, TEXT
from job.data.text_keys import text_key
from job.storage.arrow_tables import (
    IntArray,
    JoinedColumn,
    KeyArray,
    TableFile,
    column_on_disk,
    column_values,
    one_array,
)


@dataclass(frozen=True)
class Corpus:
    """All documents, sorted by id as strings; equal scores are ranked by position."""

    ids: pa.Array
    texts: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: IntArray) -> "Corpus":
        return Corpus(self.ids.take(positions), self.texts.take(positions))


def build_corpus(rows: Rows, keys: KeyArray) -> tuple[Corpus, IntArray]:
    """Return the corpus of given documents, contexts (with these `keys`) and negatives.

    The second value is the position in the corpus of each row's context.
    """
    given, pairs, negatives = rows.documents.kept, rows.cleaned.kept, _negatives(rows)
    every_key = [given["key"].to_numpy(), keys, negatives["key"].to_numpy()]
    # Equal texts become one document with the id that came first.
    distinct, first = np.unique(np.concatenate(every_key), return_index=True)
    # Given documents come first, so they keep their ids.
    seen = np.argsort(first)
    own_ids = pc.coalesce(one_array(pairs["document_id"]), numbered_ids("d", rows.numbers))
    every_id = [given["id"], own_ids, negatives["id"]]
    ids = unique_ids(JoinedColumn(every_id), first[seen])
    order = pc.sort_indices(ids).to_numpy()
    texts = JoinedColumn([given["text"], pairs["positive"], negatives["text"]])
    ordered = column_on_disk(texts.batches(first[seen][order]), TEXT)
    corpus = Corpus(ids.take(pa.array(order)), ordered)
    position = np.argsort(seen[order])
    return corpus, position[np.searchsorted(distinct, keys)]


def numbered_ids(prefix: str, numbers: IntArray) -> pa.Array:
    """Make ids from numbers, padded so that the first 10^8 ids sort in numeric order."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(TEXT), 8, "0")
    return pc.binary_join_element_wise(pa.scalar(prefix, TEXT), digits, pa.scalar("", TEXT))


def sorted_hashes(texts: pa.Array) -> pa.Array:
    """Hash each text to 64 bits; the result does not depend on ids, which order the corpus."""
    encoded = (text.encode("utf-8") for text in column_values(texts))
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in encoded)
    numbers = (int.from_bytes(digest, "little") for digest in digests)
    return pa.array(np.sort(np.fromiter(numbers, np.uint64, len(texts))))


def _negatives(rows: Rows) -> pa.Table:
    found = TableFile(DOCUMENT_SCHEMA)
    column = rows.cleaned.kept["negatives"]
    for number, texts in zip(rows.numbers, column_values(column), strict=True):
        for position, text in enumerate(texts):
            found.add(f"n{number:08d}-{position}", text, text_key(text), 0)
    return found.table()


def unique_ids(ids: JoinedColumn, positions: IntArray) -> pa.Array:
    """Rename repeated ids: a given corpus may use the same ids as `numbered_ids`."""
    names = column_on_disk(ids.batches(positions), TEXT)
    counts = names.value_counts()
    if len(counts) == len(names):
        return names
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    # New ids contain a tilde, so they can only collide with ids that contain one.
    affected = pc.or_(pc.is_in(names, repeated), pc.match_substring(names, "~"))
    renamed = _make_unique(names.filter(affected).to_pylist())
    return pc.replace_with_mask(names, affected, pa.array(renamed, TEXT))


def _make_unique(ids: list[str]) -> list[str]:
    unique: dict[str, None] = {}
    # Remember the last number: counting from 1 is quadratic if all documents have the same id.
    copies: Counter[str] = Counter()
    for identifier in ids:
        name = identifier
        while name in unique:
            copies[identifier] += 1
            name = f"{identifier}~{copies[identifier] + 1}"
        unique[name] = None
    return list(unique)
