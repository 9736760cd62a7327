"""From vectors to ranks to metrics; the rules are those of sentence-transformers' evaluator.

Documents are ranked by score, descending, and equal scores by document id, ascending (as strings;
corpora are sorted so, hence by position). Metrics are per query, on the 0-1 scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from job.data import Queries

if TYPE_CHECKING:
    import torch

# The metric that selects, decides and is shown first.
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
# Scores held at once: 2^25 float32 are 128 MiB.
CHUNK = 2**25

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Scores:
    """Results of each query: arrays of length n_queries.

    `rank` is the rank of the best relevant document, 0 where none is among the first 100;
    `ranked` holds corpus positions, best first, (n_queries, ≤ 100); `found` counts those of each
    query that were found at all, the others stand there by position (None: all were).
    """

    metrics: dict[str, FloatArray]
    rank: IntArray
    ranked: IntArray
    found: IntArray | None = None

    @property
    def top(self) -> IntArray:
        return self.ranked[:, :10]

    def mean(self, metric: str) -> float:
        return float(self.metrics[metric].mean())

    def means(self) -> dict[str, float]:
        return {metric: self.mean(metric) for metric in METRICS}


def rank_vectors(queries: "torch.Tensor", corpus: "torch.Tensor", dimension: int) -> IntArray:
    """Rank by cosine similarity of the first `dimension` components.

    Takes (n_queries, width) and (n_documents, width); returns positions, (n_queries, ≤ 100).
    """
    from torch.nn.functional import normalize

    left, right = (normalize(v[:, :dimension].float(), dim=1) for v in (queries, corpus))
    return rank_products(left, right)


def rank_products(left: "torch.Tensor", right: "torch.Tensor", depth: int = DEPTH) -> IntArray:
    """Rank by inner product, in blocks of queries: the first `depth` positions of each."""
    rows = max(1, CHUNK // max(1, len(right)))
    chunks = [rank_scores(left[i : i + rows] @ right.T, depth) for i in range(0, len(left), rows)]
    return np.concatenate(chunks)


def rank_scores(scores: "torch.Tensor", depth: int = DEPTH) -> IntArray:
    """Rank a block of scores, (n_queries, n_documents), by default as deep as metrics need."""
    depth = min(depth, scores.shape[1])
    values, positions = scores.topk(depth, dim=1)
    # topk takes any of several equal scores; which ones matters only at its lower end.
    crowded = (scores >= values[:, -1:]).sum(dim=1) > depth
    for row in crowded.nonzero()[:, 0].tolist():
        candidates = (scores[row] >= values[row, -1]).nonzero()[:, 0]
        order = scores[row][candidates].argsort(descending=True, stable=True)[:depth]
        positions[row] = candidates[order]
    by_position = positions.argsort(dim=1)
    positions, values = positions.gather(1, by_position), values.gather(1, by_position)
    order = values.argsort(dim=1, descending=True, stable=True)
    ranked: IntArray = positions.gather(1, order).cpu().numpy().astype(np.int64)
    return ranked


def judge(
    ranked: IntArray,
    queries: Queries,
    missing: IntArray | None = None,
    found: IntArray | None = None,
) -> Scores:
    """Compute every metric of ranked corpus positions, (n_queries, depth).

    `missing` counts, per query, relevant documents that the corpus lacks: they cannot be found,
    but they count.
    """
    hits = _hits(ranked, queries)
    relevant = np.diff(queries.offsets) + (0 if missing is None else missing)
    places = np.arange(1, hits.shape[1] + 1)
    met = hits.cumsum(axis=1)
    gains = 1.0 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0.0], gains.cumsum()])[np.minimum(relevant, 10)]
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    precisions = np.where(hits, met / places, 0.0).sum(axis=1)
    metrics = {
        "ndcg@10": (hits[:, :10] * gains[: hits.shape[1]]).sum(axis=1) / ideal,
        "mrr@10": np.where((first > 0) & (first <= 10), 1.0 / np.maximum(first, 1), 0.0),
        "map@100": precisions / np.minimum(relevant, DEPTH),
    }
    metrics |= {f"recall@{k}": hits[:, :k].sum(axis=1) / relevant for k in RECALL_AT}
    metrics |= {f"accuracy@{k}": hits[:, :k].any(axis=1).astype(float) for k in ACCURACY_AT}
    return Scores(metrics, first.astype(np.int64), ranked, found)


def _hits(ranked: IntArray, queries: Queries) -> np.ndarray[Any, np.dtype[np.bool_]]:
    span = 1 + max(int(ranked.max(initial=0)), int(queries.documents.max(initial=0)))
    owners = np.repeat(np.arange(len(queries)), np.diff(queries.offsets))
    known = owners * span + queries.documents
    return np.isin(np.arange(len(queries))[:, None] * span + ranked, known)


@dataclass(frozen=True)
class Matches:
    """BM25's ranking, (n_queries, ≤ 100), and how many of each query share a word with it."""

    ranked: IntArray
    found: IntArray


def rank_bm25(corpus_texts: list[str], query_texts: list[str]) -> Matches:
    """Rank with BM25 (k1 1.2, b 0.75, lower-cased words, no stop words).

    For languages that put spaces between words; elsewhere a whole run is one word.
    """
    import bm25s
    import torch

    pattern = r"(?u)\b\w+\b"

    def tokens(texts: list[str]) -> list[list[str]]:
        words: list[list[str]] = bm25s.tokenize(
            texts, token_pattern=pattern, stopwords=None, return_ids=False, show_progress=False
        )
        return words

    documents, unmatched = tokens(corpus_texts), np.zeros(len(corpus_texts), np.float32)
    if not any(documents):
        # bm25s refuses a corpus without words as well; then nothing tells documents apart.
        nothing = torch.zeros(len(query_texts), len(corpus_texts))
        return Matches(rank_scores(nothing), np.zeros(len(query_texts), np.int64))
    index = bm25s.BM25(k1=1.2, b=0.75)
    index.index(documents, show_progress=False)

    def blocks() -> Iterator[Matches]:
        rows = max(1, CHUNK // max(1, len(corpus_texts)))
        questions = tokens(query_texts)
        for start in range(0, len(questions), rows):
            scores = np.stack(
                [
                    # bm25s refuses a question without words.
                    index.get_scores(words) if words else unmatched
                    for words in questions[start : start + rows]
                ]
            )
            found = np.minimum((scores > 0).sum(axis=1), DEPTH)
            yield Matches(rank_scores(torch.from_numpy(scores)), found)

    parts = list(blocks())
    return Matches(
        np.concatenate([part.ranked for part in parts]),
        np.concatenate([part.found for part in parts]),
    )
