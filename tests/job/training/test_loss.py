"""The loss equals sentence-transformers', except that known answers are not negatives."""

import copy
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn.functional import cross_entropy, normalize
from worker_processes import together

from job.data.dataset import TrainingPairs
from job.model.device import Machine
from job.model.encoder import Model, Prompts
from job.model.features import Passes
from job.model.packing import allow_packing
from job.model.passes import PassCost
from job.spec.schema import ResolvedTraining
from job.training.batching import Shards
from job.training.loss import (
    KnownAnswers,
    RankingLoss,
    in_batch_losses,
    matryoshka_loss,
)

CPU = Machine("cpu", "float32", "as the spec says")
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


def on(encoder, machine=CPU):
    """Make a model of an encoder."""
    return Model(encoder, machine, 64, Prompts())


def pairs_of(questions, documents, negatives=None):
    """Make training pairs with these numbers of questions and documents; texts do not matter.

    Negatives are numbers of documents too.
    """
    rows = range(len(questions))
    columns = {"id": pa.array([str(row) for row in rows])}
    columns["anchor"] = pa.array([f"question {number}" for number in questions])
    columns["positive"] = pa.array([f"document {number}" for number in documents])
    texts = [[f"document {number}" for number in row] for row in negatives or [[] for _ in rows]]
    columns["negatives"] = pa.array(texts, pa.list_(pa.string()))
    return TrainingPairs(
        pa.table(columns), np.array(questions), np.array(documents), np.array(rows)
    )


def distinct(count, negatives=0):
    """Make pairs that share no text, with negatives that answer no question."""
    others = [[100 + count * n + row for n in range(negatives)] for row in range(count)]
    return pairs_of(range(count), range(count), others)


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    """Load the tiny encoder without dropout, so that two forward passes are equal."""
    return SentenceTransformer(str(tiny_encoder), device="cpu").eval()


@pytest.fixture(scope="module")
def tokenize(encoder):
    """Tokenize columns of texts like the trainer."""

    def columns(*texts):
        return [encoder.preprocess(column) for column in texts]

    return columns


def resolved(**fields):
    """Make a training section without any `auto`."""
    given = {"epochs": 1, "batch_size": 7, "mini_batch_size": None, "learning_rate": 1e-4}
    return ResolvedTraining(**given | fields)


def value_and_gradients(loss, encoder, columns, labels):
    encoder.zero_grad()
    # A forward pass writes its embeddings into the features.
    value = loss(copy.deepcopy(columns), labels)
    value.backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in encoder.named_parameters()
        if parameter.grad is not None
    }
    return float(value.detach()), gradients


def assert_equal(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in one[1].values())
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("texts", [(QUESTIONS, DOCUMENTS), (QUESTIONS, DOCUMENTS, NEGATIVES)])
def test_without_known_answers_the_loss_equals_sentence_transformers(encoder, tokenize, texts):
    """Value and gradients equal MultipleNegativesRankingLoss, hard negatives included."""
    columns, labels = tokenize(*texts), torch.arange(7)
    ours = RankingLoss(on(encoder), KnownAnswers(distinct(7, len(texts) - 2)), SCALE, {64: 1.0})
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
    """At all dimensions, with dimension weights and with known answers."""
    # Questions 0 and 3 are equal, documents 1 and 5 are equal.
    negatives = [[number] for number in (10, 0, 11, 1, 12, 13, 3)] if len(texts) > 2 else None
    pairs = pairs_of([0, 1, 2, 0, 4, 5, 6], [0, 1, 2, 3, 4, 1, 6], negatives)
    whole = resolved(dimension_weights=(1.0, 0.5, 2.0))
    parts = resolved(dimension_weights=(1.0, 0.5, 2.0), mini_batch_size=mini_batch_size)
    model = on(encoder)
    columns, labels = tokenize(*texts), torch.arange(7)

    assert_equal(
        *(
            value_and_gradients(
                matryoshka_loss(model, pairs, (64, 32, 16), spec), encoder, columns, labels
            )
            for spec in (whole, parts)
        )
    )


@pytest.mark.parametrize("weights", [None, (1.0, 0.25, 3.0)])
def test_the_loss_sums_over_dimensions_with_their_weights(encoder, tokenize, weights):
    """Each dimension adds the loss of truncated embeddings; weights go from large to small."""
    columns, labels = tokenize(QUESTIONS, DOCUMENTS), torch.arange(7)
    model = on(encoder)
    spec = resolved(dimension_weights=weights, scale=SCALE)
    loss = matryoshka_loss(model, distinct(7), (64, 32, 16), spec)

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


