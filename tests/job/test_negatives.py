"""Lookalikes and mined negatives look like answers and are none."""

from dataclasses import replace

import numpy as np
import pytest

from job import negatives, search
from job.data import load_dataset
from job.evaluate import encode
from job.machine import Machine
from job.model import Prompts, load_model
from job.negatives import add_negatives, fill, find_lookalikes
from job.spec import DataSpec, ModelSpec

CPU = Machine("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU)


@pytest.fixture(scope="module")
def pairs(pairs_file):
    return load_dataset(DataSpec(source=str(pairs_file)), {}).train


def similarities(model, pairs):
    """Cosine similarity of each row's question to each row's context, (n, n)."""
    from torch.nn.functional import normalize

    prompts = (model.prompts.query, model.prompts.document)
    questions, contexts = (
        normalize(encode(model, pairs.table[name].combine_chunks(), prompt, 64), dim=1)
        for name, prompt in zip(("anchor", "positive"), prompts, strict=True)
    )
    return (questions @ contexts.T).numpy()


@pytest.fixture(scope="module")
def scores(model, pairs):
    return similarities(model, pairs)


@pytest.fixture(scope="module")
def shared(pairs):
    """Every other row answers with the context of the row before it."""
    at = pairs.table.column_names.index("positive")
    rows = np.arange(len(pairs)) // 2 * 2
    contexts = pairs.table["positive"].take(negatives.pa.array(rows))
    return replace(
        pairs,
        table=pairs.table.set_column(at, "positive", contexts),
        documents=pairs.documents[rows],
        groups=pairs.groups[rows],
    )


def contexts_of(model, pairs):
    """Embed each row's context, as whoever has the whole corpus embedded would know them."""
    return encode(model, pairs.table["positive"].combine_chunks(), model.prompts.document, 16)


def mined(pairs):
    return pairs.table["negatives"].to_pylist()


def mine(model, pairs, count, margin):
    return mined(add_negatives(pairs, find_lookalikes(model, pairs, margin, 64), count))


def row_of(pairs):
    return {text: row for row, text in enumerate(pairs.table["positive"].to_pylist())}


def test_the_hardest_documents_below_the_margin_are_taken(model, pairs, scores):
    """By hand: of the other rows' contexts that score below a row's own, the best two."""
    found, at = mine(model, pairs, 2, 1.0), row_of(pairs)

    full = 0
    for row, texts in enumerate(found):
        others = np.delete(scores[row], row)
        # Only the fifty that score highest are looked at.
        candidates = np.sort(others)[::-1][:49]
        wanted = candidates[candidates < scores[row, row]][:2]
        np.testing.assert_allclose([scores[row, at[text]] for text in texts], wanted, atol=1e-6)
        full += len(wanted) == 2
    assert full > 20


def test_only_training_documents_of_other_groups_are_taken(model, pairs):
    """Neither the row's own context nor what shares a group with it, be it ever so similar."""
    halves = replace(pairs, groups=pairs.groups % 2)
    at = row_of(pairs)

    for row, texts in enumerate(mine(model, halves, 3, 1.0)):
        assert all(halves.groups[at[text]] != halves.groups[row] for text in texts)


def test_rows_that_find_none_are_kept_without(model, pairs):
    """Where one group holds everything there is no negative, and still every row."""
    alike = replace(pairs, groups=np.zeros(len(pairs), dtype=np.int64))

    assert mine(model, alike, 3, 1.0) == [[]] * len(pairs)


def test_a_smaller_margin_takes_less(model, pairs):
    """What scores nearly as high as the context itself may be an answer that nobody marked."""
    counts = [sum(map(len, mine(model, pairs, 5, margin))) for margin in (1.0, 0.99, 0.1)]

    assert counts[0] > counts[1] > counts[2]


def test_given_negatives_stand_before_mined_ones(model, pairs):
    """The data's own negatives are all kept."""
    at = pairs.table.column_names.index("negatives")
    given = [[f"given {row}"] for row in range(len(pairs))]
    theirs = replace(
        pairs, table=pairs.table.set_column(at, "negatives", [negatives.pa.array(given)])
    )

    alone, both = mine(model, pairs, 2, 1.0), mine(model, theirs, 2, 1.0)

    assert any(alone)
    assert both == [a + b for a, b in zip(given, alone, strict=True)]


def test_mining_in_blocks_finds_the_same(model, pairs, monkeypatch):
    """A million pairs are mined in pieces that fit into memory."""
    whole = mine(model, pairs, 2, 1.0)
    assert any(whole)
    monkeypatch.setattr(search, "CHUNK", 7 * len(pairs))
    monkeypatch.setattr(search, "COMPONENTS", 10 * model.width)
    monkeypatch.setattr(search, "TILE", 11)

    assert mine(model, pairs, 2, 1.0) == whole


def test_no_negatives_wanted_are_none_added(pairs):
    """The pairs are those that were given, those of the data among them."""
    alike = [np.array([1, 2])] * len(pairs)

    assert add_negatives(pairs, alike, 0) is pairs


def test_the_first_of_the_lookalikes_become_the_negatives(pairs):
    """As many as are wanted and found, each the text of its row, in their order."""
    contexts = pairs.table["positive"].to_pylist()
    empty = np.array([], dtype=np.int64)
    alike = [np.array([5, 3, 4]), np.array([7]), *[empty] * (len(pairs) - 2)]

    found = mined(add_negatives(pairs, alike, 2))

    assert found[:3] == [[contexts[5], contexts[3]], [contexts[7]], []]


@pytest.fixture(scope="module")
def uneven(pairs):
    """Rows with none to three negatives of their own, and questions that several rows share."""
    at = pairs.table.column_names.index("negatives")
    given = [[f"given {row} {number}" for number in range(row % 4)] for row in range(len(pairs))]
    column = [negatives.pa.array(given, negatives.pa.list_(negatives.pa.large_string()))]
    table = pairs.table.set_column(at, "negatives", column)
    return replace(pairs, table=table, questions=pairs.questions // 3)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_lists_of_texts_are_joined_row_by_row(uneven, count):
    """As lists of Python would be, which a million rows have no room for."""
    random = np.random.default_rng(0)
    contexts, given = uneven.table["positive"].to_pylist(), mined(uneven)
    alike = [random.integers(len(uneven), size=random.integers(0, 5)) for _ in given]

    found = mined(add_negatives(uneven, alike, count))

    expected = [[contexts[row] for row in rows[:count]] for rows in alike]
    assert found == [a + b for a, b in zip(given, expected, strict=True)]


def test_what_rows_lack_is_drawn_from_rows_with_another_question(uneven):
    """The given ones stay, in front; a question's other answers are never its negatives."""
    contexts = row_of(uneven)
    answers = {}
    for question, document in zip(uneven.questions, uneven.documents, strict=True):
        answers.setdefault(question, set()).add(document)
    given, found = mined(uneven), mined(fill(uneven, seed=0))

    assert {len(texts) for texts in found} == {3}
    for row, (before, after) in enumerate(zip(given, found, strict=True)):
        assert after[: len(before)] == before
        drawn = {uneven.documents[contexts[text]] for text in after[len(before) :]}
        assert not drawn & answers[uneven.questions[row]]


def test_lookalikes_are_the_rows_whose_contexts_score_highest(model, pairs, scores):
    """By hand: of the best fifty those that score below the row's own, the best first."""
    for row, found in enumerate(find_lookalikes(model, pairs, 1.0, 64)):
        best = np.argsort(-scores[row])[: negatives.CANDIDATES]
        wanted = [other for other in best if scores[row, other] < scores[row, row]]
        np.testing.assert_allclose(scores[row, found], scores[row, wanted], atol=1e-6)
        assert row not in found


def test_a_context_of_several_rows_is_one_lookalike(model, shared):
    """It stands for its first row: the same text twice would be the same negative twice."""
    alike = find_lookalikes(model, shared, 1.0, 64)

    assert sum(map(len, alike)) > len(shared)
    assert {row % 2 for rows in alike for row in rows.tolist()} == {0}
    assert all(len(set(rows.tolist())) == len(rows) for rows in alike)


@pytest.mark.parametrize("prompts", [Prompts(), Prompts("ask1 ask2 ", "tell3 tell4 ")])
@pytest.mark.parametrize("table", ["pairs", "shared"])
def test_known_embeddings_of_the_contexts_lead_to_the_same(model, prompts, table, request):
    """Whoever has embedded the contexts, with the same prompts, need not do it again."""
    pairs, prompted = request.getfixturevalue(table), model.with_prompts(prompts)
    scores = similarities(prompted, pairs)
    # Their lengths make no difference.
    known = 3 * contexts_of(prompted, pairs)

    with_known = find_lookalikes(prompted, pairs, 1.0, 64, documents=known)
    without = find_lookalikes(prompted, pairs, 1.0, 64)

    assert sum(map(len, with_known)) > 500
    for row, (found, expected) in enumerate(zip(with_known, without, strict=True)):
        # Those that score the same but for rounding may change places.
        np.testing.assert_allclose(scores[row, found], scores[row, expected], atol=1e-5)
        assert len({*found.tolist()} ^ {*expected.tolist()}) <= 2


def test_the_corpus_need_not_be_copied_to_be_known(model, pairs):
    """Rows chosen of a larger matrix are as good as those rows."""
    import torch

    known = contexts_of(model, pairs)
    places = torch.randperm(500, generator=torch.Generator().manual_seed(0))[: len(pairs)]
    corpus = torch.randn(500, model.width)
    corpus[places] = known

    found = find_lookalikes(model, pairs, 1.0, 64, search.Chosen(corpus, places))

    expected = find_lookalikes(model, pairs, 1.0, 64, known)
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected]


def test_embeddings_known_for_other_contexts_lead_elsewhere(model, pairs):
    """What is given is what is used, row by row."""
    known = contexts_of(model, pairs)

    found, other = (find_lookalikes(model, pairs, 1.0, 64, d) for d in (known, known.flip(0)))

    assert [rows.tolist() for rows in found] != [rows.tolist() for rows in other]


def test_known_embeddings_are_not_made_again(model, pairs, monkeypatch):
    """Only the questions are: the corpus is most of what there is to embed."""
    known, embedded = contexts_of(model, pairs), []

    def counted(model, texts, *options):
        embedded.extend(texts.to_pylist())
        return encode(model, texts, *options)

    monkeypatch.setattr(negatives, "encode", counted)
    find_lookalikes(model, pairs, 0.95, 64, known)

    assert embedded == pairs.table["anchor"].to_pylist()
