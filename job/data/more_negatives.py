"""Negatives that stand in other rows than their pair, and are added to it after the last row."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from job.data.formats.layout import RawRow
from job.data.schemas import NEGATIVE_SCHEMA, REJECTED_SCHEMA
from job.data.text_keys import pair_keys, question_keys, text_key
from job.storage.arrow_tables import (
    BATCH,
    IntArray,
    JoinedColumn,
    KeyArray,
    TableFile,
    column_on_disk,
)

# Shown of a rejected row's texts; enough to find it again.
EXCERPT = 200
DUPLICATE = "exact duplicate"
NO_ANSWER = "not relevant, and its question has no answer"
BOTH = "not relevant here, but relevant in another row"


class Merged(NamedTuple):
    pairs: pa.Table
    rejected: pa.Table
    # Rows that repeat a pair and brought it another negative.
    merged: int


class MoreNegatives:
    """Gathers negatives of rows that repeat a pair, and contexts that are not relevant."""

    def __init__(self) -> None:
        self._of_pairs, self._of_questions = (TableFile(NEGATIVE_SCHEMA) for _ in range(2))
        self._sources = 0

    def add_to_pair(self, row: RawRow, pair: int, negatives: Sequence[tuple[str, int]]) -> None:
        for text, key in negatives:
            self._of_pairs.add(
                pair, text, key, self._sources, row.file, row.row, excerpt(row.anchor)
            )
        self._sources += 1

    def add_to_question(self, row: RawRow, question: int, text: str, key: int) -> None:
        self._of_questions.add(
            question, text, key, self._sources, row.file, row.row, excerpt(row.anchor)
        )
        self._sources += 1

    def merge(self, pairs: pa.Table) -> Merged:
        """Add them to `pairs`; those of a question to its pairs in turn, each to one."""
        rejected = TableFile(REJECTED_SCHEMA)
        if not self._sources:
            return Merged(pairs, rejected.table(), 0)
        of_pairs, of_questions = self._of_pairs.table(), self._of_questions.table()
        questions = question_keys(pairs)
        identities = pair_keys(questions, pairs["positive_key"].to_numpy())
        sought = of_questions["target"].to_numpy()
        answered = np.isin(pair_keys(sought, of_questions["key"].to_numpy()), identities)
        rows, targets = _in_turn(questions, sought)
        usable = ~answered[rows]
        rows, targets = rows[usable], targets[usable]
        for row in np.flatnonzero(answered):
            _reject(rejected, of_questions, row, BOTH)
        for row in np.setdiff1d(np.flatnonzero(~answered), rows):
            _reject(rejected, of_questions, row, NO_ANSWER)
        order = identities.argsort(kind="stable")
        at = identities[order].searchsorted(of_pairs["target"].to_numpy())
        merged = pa.concat_tables([of_pairs, of_questions.take(pa.array(rows))])
        pairs, added = _with_negatives(pairs, merged, np.concatenate([order[at], targets]))
        sources = merged["source"].to_numpy()
        used = np.isin(sources, sources[added])
        _, first = np.unique(sources, return_index=True)
        for row in first[~used[first]]:
            _reject(rejected, merged, row, DUPLICATE)
        repeating = np.unique(of_pairs["source"].to_numpy()[used[: len(of_pairs)]])
        return Merged(pairs, rejected.table(), len(repeating))


def _in_turn(questions: KeyArray, sought: KeyArray) -> tuple[IntArray, IntArray]:
    """Give each sought question one of its pairs in turn; return (row sought, pair)."""
    order = questions.argsort(kind="stable")
    known = questions[order]
    first = known.searchsorted(sought, side="left")
    count = known.searchsorted(sought, side="right") - first
    rows = np.flatnonzero(count)
    by_question = rows[sought[rows].argsort(kind="stable")]
    _, starts, repeats = np.unique(sought[by_question], return_index=True, return_counts=True)
    turn = np.arange(len(by_question)) - np.repeat(starts, repeats)
    return by_question, order[first[by_question] + turn % count[by_question]]


def _with_negatives(
    pairs: pa.Table, negatives: pa.Table, targets: IntArray
) -> tuple[pa.Table, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Add each negative to the pair at its target; return which of them were new there."""
    order = targets.argsort(kind="stable")
    ordered, keys = targets[order], negatives["key"].to_numpy()[order]
    texts = JoinedColumn([negatives["text"]])
    new = np.zeros(len(targets), dtype=bool)

    def batches() -> Iterator[pa.Array]:
        start = 0
        for batch in pairs.select(["negatives"]).to_batches(max_chunksize=BATCH):
            lists = batch.column(0).to_pylist()
            low, high = ordered.searchsorted([start, start + len(lists)])
            known: dict[int, set[int]] = {}
            place = low
            for piece in texts.batches(order[low:high]):
                for text in piece.to_pylist():
                    row, key = int(ordered[place]) - start, int(keys[place])
                    here = known.setdefault(row, {text_key(other) for other in lists[row]})
                    if key not in here:
                        here.add(key)
                        lists[row].append(text)
                        new[order[place]] = True
                    place += 1
            start += len(lists)
            yield pa.array(lists, pairs.schema.field("negatives").type)

    column = column_on_disk(batches(), pairs.schema.field("negatives").type)
    at = pairs.schema.get_field_index("negatives")
    return pairs.set_column(at, pairs.schema.field(at), column), new


def _reject(rejected: TableFile, negatives: pa.Table, row: np.integer[Any], reason: str) -> None:
    found = negatives.slice(int(row), 1).to_pylist()[0]
    place = found["file"], found["row"]
    rejected.add(*place, reason, found["anchor"], excerpt(found["text"]))


def excerpt(value: object) -> str | None:
    shown = None if value is None else str(value)[:EXCERPT]
    return shown and shown.encode("utf-8", "replace").decode("utf-8")
