"""Test whether the gain remains in hybrid search, when BM25 and dense rankings are fused.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): a document's score is the sum, over
both rankings, of 1 / (60 + its rank).
"""

import numpy as np

from job.core.formatting import change, format_p, interval
from job.data.dataset import Queries
from job.evaluation.metrics import (
    DEPTH,
    METRIC,
    ByVector,
    FloatArray,
    IntArray,
    Scores,
    compute_metrics,
)
from job.evaluation.results import Both, FusedLift, Fusion, Lift
from job.evaluation.significance import GroupedQueries

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
    main: int,
) -> Fusion:
    """Fuse BM25 with both models at every dimension, and compare."""
    before, after = (
        {d: compute_metrics(fuse(bm25, found["float32"]), queries) for d, found in scores.items()}
        for scores in (base, tuned)
    )

    def lift(new: Scores, old: Scores) -> Lift:
        return by_group.lift(new.metrics[METRIC] - old.metrics[METRIC])

    comparison = {
        d: FusedLift(**dict(lift(fused, before[d])), against_alone=lift(fused, tuned[d]["float32"]))
        for d, fused in after.items()
    }
    return Fusion(
        k=K,
        depth=DEPTH,
        scores=Both(
            base={str(d): scores.means() for d, scores in before.items()},
            tuned={str(d): scores.means() for d, scores in after.items()},
        ),
        comparison={str(d): found for d, found in comparison.items()},
        sentence=_sentence(main, before[main], after[main], comparison[main]),
    )


def _sentence(dimension: int, base: Scores, tuned: Scores, lift: Lift) -> str:
    numbers = (
        f"fused with BM25, nDCG@10 at {dimension} dimensions goes from {base.mean(METRIC):.3f} to "
        f"{tuned.mean(METRIC):.3f}, {change(lift.lift)} {interval(lift.ci)}, "
        f"{format_p(lift.p_value)}"
    )
    if lift.is_gain:
        return f"The gain remains in hybrid search: {numbers}."
    if lift.ci[1] < 0:
        return f"In hybrid search the tuned model is worse: {numbers}."
    return f"In hybrid search the difference is not significant: {numbers}."


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
