"""Test whether the gain remains in hybrid search, when BM25 and dense rankings are fused.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): a document's score is the sum, over
both rankings, of 1 / (60 + its rank).
"""

import numpy as np

from job.core.formatting import change, format_p, interval, precision_label
from job.data.dataset import Queries
from job.evaluation.conclusions import no_gain, numbers
from job.evaluation.metrics import DEPTH, METRIC, ByVector, Scores, compute_metrics
from job.evaluation.results import Both, FusedLift, Fusion, Lift, Swap
from job.evaluation.significance import GroupedQueries
from job.storage.arrow_tables import FloatArray, IntArray

# The authors' constant, and the usual default of search engines.
K = 60
# Queries fused at once: their rankings take about 100 MiB.
QUERIES_PER_BLOCK = 2**13


def hybrid_search(
    bm25: Scores,
    base: ByVector,
    tuned: ByVector,
    queries: Queries,
    by_group: GroupedQueries,
    swap: Swap,
    worth: float,
    *,
    improved: bool,
) -> Fusion:
    """Fuse BM25 with both models at every dimension, and with the vectors of the swap.

    `improved`: whether the model gained at full width; otherwise no gain is said to remain.
    """
    before, after = (
        {d: compute_metrics(fuse(bm25, found["float32"]), queries) for d, found in scores.items()}
        for scores in (base, tuned)
    )
    recommended = tuned[swap.dimension][swap.precision]
    fused = compute_metrics(fuse(bm25, recommended), queries)

    def compare(new: Scores, old: Scores, alone: Scores) -> FusedLift:
        lift, against_alone = (
            by_group.lift(new.metrics[METRIC] - other.metrics[METRIC]) for other in (old, alone)
        )
        return FusedLift(**dict(lift), against_alone=against_alone)

    lift = compare(fused, before[swap.full_dimension], recommended)
    means = before[swap.full_dimension].mean(METRIC), fused.mean(METRIC)
    has_gained = improved and swap.is_gain
    of_swap = _swap_sentence(swap, *means, lift, worth, has_gained=has_gained)
    return Fusion(
        k=K,
        depth=DEPTH,
        scores=Both(
            base={str(d): scores.means() for d, scores in before.items()},
            tuned={str(d): scores.means() for d, scores in after.items()},
        ),
        comparison={
            str(d): compare(found, before[d], tuned[d]["float32"]) for d, found in after.items()
        },
        swap=lift,
        swap_scores=Both(base=means[0], tuned=means[1]),
        sentence=f"{of_swap} {_fusion_sentence(lift, worth)}",
    )


def _swap_sentence(
    swap: Swap, before: float, after: float, lift: Lift, worth: float, *, has_gained: bool
) -> str:
    if has_gained and lift.is_gain:
        opening = "The gain remains in hybrid search"
    elif lift.is_gain:
        opening = "In hybrid search the recommended vectors are better than the base model's"
    elif lift.is_loss:
        opening = "In hybrid search the recommended vectors are worse than the base model's"
    else:
        opening = f"In hybrid search {no_gain(lift, worth)}"
    return (
        f"{opening}: both fused with BM25, nDCG@10 {numbers(before, after, lift)} (from the base "
        f"model's float32 vectors at {swap.full_dimension} dimensions to {swap.dimension} "
        f"dimensions as {precision_label(swap.precision)})."
    )


def _fusion_sentence(lift: FusedLift, worth: float) -> str:
    """Say whether fusing helps the recommended vectors, with its sign."""
    alone = lift.against_alone
    size = f"{change(alone.lift)} {interval(alone.ci)}, {format_p(alone.p_value)}"
    if alone.is_gain:
        return f"Fusing raises the nDCG@10 of the recommended vectors: {size}."
    if alone.is_loss:
        return f"Fusing lowers the nDCG@10 of the recommended vectors: {size}."
    return f"If the recommended vectors are fused, {no_gain(alone, worth)}: {size}."


def fuse(bm25: Scores, dense: Scores) -> IntArray:
    """Fuse two rankings of the same queries: positions, (n_queries, ≤ 100).

    Equal fused scores are ordered by position.
    """
    return np.concatenate(
        [
            _fuse([_weighted(bm25, part), _weighted(dense, part)], dense.ranked.shape[1])
            for part in (
                slice(i, i + QUERIES_PER_BLOCK)
                for i in range(0, len(dense.ranked), QUERIES_PER_BLOCK)
            )
        ]
    )


def _weighted(scores: Scores, part: slice) -> tuple[IntArray, FloatArray]:
    """Return the ranked positions of some queries, and the weight of each rank."""
    ranked = scores.ranked[part]
    ranks = np.arange(ranked.shape[1])
    weights = np.broadcast_to(1.0 / (K + 1 + ranks), ranked.shape)
    if scores.found is not None:
        # BM25 fills its ranking up with documents that share no word with the query.
        weights = np.where(ranks < scores.found[part, None], weights, 0.0)
    return ranked, weights


def _fuse(rankings: list[tuple[IntArray, FloatArray]], depth: int) -> IntArray:
    documents, totals = (np.concatenate(both, axis=1) for both in zip(*rankings, strict=True))
    order = documents.argsort(axis=1, kind="stable")
    documents = np.take_along_axis(documents, order, axis=1)
    totals = np.take_along_axis(totals, order, axis=1)
    # Each document occurs at most twice, now side by side: the first gets the sum, the second -1.
    repeated = documents[:, 1:] == documents[:, :-1]
    totals[:, :-1] += np.where(repeated, totals[:, 1:], 0.0)
    totals[:, 1:][repeated] = -1.0
    best = np.argsort(-totals, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(documents, best, axis=1)
