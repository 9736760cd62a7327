"""The loss is the known one, but for answers that are known: those are no wrong answers."""

import copy
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data import TrainingPairs
from job.spec import TrainingSpec

SCALE = 20.0
QUESTIONS = [
    "ask1 ask2 ask3 ask4 the",
    "ask5 ask6",
    "ask7 ask8 ask9 ask10 of a and in",
    "ask11",
    "ask12 ask13 ask14",
    "ask15 ask16 in",
    "ask17 the ask18",
]
DOCUMENTS = [
    "tell1 a tell2 of tell3 the tell4 and",
    "tell5 a tell6",
    "tell7 in tell8 of tell9 the tell10",
    "tell11 the a of and in is tell12 the a of and in is",
    "tell13",
    "tell14 of tell15 of tell16",
    "tell17 a tell18 tell19",
]
NEGATIVES = [f"tell{20 + number % 4} is {document}" for number, document in enumerate(DOCUMENTS)]


def pairs_of(questions, documents):
    """Make training pairs whose texts are numbered so; the texts themselves do not matter here."""
    rows = range(len(questions))
    columns = {"id": pa.array([str(row) for row in rows])}
    columns |= dict.fromkeys(("anchor", "positive"), pa.array([str(row) for row in rows]))
    columns["negatives"] = pa.array([[] for _ in rows], pa.list_(pa.string()))
    return TrainingPairs(pa.table(columns), np.array(questions), np.array(documents))


DISTINCT = pairs_of(range(7), range(7))


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    """Load the tiny encoder with its dropout off, so that two passes can be compared."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_encoder), device="cpu").eval()


@pytest.fixture(scope="module")
def tokenize(encoder):
    """Prepare columns of texts as the trainer does."""

    def columns(*texts):
        return [encoder.preprocess(column) for column in texts]

    return columns


def value_and_gradients(loss, encoder, columns, labels):
    encoder.zero_grad()
    # A pass writes its embeddings into the features.
    value = loss(copy.deepcopy(columns), labels)
    value.backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in encoder.named_parameters()
        if parameter.grad is not None
    }
    return float(value.detach()), gradients


def assert_equal(one, other):
    import torch

    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in one[1].values())
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("texts", [(QUESTIONS, DOCUMENTS), (QUESTIONS, DOCUMENTS, NEGATIVES)])
def test_without_known_answers_the_loss_is_that_of_sentence_transformers(encoder, tokenize, texts):
    """Value and gradients are those of MultipleNegativesRankingLoss, hard negatives included."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from job.losses import KnownAnswers, RankingLoss

    columns, labels = tokenize(*texts), torch.arange(7)
    ours = RankingLoss(encoder, KnownAnswers(DISTINCT), SCALE)
    theirs = MultipleNegativesRankingLoss(encoder, scale=SCALE)

    assert_equal(
        value_and_gradients(ours, encoder, columns, labels),
        value_and_gradients(theirs, encoder, columns, labels),
    )


