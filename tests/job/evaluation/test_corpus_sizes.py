"""Smaller vectors are measured in samples of the corpus, by the same search as in all of it."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from job.data.dataset import Corpus, Dataset, Queries
from job.evaluation.corpus_sizes import Measured, measure_sizes, slope_per_doubling
from job.evaluation.evaluate import Vectors, score_vectors
from job.evaluation.metrics import METRIC

POINT = (8, "binary_rescored")


def search_of(documents, queries=30, width=32):
    """Make vectors in which query i is close to document i."""
    draw = torch.Generator().manual_seed(1)
    corpus = torch.randn(documents, width, generator=draw)
    asked = corpus[:queries] + 0.9 * torch.randn(queries, width, generator=draw)
    numbers = [str(n) for n in range(documents)]
    found = Queries(
        pa.array(numbers[:queries]),
        pa.array(numbers[:queries]),
        np.arange(queries + 1),
        np.arange(queries),
        np.arange(queries),
    )
    return Vectors(asked, corpus), found, Corpus(pa.array(numbers), pa.array(numbers))


def measured(documents):
    vectors, queries, corpus = search_of(documents)
    scores = score_vectors(vectors, queries, [32, 8], ["binary"])
    dataset = Dataset(corpus, None, None, queries, None, None, None, None, {})
    return measure_sizes(vectors, scores, dataset, POINT, seed=3), scores


def test_each_size_is_a_search_of_its_own():
    """Ranges and rescored candidates are those of the sample; more documents lose more."""
    found, scores = measured(2000)
    assert [each.documents for each in found.measured] == [500, 1000, 2000]
    whole = found.measured[-1]
    assert whole.ndcg == pytest.approx(scores[8]["binary_rescored"].mean(METRIC))
    assert whole.full_ndcg == pytest.approx(scores[32]["float32"].mean(METRIC))
    assert whole.share == pytest.approx(whole.ndcg / whole.full_ndcg)
    shares = [each.share for each in found.measured]
    assert shares[0] > shares[2]
    assert found.per_doubling == pytest.approx((shares[2] - shares[0]) / 2)
    assert found.ci[0] < found.per_doubling < found.ci[1]
    assert (found.dimension, found.precision, found.full_dimension) == (*POINT, 32)


def test_a_sample_of_a_quarter_scores_as_a_corpus_of_these_documents_does():
    vectors, queries, _ = search_of(2000)
    found, _ = measured(2000)
    # The sample: the relevant documents, and the first others of a seeded permutation.
    others = np.random.default_rng(3).permutation(np.arange(30, 2000))[: 500 - 30]
    kept = np.sort(np.concatenate([np.arange(30), others]))
    alone = Vectors(vectors.queries, vectors.corpus[torch.from_numpy(kept)])
    scores = score_vectors(alone, queries, [8], ["binary"])
    assert found.measured[0].ndcg == pytest.approx(scores[8]["binary_rescored"].mean(METRIC))


def test_sizes_that_hardly_differ_are_left_out():
    """Of 35 documents 30 are relevant, so a quarter and a half are all the same sample."""
    found, _ = measured(35)
    assert [each.documents for each in found.measured] == [35]
    assert (found.per_doubling, found.ci) == (None, None)


def shares_at(shares, noise=0.0):
    """Measure full scores of 1 and smaller ones of these means at 100, 200, 400 documents."""
    draw = np.random.default_rng(0)
    full = np.ones(50)
    return [
        Measured(100 * 2**n, share + noise * draw.normal(size=50), full)
        for n, share in enumerate(shares)
    ]


def test_the_slope_is_the_change_of_the_share_with_each_doubling():
    slope, (low, high) = slope_per_doubling(shares_at([0.98, 0.96, 0.94]), np.arange(50))
    assert slope == pytest.approx(-0.02)
    assert (low, high) == pytest.approx((-0.02, -0.02))
    slope, (low, high) = slope_per_doubling(shares_at([0.9, 0.9, 0.9], 0.1), np.arange(50))
    assert low < slope < high
    # The standard error of a difference of two means of 50 values, over two doublings.
    assert high - low == pytest.approx(2 * 2.01 * 0.1 * (2 / 50) ** 0.5 / 2, rel=0.3)


def test_one_group_of_queries_gives_no_interval():
    slope, ci = slope_per_doubling(shares_at([0.9, 0.8, 0.7]), np.zeros(50, dtype=int))
    assert (slope, ci) == (pytest.approx(-0.1), None)