COSTS = [None, PassCost(1, 1), PassCost(64, 16, 128), PassCost(10_000, 8)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_rows", [None, 3])
@pytest.mark.parametrize("cost", COSTS)
def test_passes_of_similar_lengths_give_the_vectors_of_one_pass_per_column(
    encoder, tokenize, cost, max_rows, side
):
    """Rows and columns keep their order, for either padding side and any cost."""
    encoder.tokenizer.padding_side = side
    try:
        columns = tokenize(QUESTIONS, DOCUMENTS * 4)
    finally:
        encoder.tokenizer.padding_side = "right"
    shortest = columns[0]["attention_mask"].sum(dim=1).argmin()
    assert columns[0]["attention_mask"][shortest, 0 if side == "left" else -1] == 0

    with torch.no_grad():
        whole = [encoder(dict(features))["sentence_embedding"] for features in columns]
        passes = Passes(columns, encoder, cost, max_rows)
        found = passes.columns([encoder(each)["sentence_embedding"] for each in passes.features])

    # Without a limit, texts that keep their padding on the left are one pass for each column.
    is_divided = max_rows or (cost and (cost.max_tokens or (side == "right" and cost.overhead < 9)))
    assert (len(passes.features) > 2) == bool(is_divided)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.fixture
def shapes(encoder):
    """Collect the rows and the width of each forward pass of the encoder."""
    seen = []
    hook = encoder.register_forward_pre_hook(
        lambda _, given: seen.append(tuple(given[0]["input_ids"].shape))
    )
    yield seen
    hook.remove()


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_the_device_changes_the_forward_passes_but_not_the_loss(encoder, tokenize, shapes, device):
    """Loss and gradients are equal."""
    columns, labels = tokenize(QUESTIONS * 60, DOCUMENTS * 60), torch.arange(7).repeat(60)
    answers = KnownAnswers(distinct(7))
    there = on(encoder, Machine(device, "float32", ""))
    found = value_and_gradients(
        RankingLoss(there, answers, SCALE, {64: 1.0}), encoder, columns, labels
    )
    passes = len(shapes)
    expected = value_and_gradients(
        RankingLoss(on(encoder), answers, SCALE, {64: 1.0}), encoder, columns, labels
    )

    assert passes == {"cpu": 3, "cuda": 2, "mps": 2}[device]
    assert_equal(found, expected)


@pytest.mark.parametrize("rows", [None, 3])
def test_packed_batches_have_the_loss_and_gradients_of_padded_ones(encoder, tokenize, shapes, rows):
    """Questions and documents are one pass, or passes whose gradients are cached."""
    columns, labels = tokenize(QUESTIONS, DOCUMENTS, NEGATIVES), torch.arange(7)
    spec, pairs = resolved(mini_batch_size=rows, scale=SCALE), distinct(7, negatives=1)
    assert allow_packing(encoder)
    padded, packed = (
        value_and_gradients(matryoshka_loss(model, pairs, (64, 32), spec), encoder, columns, labels)
        for model in (on(encoder), replace(on(encoder), packs=True))
    )
    assert (shapes[-1][0] == 3 * 7) == (rows is None)
    assert_equal(packed, padded)


TABLES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=12)


@given(TABLES, st.integers(0, 2), st.data())
@settings(deadline=None)
def test_known_answers_are_those_of_any_row_with_the_same_question(table, negatives, data):
    """A document is marked if any row pairs it with this row's question.

    This includes negatives: a negative of one question may be the positive of another.
    """
    questions, documents = zip(*table, strict=True)
    wrong = st.lists(st.integers(0, 7), min_size=negatives, max_size=negatives)
    others = [data.draw(wrong) for _ in table]
    rows = data.draw(st.permutations(range(len(table))))[: data.draw(st.integers(1, len(table)))]

    marked = KnownAnswers(pairs_of(questions, documents, others)).mask(torch.tensor(rows))

    assert marked.tolist() == [
        [i != j and (questions[row], documents[other]) in table for j, other in enumerate(rows)]
        + [(questions[row], others[other][n]) in table for n in range(negatives) for other in rows]
        for i, row in enumerate(rows)
    ]


def loss_by_hand(queries, documents, known):
    """Average each row's cross-entropy over the documents that are not other known answers."""
    n = len(queries)
    total = 0.0
    for i in range(n):
        candidates = [j for j in range(len(documents)) if not known[i][j]]
        scores = {
            j: SCALE
            * float(queries[i] @ documents[j])
            / float(np.linalg.norm(queries[i]) * np.linalg.norm(documents[j]))
            for j in candidates
        }
        total += math.log(sum(math.exp(s) for s in scores.values())) - scores[i]
    return total / n


