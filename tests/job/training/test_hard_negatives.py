"""Nearest neighbors and mined negatives look like answers but are not."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from job.core.errors import DataError
from job.data.dataset import load_dataset
from job.evaluation import exact_search
from job.evaluation.evaluate import encode
from job.model.device import Machine
from job.model.encoder import Prompts, load_model
from job.spec.schema import DataSpec, ModelSpec
from job.training import hard_negatives
from job.training.hard_negatives import add_negatives, find_nearest_neighbors, pad_negatives

CPU = Machine("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU)


@pytest.fixture(scope="module")
def pairs(pairs_file):
    return load_dataset(DataSpec(source=str(pairs_file)), {}).train


def similarities(model, pairs):
    """Compute the cosine of each row's question with each row's context, (n, n)."""
    questions, contexts = (
        encode(model, pairs.table[name].combine_chunks(), role, 64)
        for name, role in (("anchor", "query"), ("positive", "document"))
    )
    return (questions @ contexts.T).numpy()


@pytest.fixture(scope="module")
def scores(model, pairs):
    return similarities(model, pairs)


def with_column(pairs, name, values):
    """Replace a column of the table."""
    return pairs.table.set_column(pairs.table.column_names.index(name), name, [values])


@pytest.fixture(scope="module")
def shared(pairs):
    """Pairs in which every other row has the context of the row before it."""
    rows = np.arange(len(pairs)) // 2 * 2
    contexts = pairs.table["positive"].combine_chunks().take(pa.array(rows))
    return replace(
        pairs,
        table=with_column(pairs, "positive", contexts),
        documents=pairs.documents[rows],
        groups=pairs.groups[rows],
    )


@pytest.fixture(scope="module")
def uneven(pairs):
    """Pairs with zero to three given negatives, and with questions that several rows share."""
    given = [[f"given {row} {number}" for number in range(row % 4)] for row in range(len(pairs))]
    column = pa.array(given, pa.list_(pa.large_string()))
    table = with_column(pairs, "negatives", column)
    return replace(pairs, table=table, questions=pairs.questions // 3)


def corpus_of(model, pairs):
    """Embed the contexts, at their documents' positions in the corpus."""
    texts = pairs.table["positive"].combine_chunks()
    corpus = torch.zeros(1 + pairs.documents.max(), model.width)
    corpus[pairs.documents] = encode(model, texts, "document", 16)
    return corpus


def mined(pairs):
    return pairs.table["negatives"].to_pylist()


def mine(model, pairs, count, margin):
    return mined(add_negatives(pairs, find_nearest_neighbors(model, pairs, margin, 64), count))


def row_of(pairs):
    return {text: row for row, text in enumerate(pairs.table["positive"].to_pylist())}


@pytest.mark.parametrize("margin", [1.0, 0.99])
def test_nearest_neighbors_are_the_best_scoring_rows_below_the_margin(model, pairs, scores, margin):
    """Of the best fifty, those that score below `margin` times the positive, best first.

    Candidates that score nearly as high as the positive are likely false negatives.
    """
    counts = []
    for row, found in enumerate(find_nearest_neighbors(model, pairs, margin, 64)):
        best = np.argsort(-scores[row])[: hard_negatives.CANDIDATES]
        expected = [other for other in best if scores[row, other] < margin * scores[row, row]]
        np.testing.assert_allclose(scores[row, found], scores[row, expected], atol=1e-6)
        assert row not in found
        counts.append(len(found))
    assert sum(counts) > 50


def test_mined_negatives_are_training_documents_of_other_groups(model, pairs):
    """A document of the row's own group is excluded, however similar."""
    halves = replace(pairs, groups=pairs.groups % 2)
    at = row_of(pairs)

    for row, texts in enumerate(mine(model, halves, 3, 1.0)):
        assert all(halves.groups[at[text]] != halves.groups[row] for text in texts)


def test_rows_without_a_mined_negative_are_not_dropped(model, pairs):
    """If all rows share one group, no row has a negative, but all rows remain."""
    one_group = replace(pairs, groups=np.zeros(len(pairs), dtype=np.int64))

    assert mine(model, one_group, 3, 1.0) == [[]] * len(pairs)


