"""The benchmark of searches at size, in small: same results, and no more memory than promised."""

import pytest
import scale
from tensor_sizes import Sizes

from job import precision, search
from job.evaluate import Vectors, score_vectors

DOCUMENTS, QUERIES = 3_000, 50


@pytest.fixture
def small_tiles(monkeypatch):
    """A tile of 128 documents, 32 queries at once with it, 40 queries brought to the device."""
    limits = {"TILE": 128, "CHUNK": 4_096, "COMPONENTS": 40 * scale.WIDTH, "CANDIDATES": 1_000}
    for name, value in limits.items():
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(precision, "BLOCK", 1)


def ranked(scores):
    return {
        (dimension, name): found.ranked.tolist()
        for dimension, by_name in scores.items()
        for name, found in by_name.items()
    }


def test_tiles_find_what_the_whole_matrix_finds(request):
    """At every dimension and precision, among more documents than a tile has."""
    asked, told = scale.make_queries(QUERIES, DOCUMENTS)
    vectors = Vectors(asked, scale.make_vectors(DOCUMENTS, 1))

    def scored():
        return score_vectors(vectors, told, scale.DIMENSIONS, ["int8", "binary"])

    whole = ranked(scored())
    request.getfixturevalue("small_tiles")

    assert ranked(scored()) == whole
    assert len(whole) == len(scale.DIMENSIONS) * 5


def test_both_evaluators_of_the_benchmark_agree():
    """What is timed side by side is the same work."""
    ours, theirs = (
        work(DOCUMENTS, QUERIES)()
        for work in (lambda *size: scale.evaluate(*size, ()), scale.evaluate_by_library)
    )

    assert ours == pytest.approx(theirs, abs=1e-9)
    assert ours[-1] < 1.0


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("documents", [1_000, 2_000])
def test_no_tensor_is_larger_than_a_tile(documents):
    """Twice the documents take no larger ones, and no matrix has a score for each pair."""
    evaluate = scale.evaluate(documents, QUERIES, ("int8", "binary"))
    mine = scale.mine(documents, QUERIES)

    with Sizes() as sizes:
        evaluate()
        mine()

    # A tile is smaller than what is rescored: the 200 best of one query.
    assert sizes.largest == 200 * scale.WIDTH > 128 * scale.WIDTH
    assert not {(QUERIES, documents), (documents, QUERIES)} & sizes.shapes
