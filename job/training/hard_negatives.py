"""Hard negatives: documents that look like an answer and are none; mined, or given in the data."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from job.core.errors import DataError
from job.data.dataset import TrainingPairs
from job.distributed.process_group import is_rank_zero
from job.evaluation.evaluate import encode
from job.evaluation.exact_search import TILE_ROWS, Matrix, RowSubset, Transform, search
from job.evaluation.metrics import IntArray
from job.model.encoder import Model
from job.runtime.logs import tell

# The library's miner knows equal texts only, and drops rows that find too few (job/LOG.md).
CANDIDATES = 50


def find_nearest_neighbors(
    model: Model,
    pairs: TrainingPairs,
    margin: float,
    batch_size: int,
    corpus_vectors: torch.Tensor | None = None,
) -> list[IntArray]:
    """Find for each pair the rows whose contexts its question could be taken to ask for.

    Those that score highest come first. Rows of the pair's own group are none (its question's
    other answers, near-duplicates of its context), nor is what scores above `margin` times its own
    context: that is likely to be an answer which nobody marked. Pairs may find none.
    `corpus_vectors`, (n_documents, width), are the whole corpus' where they are known already.
    A collective call, which finds them on rank 0 alone.
    """
    documents, first, numbers = np.unique(pairs.documents, return_index=True, return_inverse=True)
    if corpus_vectors is None:
        texts = pairs.table["positive"].take(pa.array(first)).combine_chunks()
        distinct: Matrix = encode(model, texts, model.prompts.document, batch_size)
    else:
        distinct = RowSubset(corpus_vectors, torch.from_numpy(documents))
    anchors = pairs.table["anchor"].combine_chunks()
    questions = encode(model, anchors, model.prompts.query, batch_size)
    if not is_rank_zero():
        return []
    transform = Transform(depth=CANDIDATES)
    found = search(questions, distinct, [transform], model.machine.device)[0]
    own = RowSubset(distinct, torch.from_numpy(numbers))
    usable = (found.scores <= margin * _cosines(questions, own, transform)[:, None]).numpy()
    candidates = first[found.positions.numpy()]
    usable &= pairs.groups[candidates] != pairs.groups[:, None]
    # Parts of one array: a million with memory of their own would take several times as much.
    return np.split(candidates[usable], usable.sum(axis=1).cumsum()[:-1])


def _cosines(left: Matrix, right: Matrix, transform: Transform) -> torch.Tensor:
    """Multiply each row with the other matrix's row of the same number: (n,)."""
    parts = (slice(start, start + TILE_ROWS) for start in range(0, len(left), TILE_ROWS))
    return torch.cat(
        [(transform.apply(left[part]) * transform.apply(right[part])).sum(dim=1) for part in parts]
    )


def add_negatives(pairs: TrainingPairs, neighbors: list[IntArray], count: int) -> TrainingPairs:
    """Add up to `count` hard negatives to each pair: the contexts of the rows most like it."""
    if not count:
        return pairs
    mined = [rows[:count] for rows in neighbors]
    counts = np.array([len(rows) for rows in mined])
    tell("negatives", mined=int(counts.sum()))
    return _append_negatives(pairs, np.concatenate(mined), counts)


def pad_negatives(pairs: TrainingPairs, seed: int) -> TrainingPairs:
    """Give every row as many negatives as the row with most has, as batches need columns.

    What a row lacks becomes a random document of another row: one more in-batch negative.
    """
    given = pc.list_value_length(pairs.table["negatives"]).to_numpy()
    lacking = given.max(initial=0) - given
    if not lacking.any():
        return pairs
    by_question = pairs.questions.argsort(kind="stable")
    questions = pairs.questions[by_question]
    random = np.random.default_rng(seed)
    chosen = []
    for row in np.flatnonzero(lacking).tolist():
        first, last = questions.searchsorted([pairs.questions[row], pairs.questions[row] + 1])
        answers = {*pairs.documents[by_question[first:last]].tolist()}
        chosen += [_other_row(pairs, answers, random) for _ in range(lacking[row])]
    return _append_negatives(pairs, np.array(chosen, dtype=np.int64), lacking)


def _other_row(pairs: TrainingPairs, known: set[int], random: np.random.Generator) -> int:
    for row in random.integers(len(pairs), size=100).tolist():
        if pairs.documents[row] not in known:
            return int(row)
    msg = "Some rows lack negatives, and nearly all share one context; give all rows some, or none."
    raise DataError(msg)


def _append_negatives(pairs: TrainingPairs, rows: IntArray, counts: IntArray) -> TrainingPairs:
    """Append the contexts of `rows` to the pairs' negatives, to each so many as `counts` says."""
    given = pairs.table["negatives"].combine_chunks()
    lengths = pc.list_value_length(given).to_numpy()
    texts = [
        column.cast(pa.large_string())
        for column in (given.flatten(), pairs.table["positive"].combine_chunks())
    ]
    owners = np.repeat(np.tile(np.arange(len(pairs)), 2), np.concatenate([lengths, counts]))
    taken = np.concatenate([np.arange(len(texts[0])), len(texts[0]) + rows])
    order = owners.argsort(kind="stable")
    ends = np.concatenate([[0], (lengths + counts).cumsum()])
    column = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.concat_arrays(texts).take(pa.array(taken[order]))
    )
    at = pairs.table.column_names.index("negatives")
    return replace(pairs, table=pairs.table.set_column(at, "negatives", column))
