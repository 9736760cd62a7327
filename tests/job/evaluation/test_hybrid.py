"""Rank fusion of BM25 and vectors: the formula, its ties, and the comparison's sentence."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.dataset import Queries
from job.evaluation.base_vs_tuned import compare_swap
from job.evaluation.hybrid import fuse, hybrid_search
from job.evaluation.metrics import METRIC, Scores, compute_metrics
from job.evaluation.results import ParetoPoint
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


NINTH = [9, 8, 9, 8, 9, 8, 9, 8] * 5


@pytest.mark.parametrize(
    ("before", "after", "opening"),
    [
        (NINTH, [0] * 40, "The gain remains in hybrid search: "),
        (
            [0] * 40,
            NINTH,
            "In hybrid search the recommended vectors are worse than the base model's: ",
        ),
        ([3] * 40, [3] * 40, "In hybrid search the test cannot tell (the difference is between "),
    ],
    ids=["gain", "loss", "tie"],
)
def test_the_sentence_is_about_the_recommended_swap(before, after, opening):
    """From the base model at full width to the recommended vectors, both fused with BM25; then
    whether fusing raises or lowers the scores of the recommended vectors."""
    bm25, base, tuned = search(*[5] * 40), search(*before), search(*after)
    by_group = GroupedQueries(np.arange(40), 1000, 0)
    recommended = ParetoPoint(
        dimension=4,
        precision="int8",
        bytes_per_vector=4,
        ndcg=0,
        retention={"share": 1, "ci": (0, 1)},
    )
    # At the recommended dimension, float32 vectors are like those of the base model.
    old = {8: {"float32": base}, 4: {"float32": base}}
    new = {8: {"float32": base}, 4: {"float32": base, "int8": tuned}}
    swap = compare_swap(old, new, bm25, by_group, recommended)

    def fused(*, improved=True):
        found = (bm25, old, new, queries(40), by_group, swap, 0.01)
        return hybrid_search(*found, improved=improved)

    found = fused()

    lift, alone = found.swap, found.swap.against_alone
    assert found.sentence.startswith(opening)
    assert lift.lift == pytest.approx(found.swap_scores.tuned - found.swap_scores.base)
    numbers = f"{found.swap_scores.base:.3f} → {found.swap_scores.tuned:.3f}, {lift.lift:+.3f} ["
    assert numbers in found.sentence
    assert found.swap_scores.base == pytest.approx(found.scores.base["8"][METRIC])
    assert found.comparison["4"].lift == 0
    assert alone.lift == pytest.approx(found.swap_scores.tuned - tuned.mean(METRIC))
    direction = "raises" if alone.is_gain else "lowers" if alone.is_loss else "If the recommended"
    assert direction in found.sentence
    assert f"{alone.lift:+.3f} [" in found.sentence
    assert (found.k, found.depth) == (60, 100)
    # The verdict says "Not improved" then, whatever the swap shows.
    assert "The gain remains" not in fused(improved=False).sentence
