"""Rank fusion of BM25 and vectors: the formula, its ties, and the comparison's sentence."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.dataset import Queries
from job.evaluation.hybrid import fuse, hybrid_search
from job.evaluation.metrics import METRIC, Scores, compute_metrics
from job.evaluation.significance import GroupedQueries


def ranked(*rows, found=None):
    array = np.array(rows, dtype=np.int64)
    counts = None if found is None else np.array(found)
    return Scores({}, np.zeros(len(array), np.int64), array, counts)


def fused_slowly(bm25, dense, found):
    """Fuse one query's rankings literally by the formula; ties by position."""
    totals = {}
    for rank, document in enumerate(bm25, start=1):
        totals[document] = totals.get(document, 0.0) + (rank <= found) / (60 + rank)
    for rank, document in enumerate(dense, start=1):
        totals[document] = totals.get(document, 0.0) + 1 / (60 + rank)
    return sorted(totals, key=lambda document: (-totals[document], document))[: len(dense)]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_fusion_is_the_sum_of_reciprocal_ranks(data):
    """It holds for any two rankings of the same documents, some without a BM25 match."""
    documents = data.draw(st.integers(1, 120))
    depth = min(100, documents)
    rows = range(data.draw(st.integers(1, 3)))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    lexical, dense = ([draw.permutation(documents)[:depth] for _ in rows] for _ in range(2))
    found = [int(draw.integers(0, depth + 1)) for _ in rows]

    expected = [fused_slowly(*row) for row in zip(lexical, dense, found, strict=True)]
    fused = fuse(ranked(*lexical, found=found), ranked(*dense))
    assert fused.tolist() == [[int(d) for d in row] for row in expected]


def test_documents_without_a_bm25_match_get_no_score_from_bm25():
    """They only fill its ranking up, in the order of positions."""
    assert fuse(ranked([0, 1, 2], found=[0]), ranked([2, 1, 0])).tolist() == [[2, 1, 0]]
    assert fuse(ranked([0, 1, 2], found=[1]), ranked([2, 1, 0])).tolist() == [[0, 2, 1]]


def queries(count):
    names = pa.array([str(i) for i in range(count)], pa.large_string())
    groups = np.arange(count)
    return Queries(names, names, np.arange(count + 1), np.zeros(count, np.int64), groups)


def search(*positions, documents=12):
    """Insert the relevant document (0) at the given position of each query's ranking."""
    rows = []
    for position in positions:
        row = list(range(1, documents))
        row.insert(position, 0)
        rows.append(row)
    found = np.full(len(rows), documents)
    return compute_metrics(np.array(rows), queries(len(rows)), found=found)


@pytest.mark.parametrize(
    ("before", "after", "opening"),
    [
        ([9, 8, 9, 8, 9, 8, 9, 8] * 5, [0] * 40, "The gain remains in hybrid search: "),
        ([0] * 40, [9, 8, 9, 8, 9, 8, 9, 8] * 5, "In hybrid search the tuned model is worse: "),
        ([3] * 40, [3] * 40, "In hybrid search the difference is not significant: "),
    ],
    ids=["gain", "loss", "tie"],
)
def test_the_sentence_reports_whether_the_gain_remains(before, after, opening):
    """It gives the fused scores of both models, their difference, its interval and its p-value."""
    bm25, base, tuned = search(*[5] * 40), search(*before), search(*after)
    by_group = GroupedQueries(np.arange(40), 1000, 0)

    found = hybrid_search(
        bm25, {8: {"float32": base}}, {8: {"float32": tuned}}, queries(40), by_group, 8
    )

    lift = found.comparison["8"]
    old, new = (scores["8"][METRIC] for scores in (found.scores.base, found.scores.tuned))
    assert found.sentence.startswith(opening)
    assert f"goes from {old:.3f} to {new:.3f}, {lift.lift:+.3f} [" in found.sentence
    assert lift.lift == pytest.approx(new - old)
    assert lift.against_alone.lift == pytest.approx(new - tuned.mean(METRIC))
    assert (found.k, found.depth) == (60, 100)