@pytest.mark.parametrize("mini_batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("texts", [(QUESTIONS, DOCUMENTS), (QUESTIONS, DOCUMENTS, NEGATIVES)])
def test_mini_batches_change_neither_the_loss_nor_its_gradients(
    encoder, tokenize, texts, mini_batch_size
):
    """Less memory, the same loss: at all dimensions, with weights and with known answers."""
    import torch

    from job.losses import matryoshka_loss

    # Questions 0 and 3 are one question, documents 1 and 5 are one document.
    pairs = pairs_of([0, 1, 2, 0, 4, 5, 6], [0, 1, 2, 3, 4, 1, 6])
    whole = TrainingSpec(dimension_weights=(1.0, 0.5, 2.0))
    parts = TrainingSpec(dimension_weights=(1.0, 0.5, 2.0), mini_batch_size=mini_batch_size)
    columns, labels = tokenize(*texts), torch.arange(7)

    assert_equal(
        *(
            value_and_gradients(
                matryoshka_loss(encoder, pairs, (64, 32, 16), spec), encoder, columns, labels
            )
            for spec in (whole, parts)
        )
    )


@pytest.mark.parametrize("weights", [None, (1.0, 0.25, 3.0)])
def test_the_loss_sums_over_dimensions_with_their_weights(encoder, tokenize, weights):
    """Each dimension gives the loss of embeddings cut to it; weights stand large to small."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from job.losses import matryoshka_loss

    columns, labels = tokenize(QUESTIONS, DOCUMENTS), torch.arange(7)
    loss = matryoshka_loss(
        encoder, DISTINCT, (64, 32, 16), TrainingSpec(dimension_weights=weights, scale=SCALE)
    )

    def by_hand(features, labels):
        queries, documents = (encoder(column)["sentence_embedding"] for column in features)
        parts = []
        for dimension in (64, 32, 16):
            left, right = (normalize(v[:, :dimension], dim=1) for v in (queries, documents))
            parts.append(cross_entropy(left @ right.T * SCALE, labels))
        return sum(w * part for w, part in zip(weights or (1, 1, 1), parts, strict=True))

    assert_equal(
        value_and_gradients(loss, encoder, columns, labels),
        value_and_gradients(by_hand, encoder, columns, labels),
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_embedding_by_length_gives_what_one_pass_gives(encoder, tokenize, rows, side):
    """Rows come back in their order, whichever side they are padded on."""
    import torch

    from job.losses import embed_by_length

    encoder.tokenizer.padding_side = side
    try:
        features = tokenize(DOCUMENTS)[0]
    finally:
        encoder.tokenizer.padding_side = "right"
    shortest = features["attention_mask"].sum(dim=1).argmin()
    assert features["attention_mask"][shortest, 0 if side == "left" else -1] == 0

    with torch.no_grad():
        whole = encoder(dict(features))["sentence_embedding"]
        by_length = embed_by_length(encoder, features, rows)

    torch.testing.assert_close(by_length, whole, rtol=0, atol=1e-5)


def test_a_chunk_is_padded_no_further_than_its_longest_row(encoder, tokenize):
    """Short rows are not computed at the width of the longest text: that is the gain in speed."""
    from job.losses import embed_by_length

    features = tokenize(DOCUMENTS)[0]
    lengths = features["attention_mask"].sum(dim=1).tolist()
    widths = []

    def watched(chunk):
        widths.append(chunk["input_ids"].shape[1])
        return encoder(chunk)

    embed_by_length(watched, features, 2)

    longest_first = sorted(lengths, reverse=True)
    assert widths == longest_first[::2]
    assert len(set(widths)) > 1


TABLES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=12)


@given(TABLES, st.data())
@settings(deadline=None)
def test_known_answers_are_those_of_any_row_with_the_same_question(table, data):
    """Another row's document is marked where some row says that it answers this row's question."""
    import torch

    from job.losses import KnownAnswers

    questions, documents = zip(*table, strict=True)
    rows = data.draw(st.permutations(range(len(table))))[: data.draw(st.integers(1, len(table)))]

    marked = KnownAnswers(pairs_of(questions, documents)).among(torch.tensor(rows))

    assert marked.tolist() == [
        [i != j and (questions[row], documents[other]) in table for j, other in enumerate(rows)]
        for i, row in enumerate(rows)
    ]


def loss_by_hand(queries, documents, known):
    """Average, over rows, -log of the own document's share among all that are no known answers."""
    n = len(queries)
    total = 0.0
    for i in range(n):
        rivals = [j for j in range(len(documents)) if j >= n or j == i or not known[i][j]]
        scores = {
            j: SCALE
            * float(queries[i] @ documents[j])
            / float(np.linalg.norm(queries[i]) * np.linalg.norm(documents[j]))
            for j in rivals
        }
        total += math.log(sum(math.exp(s) for s in scores.values())) - scores[i]
    return total / n


@given(TABLES, st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_each_row_competes_with_all_documents_but_known_answers(table, columns, seed):
    """The loss is the one worked out row by row, for any table and any number of columns."""
    import torch

    from job.losses import KnownAnswers, in_batch_loss

    random = np.random.default_rng(seed)
    queries = random.normal(size=(len(table), 6))
    documents = random.normal(size=(len(table) * columns, 6))
    known = KnownAnswers(pairs_of(*zip(*table, strict=True))).among(torch.arange(len(table)))

    found = in_batch_loss(torch.tensor(queries), torch.tensor(documents), known, SCALE)

    assert float(found) == pytest.approx(
        loss_by_hand(queries, documents, known.tolist()), rel=1e-4, abs=1e-5
    )


def test_a_known_answer_in_the_batch_costs_its_question_nothing(encoder, tokenize):
    """Two answers to one question do not compete, and no gradient drives them apart."""
    import torch

    from job.losses import KnownAnswers, RankingLoss

    columns = tokenize(QUESTIONS[:1] * 2, DOCUMENTS[:2])
    apart = RankingLoss(encoder, KnownAnswers(pairs_of([0, 1], [0, 1])), SCALE)
    together = RankingLoss(encoder, KnownAnswers(pairs_of([0, 0], [0, 1])), SCALE)

    assert float(apart(copy.deepcopy(columns), torch.arange(2)).detach()) > 0.1
    value, gradients = value_and_gradients(together, encoder, columns, torch.arange(2))
    assert value == 0.0
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients.values())


def test_a_known_answer_does_not_change_the_loss_of_its_question(encoder, tokenize):
    """With or without the second answer in the batch, the first row's loss is the same."""
    import torch

    from job.losses import KnownAnswers, embed_by_length, in_batch_loss

    known = KnownAnswers(pairs_of([0, 1, 2, 0], [0, 1, 2, 3]))
    queries, documents = (
        embed_by_length(encoder, column, 4)
        for column in tokenize([*QUESTIONS[:3], QUESTIONS[0]], DOCUMENTS[:4])
    )

    def first_row(rows):
        # A row whose question has one document only loses nothing, so the mean is row 0's share.
        marks = known.among(torch.tensor(rows))
        marks[1:] = ~torch.eye(len(rows), dtype=torch.bool)[1:]
        with torch.no_grad():
            mean = in_batch_loss(queries[rows], documents[rows], marks, SCALE)
        return float(mean) * len(rows)

    assert first_row([0, 1, 2, 3]) == pytest.approx(first_row([0, 1, 2]), rel=1e-5)


def test_hard_negatives_make_the_task_harder(encoder, tokenize):
    """Every question competes with the negatives of all rows too."""
    import torch

    from job.losses import KnownAnswers, RankingLoss

    loss = RankingLoss(encoder, KnownAnswers(DISTINCT), SCALE)
    columns = tokenize(QUESTIONS, DOCUMENTS, NEGATIVES, list(reversed(NEGATIVES)))
    values = [
        float(loss(copy.deepcopy(columns[:count]), torch.arange(7)).detach()) for count in (2, 3, 4)
    ]

    assert values == sorted(values)
    assert values[1] > values[0] + 0.1
    assert values[2] > values[1] + 0.1
