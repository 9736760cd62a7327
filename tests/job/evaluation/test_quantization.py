"""int8 and binary vectors rank as in sentence-transformers' quantization and search."""

import inspect
import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from sentence_transformers import quantize_embeddings
from sentence_transformers.util.quantization import semantic_search_usearch
from tensor_sizes import Sizes
from torch.utils._python_dispatch import TorchDispatchMode

from job.evaluation import exact_search, quantization
from job.evaluation.exact_search import Transform, search
from job.evaluation.quantization import (
    Quantizer,
    _rescore,
    _weights,
    bytes_per_vector,
    rank,
    stored_as,
)


def vectors(rows, width=48, seed=0):
    """Draw vectors whose components have different means and spreads, like those of a model."""
    random = np.random.default_rng([seed, width])
    means, spreads = random.normal(size=width) * 0.3, 0.5 + random.random(width)
    drawn = np.random.default_rng([seed, width, rows]).normal(means, spreads, (rows, width))
    return torch.from_numpy(drawn.astype(np.float32))


def rank_quantized(queries, corpus, dimension, name):
    """Rank by codes, alone and rescored."""
    ranked = rank(queries, corpus, [dimension], [name])[dimension]
    return {key: ranked[key] for key in (name, f"{name}_rescored")}


@dataclass(frozen=True)
class SearchResult:
    keys: np.ndarray
    distances: np.ndarray
    counts: np.ndarray


class Index:
    """A stand-in for usearch's index: exhaustive search, equal distances ordered by position."""

    def __init__(self, *, metric, dtype, **_):
        self.metric, self.dtype = metric, dtype

    def add(self, keys, rows):
        assert keys.tolist() == list(range(len(rows)))
        self.rows = rows

    def get(self, keys):
        return self.rows[keys]

    def search(self, queries, count, *, exact):
        assert exact
        distances = np.stack([self.distances(row) for row in queries])
        keys = np.argsort(distances, axis=1, kind="stable")[:, :count]
        nearest = np.take_along_axis(distances, keys, axis=1)
        return SearchResult(keys, nearest, np.full(len(keys), keys.shape[1]))

    def distances(self, row):
        if self.metric == "hamming":
            return np.unpackbits(self.rows ^ row, axis=1).sum(axis=1)
        return 1 - self.rows.astype(np.int64) @ row.astype(np.int64)


@pytest.fixture
def library_search(monkeypatch):
    """Search with the library's function, but with the index above instead of usearch's."""
    index, compiled = ModuleType("usearch.index"), ModuleType("usearch.compiled")
    index.Index = Index
    compiled.ScalarKind = type("ScalarKind", (), {"F32": "f32"})
    for module in (ModuleType("usearch"), index, compiled):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def search(queries, corpus, dimension, name, *, rescore):
        queries, corpus = (
            torch.nn.functional.normalize(v[:, :dimension], dim=1).numpy()
            for v in (queries, corpus)
        )
        hits, _ = semantic_search_usearch(
            queries,
            quantize_embeddings(corpus, name, calibration_embeddings=corpus),
            corpus_precision=name,
            top_k=100,
            rescore=rescore,
            calibration_embeddings=corpus,
        )
        return [[hit["corpus_id"] for hit in row] for row in hits]

    return search


@pytest.mark.parametrize("rescore", [False, True], ids=["by codes", "rescored"])
@pytest.mark.parametrize("name", ["int8", "binary"])
@pytest.mark.parametrize(
    ("queries", "documents", "dimension"),
    [(20, 600, 48), (20, 600, 27), (1, 600, 32), (20, 150, 48), (20, 7, 48)],
    ids=["full", "no whole bytes", "one query", "few documents", "very few"],
)
def test_rankings_equal_those_of_the_librarys_search(
    library_search, name, rescore, queries, documents, dimension
):
    """The library's `quantize_embeddings`, calibrated on the corpus, and its top-100 search.

    The library gets normalized vectors; ours may have any length.
    """
    asked, stored = vectors(queries, seed=1), vectors(documents, seed=2)

    found = rank_quantized(asked, stored, dimension, name)

    expected = library_search(asked, stored, dimension, name, rescore=rescore)
    assert found[f"{name}_rescored" if rescore else name].tolist() == expected


def test_the_rescore_multiplier_is_the_librarys_default():
    """Twice as many candidates as results."""
    default = inspect.signature(semantic_search_usearch).parameters["rescore_multiplier"].default
    assert default == quantization.RESCORE_MULTIPLIER


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_equal_codes_rank_by_position(name):
    """Documents with the same stored bytes have equal scores, rescored or not.

    199 documents, because a matrix product rounds its last few rows differently.
    """
    distinct = vectors(40)
    stored = distinct[torch.randint(0, 40, (199,), generator=torch.Generator().manual_seed(0))]

    found = rank_quantized(vectors(15, seed=3), stored, 48, name)

    for ranked in found.values():
        for row in ranked:
            rows = stored[torch.from_numpy(row)]
            neighbors = (rows[1:] == rows[:-1]).all(dim=1).numpy()
            assert neighbors.any()
            assert (np.diff(row)[neighbors] > 0).all()
            # Copies are adjacent: nothing comes between two documents of equal score.
            if name == "int8":
                assert len(torch.unique_consecutive(rows, dim=0)) == len(torch.unique(rows, dim=0))


