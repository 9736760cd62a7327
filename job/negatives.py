"""Hard negatives: documents that look like an answer and are none; mined, or given in the data."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from job.data import TrainingPairs
from job.errors import DataError
from job.evaluate import encode
from job.model import Model
from job.progress import log
from job.ranking import CHUNK, IntArray

if TYPE_CHECKING:
    from torch import Tensor

# The library's miner knows equal texts only, and drops rows that find too few (job/LOG.md).
CANDIDATES = 50
NEGATIVES = pa.list_(pa.large_string())


def find_lookalikes(
    model: Model,
    pairs: TrainingPairs,
    margin: float,
    batch_size: int,
    documents: "Tensor | None" = None,
) -> list[IntArray]:
    """Find for each pair the rows whose contexts its question could be taken to ask for.

    Those that score highest come first. Rows of the pair's own group are none (its question's
    other answers, near-duplicates of its context), nor is what scores above `margin` times its own
    context: that is likely to be an answer which nobody marked. Pairs may find none.
    `documents`, (n_pairs, width), are the contexts' embeddings where they are known already.
    """
    from torch.nn.functional import normalize

    numbers, first = np.unique(pairs.documents, return_index=True)
    prompts = model.prompts
    if documents is None:
        texts = pairs.table["positive"].take(pa.array(first)).combine_chunks()
        distinct = normalize(encode(model, texts, prompts.document, batch_size), dim=1)
    else:
        distinct = normalize(documents[first], dim=1)
    anchors = pairs.table["anchor"].combine_chunks()
    questions = normalize(encode(model, anchors, prompts.query, batch_size), dim=1)
    own = distinct[np.searchsorted(numbers, pairs.documents)]
    limits = margin * (questions * own).sum(dim=1, keepdim=True)

    alike: list[IntArray] = []
    rows = max(1, CHUNK // len(numbers))
    for start in range(0, len(pairs), rows):
        part = slice(start, start + rows)
        scores, found = (questions[part] @ distinct.T).topk(min(CANDIDATES, len(numbers)), dim=1)
        candidates = first[found.cpu().numpy()]
        usable = (scores <= limits[part]).cpu().numpy()
        usable &= pairs.groups[candidates] != pairs.groups[part, None]
        alike += [row[good] for row, good in zip(candidates, usable, strict=True)]
    return alike


def add_negatives(pairs: TrainingPairs, alike: list[IntArray], count: int) -> TrainingPairs:
    """Add up to `count` hard negatives to each pair: the contexts of the rows most like it."""
    if not count:
        return pairs
    texts = pairs.table["positive"].combine_chunks()
    mined = [texts.take(pa.array(rows[:count])).to_pylist() for rows in alike]
    log.info("negatives: mined=%d", sum(map(len, mined)))
    given = pairs.table["negatives"].to_pylist()
    return _with_negatives(pairs, [a + b for a, b in zip(given, mined, strict=True)])


def fill(pairs: TrainingPairs, seed: int) -> TrainingPairs:
    """Give every row as many negatives as the row with most has, as batches need columns.

    What a row lacks becomes a random document of another row: one more in-batch negative.
    """
    negatives = pairs.table["negatives"].to_pylist()
    width = max(map(len, negatives), default=0)
    answers: dict[int, set[int]] = {}
    for question, document in zip(pairs.questions, pairs.documents, strict=True):
        answers.setdefault(question, set()).add(document)
    random = np.random.default_rng(seed)
    for own, question in zip(negatives, pairs.questions, strict=True):
        while len(own) < width:
            row = _other_row(pairs, answers[question], random)
            own.append(pairs.table["positive"][row].as_py())
    return _with_negatives(pairs, negatives)


def _other_row(pairs: TrainingPairs, known: set[int], random: np.random.Generator) -> int:
    for row in random.integers(len(pairs), size=100).tolist():
        if pairs.documents[row] not in known:
            return int(row)
    msg = "Some rows have negatives and others none, and nearly all rows share one context."
    raise DataError(msg)


def _with_negatives(pairs: TrainingPairs, negatives: list[list[str]]) -> TrainingPairs:
    at = pairs.table.column_names.index("negatives")
    column = pa.array(negatives, NEGATIVES)
    return replace(pairs, table=pairs.table.set_column(at, "negatives", column))
