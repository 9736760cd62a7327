"""Compute retrieval metrics from rankings, as sentence-transformers' evaluator defines them.

Documents are ranked by score, descending; equal scores by document id, ascending as strings.
A corpus is sorted by id, so this is the order of positions. Metrics are per query, from 0 to 1.

If queries have grades, nDCG's gain of a document is its grade, linear as in trec_eval; a grade may
be a fraction. For the other metrics every document with a grade is relevant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from job.data.dataset import Queries
from job.storage.arrow_tables import BoolArray, FloatArray, IntArray

# The primary metric: it selects checkpoints, decides the verdict and comes first in the report.
METRIC = "ndcg@10"
DEPTH = 100
RECALL_AT = (1, 5, 10, 100)
ACCURACY_AT = (1, 3, 5, 10)
METRICS = (
    "ndcg@10",
    "mrr@10",
    "map@100",
    *(f"recall@{k}" for k in RECALL_AT),
    *(f"accuracy@{k}" for k in ACCURACY_AT),
)


@dataclass(frozen=True)
class Scores:
    """Results per query: arrays of length n_queries.

    `rank` is the rank of the best relevant document, 0 if none is in the top 100.
    `ranked` holds corpus positions, best first, (n_queries, ≤ 100).
    `found` counts each query's matches in `ranked`; the entries after them only fill up, in the
    order of positions. None means that all entries are matches.
    """

    metrics: dict[str, FloatArray]
    rank: IntArray
    ranked: IntArray
    found: IntArray | None = None

    @property
    def top(self) -> IntArray:
        return self.ranked[:, :10]

    def part(self, queries: slice) -> "Scores":
        metrics = {name: values[queries] for name, values in self.metrics.items()}
        found = None if self.found is None else self.found[queries]
        return Scores(metrics, self.rank[queries], self.ranked[queries], found)

    def mean(self, metric: str) -> float:
        return float(self.metrics[metric].mean())

    def means(self) -> dict[str, float]:
        return {metric: self.mean(metric) for metric in METRICS}


def joined(parts: Sequence[Scores]) -> Scores:
    """Join the scores of several sets of queries, searched in the same corpus by vectors."""
    return Scores(
        {name: np.concatenate([part.metrics[name] for part in parts]) for name in METRICS},
        np.concatenate([part.rank for part in parts]),
        np.concatenate([part.ranked for part in parts]),
    )


# Scores by dimension and precision.
ByVector: TypeAlias = Mapping[int, Mapping[str, Scores]]


def compute_metrics(ranked: IntArray, queries: Queries, found: IntArray | None = None) -> Scores:
    """Compute all metrics from ranked corpus positions, (n_queries, depth)."""
    hits = _hits(ranked, queries)
    relevant = np.diff(queries.offsets)
    ranks = np.arange(1, hits.shape[1] + 1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    precisions = np.where(hits, hits.cumsum(axis=1) / ranks, 0.0).sum(axis=1)
    metrics = {
        "ndcg@10": _ndcg(hits[:, :10], ranked[:, :10], queries),
        "mrr@10": np.where((first > 0) & (first <= 10), 1.0 / np.maximum(first, 1), 0.0),
        "map@100": precisions / np.minimum(relevant, DEPTH),
    }
    metrics |= {f"recall@{k}": hits[:, :k].sum(axis=1) / relevant for k in RECALL_AT}
    metrics |= {f"accuracy@{k}": hits[:, :k].any(axis=1).astype(float) for k in ACCURACY_AT}
    return Scores(metrics, first.astype(np.int64), ranked, found)


def _ndcg(hits: BoolArray, ranked: IntArray, queries: Queries) -> FloatArray:
    """Compute nDCG@10 of the top 10: hits and positions, (n_queries, ≤ 10)."""
    discounts = 1.0 / np.log2(np.arange(2, 12))
    relevant = np.diff(queries.offsets)
    if queries.grades is None:
        gains: np.ndarray[Any, Any] = hits
        ideal = np.concatenate([[0.0], discounts.cumsum()])[np.minimum(relevant, 10)]
    else:
        gains = _gains(hits, ranked, queries, queries.grades)
        ideal = _ideal_gain(queries.grades, relevant, discounts)
    found: FloatArray = (gains * discounts[: hits.shape[1]]).sum(axis=1) / ideal
    return found


def _gains(hits: BoolArray, ranked: IntArray, queries: Queries, grades: FloatArray) -> FloatArray:
    """Return the grade of each hit, and 0 elsewhere, in the shape of `hits`."""
    rows, columns = np.nonzero(hits)
    span = 1 + int(queries.documents.max(initial=0))
    owners = np.repeat(np.arange(len(queries)), np.diff(queries.offsets))
    known = owners * span + queries.documents
    order = known.argsort()
    at = order[np.searchsorted(known, rows * span + ranked[rows, columns], sorter=order)]
    gains = np.zeros(hits.shape)
    gains[rows, columns] = grades[at]
    return gains


def _ideal_gain(grades: FloatArray, relevant: IntArray, discounts: FloatArray) -> FloatArray:
    """Return each query's discounted gain if its best grades come first; `relevant` counts them."""
    owners = np.repeat(np.arange(len(relevant)), relevant)
    best = grades[np.lexsort((-grades, owners))]
    ranks = np.arange(len(grades)) - np.repeat(relevant.cumsum() - relevant, relevant)
    top = ranks < len(discounts)
    weights = best[top] * discounts[ranks[top]]
    return np.bincount(owners[top], weights, minlength=len(relevant)).astype(np.float64)


def _hits(ranked: IntArray, queries: Queries) -> BoolArray:
    span = 1 + max(int(ranked.max(initial=0)), int(queries.documents.max(initial=0)))
    owners = np.repeat(np.arange(len(queries)), np.diff(queries.offsets))
    known = owners * span + queries.documents
    return np.isin(np.arange(len(queries))[:, None] * span + ranked, known)
