"""The corpus of a run: all documents, each once, in the order of their ids."""

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
    """All documents, sorted by id (compared as strings): a position is also a tie-break."""

    ids: pa.Array
    texts: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: IntArray) -> "Corpus":
        return Corpus(self.ids.take(positions), self.texts.take(positions))


def build_corpus(rows: Rows, keys: KeyArray) -> tuple[Corpus, IntArray]:
    """Gather given documents, contexts (by their `keys`) and negatives.

    The second value gives each row's document position.
    """
    given, pairs, negatives = rows.documents.kept, rows.cleaned.kept, _negatives(rows)
    every_key = [given["key"].to_numpy(), keys, negatives["key"].to_numpy()]
    # Equal texts are one document; it is known by the id it was first seen with.
    distinct, first = np.unique(np.concatenate(every_key), return_index=True)
    # Given documents come first and keep their ids.
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
    """Name things by their numbers, such that names sort as the first 10^8 numbers do."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(TEXT), 8, "0")
    return pc.binary_join_element_wise(pa.scalar(prefix, TEXT), digits, pa.scalar("", TEXT))


def _negatives(rows: Rows) -> pa.Table:
    found = TableFile(DOCUMENT_SCHEMA)
    column = rows.cleaned.kept["negatives"]
    for number, texts in zip(rows.numbers, column_values(column), strict=True):
        for position, text in enumerate(texts):
            found.add(f"n{number:08d}-{position}", text, text_key(text), 0)
    return found.table()


def unique_ids(ids: JoinedColumn, positions: IntArray) -> pa.Array:
    """Rename the second bearer of an id: a given corpus may use the names that we generate."""
    names = column_on_disk(ids.batches(positions), TEXT)
    counts = names.value_counts()
    if len(counts) == len(names):
        return names
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    # The new names have a tilde, so only ids that have one can meet them.
    concerned = pc.or_(pc.is_in(names, repeated), pc.match_substring(names, "~"))
    renamed = _renamed(names.filter(concerned).to_pylist())
    return pc.replace_with_mask(names, concerned, pa.array(renamed, TEXT))


def _renamed(ids: list[str]) -> list[str]:
    unique: dict[str, None] = {}
    # Counted on, as a corpus may give all its documents one id.
    copies: Counter[str] = Counter()
    for identifier in ids:
        name = identifier
        while name in unique:
            copies[identifier] += 1
            name = f"{identifier}~{copies[identifier] + 1}"
        unique[name] = None
    return list(unique)