@given(TABLES, st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_loss_equals_the_one_computed_row_by_row(table, columns, seed):
    """All documents except other known answers are negatives, for any table and columns."""
    random = np.random.default_rng(seed)
    queries = random.normal(size=(len(table), 6))
    documents = random.normal(size=(len(table) * columns, 6))
    negatives = random.integers(8, size=(len(table), columns - 1)).tolist()
    pairs = pairs_of(*zip(*table, strict=True), negatives)
    known = KnownAnswers(pairs).mask(torch.arange(len(table)))

    targets = torch.arange(len(table))
    losses = in_batch_losses(torch.tensor(queries), torch.tensor(documents), known, targets, SCALE)

    assert float(losses.mean()) == pytest.approx(
        loss_by_hand(queries, documents, known.tolist()), rel=1e-4, abs=1e-5
    )


# With several processes


# Batches of 8, 7, 3 and 1 rows for up to three processes, so some shards are uneven or repeated.
BATCHES = [[0, 1, 2, 3, 4, 5, 6, 7], [6, 5, 4, 3, 2, 8, 7], [7, 3, 0], [4]]
# Rows 0, 3 and 7 have the same question, as have 1 and 5; some negatives answer other questions.
ASKED, TOLD = [0, 1, 2, 0, 3, 1, 4, 0, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8]
WRONG = [[2], [0], [4], [5], [1], [3], [2], [9], [0]]
TEXTS = [f"ask{number} the tell{23 - number} a ask{(number * 7) % 24}" for number in range(10)]


def losses_and_gradients(rank, folder, asked, mini_batch_size, sharded):
    """Return the loss and the gradients of this rank's shard of each batch."""
    encoder = SentenceTransformer(folder, device="cpu").eval()
    spec = resolved(mini_batch_size=mini_batch_size, dimension_weights=(1.0, 0.5))
    loss = matryoshka_loss(on(encoder), pairs_of(asked, TOLD, WRONG), (64, 16), spec)
    found = []
    for shards in sharded:
        rows = shards[rank]
        numbers = ([ASKED[row] for row in rows], rows, [WRONG[row][0] for row in rows])
        columns = [
            encoder.preprocess([texts[number] for number in column])
            for texts, column in zip((QUESTIONS, TEXTS, TEXTS), numbers, strict=True)
        ]
        value, gradients = value_and_gradients(loss, encoder, columns, torch.tensor(rows))
        found.append((value, {name: gradient.numpy() for name, gradient in gradients.items()}))
    return found


def averaged(folder, processes, asked=ASKED, mini_batch_size=None):
    """Compute each batch's loss and gradients, averaged over ranks like in the trainer."""
    sharded = [list(Shards([batch], processes)) for batch in BATCHES]
    given = (str(folder), asked, mini_batch_size, sharded)
    by_rank = together(processes, losses_and_gradients, *given)
    return [
        (
            np.mean([value for value, _ in batch]),
            {name: np.mean([local[name] for _, local in batch], axis=0) for name in batch[0][1]},
        )
        for batch in zip(*by_rank, strict=True)
    ]


@pytest.fixture(scope="module")
def alone(tiny_encoder):
    """Compute loss and gradients of each batch in one process."""
    return averaged(tiny_encoder, 1)


@pytest.mark.parametrize(("processes", "mini_batch_size"), [(2, None), (3, 2)])
def test_several_processes_have_the_loss_and_gradients_of_one(
    tiny_encoder, alone, processes, mini_batch_size
):
    """Known answers of all ranks are not negatives, and repeated rows count once.

    Small differences come from the order of float32 sums.
    """
    shared = averaged(tiny_encoder, processes, mini_batch_size=mini_batch_size)

    assert [value for value, _ in shared] == pytest.approx([value for value, _ in alone], rel=3e-6)
    for (_, expected), (_, found) in zip(alone, shared, strict=True):
        assert found.keys() == expected.keys()
        largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
        for name, gradient in expected.items():
            np.testing.assert_allclose(found[name], gradient, rtol=0, atol=5e-6 * largest)


def test_without_known_answers_the_loss_would_be_higher(tiny_encoder, alone):
    """So the batches above contain known answers, and the test above covers them."""
    unknown = averaged(tiny_encoder, 1, [*range(9)])

    for (value, _), (other, _) in list(zip(alone, unknown, strict=True))[:3]:
        assert value < other - 0.1