def test_equal_scores_of_different_codes_rank_by_position():
    """Rescored, `+--` and `-++` have equal scores if component 1 weighs as much as 2 and 3."""
    asked = torch.tensor([[2.0, 1.0, 1.0]])
    stored = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])

    found = rank_quantized(asked, stored, 3, "binary")

    assert found["binary"].tolist() == [[1, 2, 0]]
    assert found["binary_rescored"].tolist() == [[2, 0, 1]]


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_a_constant_component_does_not_change_the_ranking(name):
    """Its range is empty, and it contributes nothing to any score."""
    asked, stored = vectors(20, seed=1), vectors(300, seed=2)
    asked[:, 5], stored[:, 5] = 0.0, 0.0
    without = [torch.cat([v[:, :5], v[:, 6:]], dim=1) for v in (asked, stored)]

    found, expected = rank_quantized(asked, stored, 48, name), rank_quantized(*without, 47, name)

    for key, ranked in found.items():
        # Norms are rounded differently, which moves a few components to the next code.
        assert (ranked[:, :10] == expected[key][:, :10]).mean() > 0.95


def test_memory_holds_at_most_a_tile_or_one_querys_candidates(monkeypatch):
    """It does not grow with the corpus, and block sizes change no rank."""
    asked, stored = vectors(20, seed=1), vectors(2_000, seed=2)
    whole = rank(asked, stored, [48, 27], ["int8", "binary"])
    for name, value in {"TILE_ROWS": 128, "MAX_SCORES": 1_000, "MAX_TIE_SCORES": 1_000}.items():
        monkeypatch.setattr(exact_search, name, value)
    for name in ("RESCORE_DOCUMENTS", "RESCORE_COMPONENTS"):
        monkeypatch.setattr(quantization, name, 1)

    with Sizes() as sizes:
        found = rank(asked, stored, [48, 27], ["int8", "binary"])

    for dimension, by_name in whole.items():
        for name in by_name.keys() - {"float32"}:
            assert found[dimension][name].tolist() == by_name[name].tolist()
    assert sizes.largest == 200 * 48 > 128 * 48


class Operations(TorchDispatchMode):
    """Counts torch's operations; a GPU takes about as long for a small one as for a large one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_many_queries_are_rescored_in_few_operations(name):
    """Four times the queries in one block take no operation more."""
    stored, counts = vectors(2_000, seed=2), []
    for asked in (vectors(40, seed=1), vectors(160, seed=1)):
        ranges = torch.stack(stored[:, :8].aminmax(dim=0))
        quantizer = Quantizer(dimension=8, precision=name, ranges=ranges)
        found = search(asked, stored, [quantizer])[0].positions.numpy()
        with Operations() as operations:
            _rescore(found, quantizer, asked, stored, "cpu")
        counts.append(operations.count)

    assert counts[0] == counts[1] < 80


def test_a_query_without_any_length_ranks_by_position():
    """All its scores are 0."""
    (ranked,) = rank_quantized(torch.zeros(1, 8), vectors(300, width=8), 8, "binary")[
        "binary_rescored"
    ].tolist()
    assert ranked == sorted(ranked)


@pytest.mark.parametrize("name", ["int8", "binary"])
@pytest.mark.parametrize("dimension", [1, 27, 48, 1_024])
def test_sums_of_rescored_codes_are_exact_in_any_order(name, dimension):
    """Whole numbers below 2^53, close to the query's components: no order of sums rounds them."""
    stored, asked = (vectors(30, width=dimension, seed=seed) for seed in (1, 2))
    ranges = torch.stack(Transform(dimension).apply(stored).aminmax(dim=0))
    quantizer = Quantizer(dimension=dimension, precision=name, ranges=ranges)

    weights = _weights(asked, quantizer)

    assert torch.equal(weights, weights.round())
    assert (weights.abs().sum(dim=1) * 128 <= 2.0**53).all()
    exact = Transform(dimension).apply(asked).double()
    if name == "int8":
        exact *= quantizer.steps.double()
    units, exact = (torch.nn.functional.normalize(each, dim=1) for each in (weights, exact))
    torch.testing.assert_close(units, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("dimension", "name", "expected"),
    [
        (768, "float32", 3072),
        (768, "int8", 768),
        (768, "int8_rescored", 768),
        (768, "binary", 96),
        (768, "binary_rescored", 96),
        (100, "binary", 13),
        (1, "binary", 1),
    ],
)
def test_bytes_per_vector_are_those_of_the_librarys_vectors(dimension, name, expected):
    """Rescoring stores nothing more, and bits are rounded up to whole bytes."""
    assert bytes_per_vector(dimension, name) == expected
    kind = "ubinary" if stored_as(name) == "binary" else stored_as(name)
    assert quantize_embeddings(vectors(3, width=dimension), kind)[0].nbytes == expected