def test_block_sizes_do_not_change_what_is_mined(model, pairs, monkeypatch):
    """A million pairs are mined in blocks that fit into memory."""
    whole = mine(model, pairs, 2, 1.0)
    assert any(whole)
    monkeypatch.setattr(exact_search, "MAX_SCORES", 7 * len(pairs))
    monkeypatch.setattr(exact_search, "QUERY_COMPONENTS", 10 * model.width)
    monkeypatch.setattr(exact_search, "TILE_ROWS", 11)

    assert mine(model, pairs, 2, 1.0) == whole


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_the_first_nearest_neighbors_become_the_negatives(uneven, count):
    """Up to `count` of them are appended to the given negatives, as the contexts of their rows."""
    random = np.random.default_rng(0)
    contexts, given = uneven.table["positive"].to_pylist(), mined(uneven)
    neighbors = [random.integers(len(uneven), size=random.integers(0, 5)) for _ in given]

    found = mined(add_negatives(uneven, neighbors, count))

    expected = [[contexts[row] for row in rows[:count]] for rows in neighbors]
    assert found == [a + b for a, b in zip(given, expected, strict=True)]


def test_padding_is_drawn_from_rows_with_another_question(uneven):
    """Given negatives stay in front; other answers to a question never become its negatives."""
    contexts = row_of(uneven)
    answers = {}
    for question, document in zip(uneven.questions, uneven.documents, strict=True):
        answers.setdefault(question, set()).add(document)
    given, found = mined(uneven), mined(pad_negatives(uneven, seed=0))

    assert {len(texts) for texts in found} == {3}
    for row, (before, after) in enumerate(zip(given, found, strict=True)):
        assert after[: len(before)] == before
        drawn = {uneven.documents[contexts[text]] for text in after[len(before) :]}
        assert not drawn & answers[uneven.questions[row]]
    assert found == mined(pad_negatives(uneven, seed=0))


def test_padding_needs_uneven_rows_and_other_contexts(pairs, uneven):
    """Rows with equal counts do not change; rows that all share one context cannot be padded."""
    assert pad_negatives(pairs, seed=0) is pairs
    one = replace(uneven, documents=np.zeros(len(uneven), np.int64))
    with pytest.raises(DataError, match="nearly all rows share one context"):
        pad_negatives(one, seed=0)


def test_a_context_of_several_rows_is_one_neighbor(model, shared):
    """It is represented by its first row, or it would be the same negative twice."""
    neighbors = find_nearest_neighbors(model, shared, 1.0, 64)

    assert sum(map(len, neighbors)) > len(shared)
    assert {row % 2 for rows in neighbors for row in rows.tolist()} == {0}
    assert all(len(set(rows.tolist())) == len(rows) for rows in neighbors)


@pytest.mark.parametrize(
    ("table", "prompts"),
    [("pairs", Prompts("ask1 ask2 ", "tell3 tell4 ")), ("shared", Prompts())],
)
def test_precomputed_corpus_vectors_give_the_same_neighbors(model, prompts, table, request):
    """If they were computed with the same prompts."""
    pairs, prompted = request.getfixturevalue(table), model.with_prompts(prompts)
    scores = similarities(prompted, pairs)
    # Their norms do not matter.
    known = 3 * corpus_of(prompted, pairs)

    with_known = find_nearest_neighbors(prompted, pairs, 1.0, 64, known)
    without = find_nearest_neighbors(prompted, pairs, 1.0, 64)

    assert sum(map(len, with_known)) > 500
    for row, (found, expected) in enumerate(zip(with_known, without, strict=True)):
        # Rounding may swap rows of nearly equal scores.
        np.testing.assert_allclose(scores[row, found], scores[row, expected], atol=1e-5)
        assert len({*found.tolist()} ^ {*expected.tolist()}) <= 2


def test_corpus_vectors_are_selected_by_the_pairs_documents(model, pairs):
    """Rows of a larger matrix give the same neighbors; other vectors give other neighbors."""
    known = corpus_of(model, pairs)
    positions = torch.randperm(500, generator=torch.Generator().manual_seed(0))[: len(known)]
    corpus = torch.randn(500, model.width)
    corpus[positions] = known
    moved = replace(pairs, documents=positions.numpy()[pairs.documents])

    found, expected, other = (
        [rows.tolist() for rows in find_nearest_neighbors(model, given, 1.0, 64, vectors)]
        for given, vectors in ((moved, corpus), (pairs, known), (pairs, known.flip(0)))
    )

    assert found == expected != other


def test_precomputed_corpus_vectors_save_embedding_the_corpus(model, pairs, monkeypatch):
    """Only the questions are embedded."""
    known, embedded = corpus_of(model, pairs), []

    def counted(model, texts, *options):
        embedded.extend(texts.to_pylist())
        return encode(model, texts, *options)

    monkeypatch.setattr(hard_negatives, "encode", counted)
    find_nearest_neighbors(model, pairs, 0.95, 64, known)

    assert embedded == pairs.table["anchor"].to_pylist()
