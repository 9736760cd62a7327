"""A search by tiles finds what sorting all scores finds, and holds no more than it promises."""

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
    """Vectors as they are."""

    depth: int = 100

    def apply(self, vectors):
        return vectors


def sorted_by_hand(queries, corpus, depth):
    scores = (queries.double() @ corpus.double().T).numpy()
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth].tolist()


def whole_numbers(seed, rows, width):
    # Products of these are exact, and most scores are shared by several documents.
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
def test_tiles_of_any_size_find_what_a_plain_sort_finds(seed, asked, stored, depths, limits):
    """By score and position, over queries and documents, whatever is held at once."""
    queries, corpus = whole_numbers([seed, 1], asked, 3), whole_numbers([seed, 2], stored, 3)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(searching, name, value)
        found = search(queries, corpus, [Plain(depth) for depth in depths])

    for depth, best in zip(depths, found, strict=True):
        assert best.positions.tolist() == sorted_by_hand(queries, corpus, depth)
        expected = (queries @ corpus.T).gather(1, best.positions)
        assert best.scores.tolist() == expected.tolist()


def test_scores_within_an_autocast_block_are_as_exact_as_outside():
    """A trainer evaluates within one: a checkpoint must score there what it scores afterwards."""
    torch.manual_seed(0)
    queries, corpus = torch.randn(20, 64), torch.randn(200, 64)
    outside = search(queries, corpus, [Plain()])[0]

    with torch.autocast("cpu", torch.bfloat16):
        within = search(queries, corpus, [Plain()])[0]

    assert within.scores.dtype == torch.float32
    assert torch.equal(within.scores, outside.scores)
    assert torch.equal(within.positions, outside.positions)


def test_what_is_no_number_breaks_nothing():
    """Vectors that are none are found elsewhere (`job.training.health`); all rows stay as deep."""
    scores = torch.tensor([[0.0, float("nan"), 1.0, 1.0, 1.0, 1.0], [2.0] * 6])

    assert top_k(scores, 3).positions[0].tolist()[0] == 1
    assert top_k(scores, 3).positions.shape == (2, 3)


def test_no_more_is_held_than_promised(limits):
    """Four times the documents, and nothing that is computed is larger: a tile, a block of scores,
    or the best documents of some queries."""
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

    # 100 queries with their 100 best are what is asked for.
    assert largest[4_000] == largest[1_000] == max(128 * 32, 4_096, 100 * 100)


def test_chosen_rows_are_read_without_copying_all(limits):
    """A choice of a choice is a choice as well; only tiles of it are ever brought together."""
    limits(TILE_ROWS=16)
    vectors = whole_numbers(3, 200, 4)
    first, second = torch.randperm(200)[:100], torch.arange(99, -1, -1)
    chosen = RowSubset(RowSubset(vectors, first), second)

    with Sizes() as sizes:
        found = search(vectors[:5], chosen, [Plain(20)])[0]

    assert found.positions.tolist() == sorted_by_hand(vectors[:5], vectors[first][second], 20)
    assert (100, 4) not in sizes.shapes
