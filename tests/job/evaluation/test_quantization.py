"""int8 and binary vectors rank as sentence-transformers' own quantization and search rank them."""

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

from job.evaluation import exact_search, quantization
from job.evaluation.quantization import bytes_per_vector, rank, stored_as


def vectors(rows, width=48, seed=0):
    """Draw vectors whose components have uneven means and spreads, as a model's have."""
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
    """An index of usearch's shape that searches exhaustively; equal distances go by position."""

    def __init__(self, *, metric, dtype, **_):
        self.metric, self.dtype = metric, dtype

    def add(self, keys, rows):
        assert keys.tolist() == list(range(len(rows)))
        self.rows = rows

    def get(self, keys):
        return self.rows[keys]

    def search(self, asked, count, *, exact):
        assert exact
        distances = np.stack([self.distances(row) for row in asked])
        keys = np.argsort(distances, axis=1, kind="stable")[:, :count]
        nearest = np.take_along_axis(distances, keys, axis=1)
        return SearchResult(keys, nearest, np.full(len(keys), keys.shape[1]))

    def distances(self, row):
        if self.metric == "hamming":
            return np.unpackbits(self.rows ^ row, axis=1).sum(axis=1)
        return 1 - self.rows.astype(np.int64) @ row.astype(np.int64)


@pytest.fixture
def library_search(monkeypatch):
    """Search with the library's own function, over the index above instead of usearch's."""
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
def test_ranks_are_those_of_the_librarys_search(
    library_search, name, rescore, queries, documents, dimension
):
    """Its `quantize_embeddings`, calibrated on the corpus, and its search for the first hundred.

    Both are given vectors of length 1; ours are of any length.
    """
    asked, stored = vectors(queries, seed=1), vectors(documents, seed=2)

    found = rank_quantized(asked, stored, dimension, name)

    expected = library_search(asked, stored, dimension, name, rescore=rescore)
    assert found[f"{name}_rescored" if rescore else name].tolist() == expected


def test_rescoring_reads_the_librarys_default():
    """Twice as many candidates as are wanted, as its search has it."""
    default = inspect.signature(semantic_search_usearch).parameters["rescore_multiplier"].default
    assert default == quantization.RESCORE_MULTIPLIER


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_equal_codes_rank_by_position(name):
    """Documents that are stored as the same bytes cannot be told apart, rescored or not.

    199 of them: a product of matrices rounds the last few rows otherwise than the others.
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
            # Copies stand together: nothing comes between two that score the same.
            if name == "int8":
                assert len(torch.unique_consecutive(rows, dim=0)) == len(torch.unique(rows, dim=0))


def test_equal_scores_of_different_codes_rank_by_position():
    """Rescored, `+--` and `-++` are one to a query that wants the first as much as both others."""
    asked = torch.tensor([[2.0, 1.0, 1.0]])
    stored = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])

    found = rank_quantized(asked, stored, 3, "binary")

    assert found["binary"].tolist() == [[1, 2, 0]]
    assert found["binary_rescored"].tolist() == [[2, 0, 1]]


@pytest.mark.parametrize("name", ["int8", "binary"])
def test_a_component_that_never_varies_does_no_harm(name):
    """Its range is empty; it is worth nothing to any document."""
    asked, stored = vectors(20, seed=1), vectors(300, seed=2)
    asked[:, 5], stored[:, 5] = 0.0, 0.0
    without = [torch.cat([v[:, :5], v[:, 6:]], dim=1) for v in (asked, stored)]

    found, expected = rank_quantized(asked, stored, 48, name), rank_quantized(*without, 47, name)

    for key, ranked in found.items():
        # Lengths are rounded otherwise, which moves some component over the edge of a code.
        assert (ranked[:, :10] == expected[key][:, :10]).mean() > 0.95


def test_no_more_is_held_than_a_tile_or_the_candidates_of_a_query(monkeypatch):
    """However many documents there are; how much is held at once changes no rank."""
    asked, stored = vectors(20, seed=1), vectors(2_000, seed=2)
    whole = rank(asked, stored, [48, 27], ["int8", "binary"])
    for name, value in {"TILE_ROWS": 128, "MAX_SCORES": 1_000, "MAX_TIE_SCORES": 1_000}.items():
        monkeypatch.setattr(exact_search, name, value)
    monkeypatch.setattr(quantization, "RESCORE_COMPONENTS", 1)

    with Sizes() as sizes:
        found = rank(asked, stored, [48, 27], ["int8", "binary"])

    for dimension, by_name in whole.items():
        for name in by_name.keys() - {"float32"}:
            assert found[dimension][name].tolist() == by_name[name].tolist()
    assert sizes.largest == 200 * 48 > 128 * 48


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
def test_bytes_are_those_of_the_stored_vector(dimension, name, expected):
    """Rescoring stores nothing more; bits fill whole bytes. The library agrees."""
    assert bytes_per_vector(dimension, name) == expected
    kind = "ubinary" if stored_as(name) == "binary" else stored_as(name)
    assert quantize_embeddings(vectors(3, width=dimension), kind)[0].nbytes == expected
