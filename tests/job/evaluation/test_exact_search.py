"""A search by tiles equals sorting all scores, within its memory limits."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_sizes import Sizes

from job.evaluation import exact_search as searching
from job.evaluation.exact_search import RowSubset, Transform, search, top_k


@dataclass(frozen=True)
class Plain:
    """A transform that leaves vectors unchanged."""

    depth: int = 100

    def apply(self, vectors):
        return vectors


def sorted_by_hand(queries, corpus, depth):
    scores = (queries.double() @ corpus.double().T).numpy()
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth].tolist()


def whole_numbers(seed, rows, width):
    # Dot products of integers are exact, and most scores occur several times.
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(-2, 3, (rows, width)).astype(np.float32))


@pytest.fixture
def limits(monkeypatch):
    def limit(**values):
        for name, value in values.items():
            monkeypatch.setattr(searching, name, value)

    return limit


LIMITS = {
    "TILE_ROWS": st.integers(1, 50),
    "MAX_SCORES": st.integers(1, 3_000),
    "QUERY_COMPONENTS": st.integers(1, 60),
    "TOP_K_ENTRIES": st.integers(1, 200),
    "MAX_TIE_SCORES": st.integers(1, 200),
}


@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(1, 90),
    st.lists(st.integers(1, 100), min_size=1, max_size=3),
    st.fixed_dictionaries(LIMITS),
)
@settings(deadline=None)
def test_tiles_of_any_size_give_what_a_plain_sort_gives(
    seed, n_queries, n_documents, depths, limits
):
    """Results are ordered by score and position, whatever the block sizes."""
    queries = whole_numbers([seed, 1], n_queries, 3)
    corpus = whole_numbers([seed, 2], n_documents, 3)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(searching, name, value)
        found = search(queries, corpus, [Plain(depth) for depth in depths])

    for depth, best in zip(depths, found, strict=True):
        assert best.positions.tolist() == sorted_by_hand(queries, corpus, depth)
        expected = (queries @ corpus.T).gather(1, best.positions)
        assert best.scores.tolist() == expected.tolist()


def test_scores_inside_an_autocast_block_are_as_exact_as_outside():
    """The trainer evaluates inside one; a checkpoint must score the same there and afterwards."""
    torch.manual_seed(0)
    queries, corpus = torch.randn(20, 64), torch.randn(200, 64)
    outside = search(queries, corpus, [Plain()])[0]

    with torch.autocast("cpu", torch.bfloat16):
        within = search(queries, corpus, [Plain()])[0]

    assert within.scores.dtype == torch.float32
    assert torch.equal(within.scores, outside.scores)
    assert torch.equal(within.positions, outside.positions)


def test_nan_scores_keep_the_shape_of_the_results():
    """Broken models are detected elsewhere (`job.training.health_checks`)."""
    scores = torch.tensor([[0.0, float("nan"), 1.0, 1.0, 1.0, 1.0], [2.0] * 6])

    assert top_k(scores, 3).positions[0].tolist()[0] == 1
    assert top_k(scores, 3).positions.shape == (2, 3)


def test_memory_does_not_grow_with_the_corpus(limits):
    """With four times the documents the largest tensor stays the same: a tile, a block of scores or
    the top-k of a block of queries."""
    limits(
        TILE_ROWS=128,
        MAX_SCORES=4_096,
        QUERY_COMPONENTS=2_048,
        TOP_K_ENTRIES=20_000,
        MAX_TIE_SCORES=1_000,
    )
    queries = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32))
    largest = {}
    for documents in (1_000, 4_000):
        random = np.random.default_rng(1)
        corpus = torch.from_numpy(random.normal(size=(documents, 32)).astype(np.float32))
        with Sizes() as sizes:
            search(queries, corpus, [Transform(16), Transform(8)])
        assert (100, documents) not in sizes.shapes
        largest[documents] = sizes.largest

    # The result itself has 100 documents for each of 100 queries.
    assert largest[4_000] == largest[1_000] == max(128 * 32, 4_096, 100 * 100)


def test_a_row_subset_is_read_tile_by_tile(limits):
    """It is never copied as a whole, and a subset of a subset works too."""
    limits(TILE_ROWS=16)
    vectors = whole_numbers(3, 200, 4)
    first, second = torch.randperm(200)[:100], torch.arange(99, -1, -1)
    subset = RowSubset(RowSubset(vectors, first), second)

    with Sizes() as sizes:
        found = search(vectors[:5], subset, [Plain(20)])[0]

    assert found.positions.tolist() == sorted_by_hand(vectors[:5], vectors[first][second], 20)
    assert (100, 4) not in sizes.shapes


def test_scores_are_not_rounded_to_tf32(monkeypatch):
    """The training allows a GPU to round float32 products; a search does not, and restores it."""
    seen, best = [], searching.top_k

    def look(*given, **options):
        seen.append(torch.get_float32_matmul_precision())
        return best(*given, **options)

    monkeypatch.setattr(searching, "top_k", look)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        search(torch.ones(2, 4), torch.ones(3, 4), [Transform()])
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)
