"""Mine hard negatives (documents that look like an answer but are not), and pad given ones."""

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
from job.model.encoder import Model
from job.runtime.logs import tell
from job.storage.arrow_tables import IntArray

# Documents searched per question. The library's miner excludes equal texts only, and drops rows
# with too few results (job/LOG.md), so we search ourselves.
CANDIDATES = 50


def find_nearest_neighbors(
    model: Model,
    pairs: TrainingPairs,
    margin: float,
    batch_size: int,
    corpus_vectors: torch.Tensor | None = None,
) -> list[IntArray]:
    """Find each pair's nearest neighbors: rows whose contexts are most similar to its question.

    Returns row numbers, highest score first; some pairs may have none. Skipped are rows of the
    pair's own group (other answers to its question, near-duplicates of its context), and candidates
    that score above `margin` times the positive: they are likely false negatives.
    `corpus_vectors`, (n_documents, width), are those of the whole corpus, if already computed.
    A collective call; only rank 0 gets the result.
    """
    documents, first, numbers = np.unique(pairs.documents, return_index=True, return_inverse=True)
    if corpus_vectors is None:
        texts = pairs.table["positive"].take(pa.array(first)).combine_chunks()
        distinct: Matrix = encode(model, texts, "document", batch_size)
    else:
        distinct = RowSubset(corpus_vectors, torch.from_numpy(documents))
    anchors = pairs.table["anchor"].combine_chunks()
    questions = encode(model, anchors, "query", batch_size)
    if not is_rank_zero():
        return []
    transform = Transform(depth=CANDIDATES)
    found = search(questions, distinct, [transform], model.machine.device)[0]
    positives = RowSubset(distinct, torch.from_numpy(numbers))
    limits = margin * _cosines(questions, positives, transform)
    usable = (found.scores <= limits[:, None]).numpy()
    candidates = first[found.positions.numpy()]
    usable &= pairs.groups[candidates] != pairs.groups[:, None]
    # Slices of one array: a million separate arrays would take several times the memory.
    return np.split(candidates[usable], usable.sum(axis=1).cumsum()[:-1])


def _cosines(left: Matrix, right: Matrix, transform: Transform) -> torch.Tensor:
    """Return the cosine of each row with the other matrix's row of the same number: (n,)."""
    parts = (slice(start, start + TILE_ROWS) for start in range(0, len(left), TILE_ROWS))
    return torch.cat(
        [(transform.apply(left[part]) * transform.apply(right[part])).sum(dim=1) for part in parts]
    )


def add_negatives(pairs: TrainingPairs, neighbors: list[IntArray], count: int) -> TrainingPairs:
    """Append up to `count` hard negatives to each pair: the contexts of its nearest neighbors."""
    if not count:
        return pairs
    mined = [rows[:count] for rows in neighbors]
    counts = np.array([len(rows) for rows in mined])
    tell("negatives", mined=int(counts.sum()))
    return _append_negatives(pairs, np.concatenate(mined), counts)


def pad_negatives(pairs: TrainingPairs, seed: int) -> TrainingPairs:
    """Pad all rows to the largest number of negatives, because batches need equal columns.

    The padding is random documents of other rows, which act like further in-batch negatives.
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


def _other_row(pairs: TrainingPairs, answers: set[int], random: np.random.Generator) -> int:
    """Draw a row whose document is not among the answers."""
    for row in random.integers(len(pairs), size=100).tolist():
        if pairs.documents[row] not in answers:
            return int(row)
    msg = (
        "Some rows have fewer negatives than others, and nearly all rows share one context, so no "
        "negatives can be added. Give all rows the same number of negatives, or none."
    )
    raise DataError(msg)


def _append_negatives(pairs: TrainingPairs, rows: IntArray, counts: IntArray) -> TrainingPairs:
    """Append the contexts of `rows` to the pairs' negatives: `counts` of them to each pair."""
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
