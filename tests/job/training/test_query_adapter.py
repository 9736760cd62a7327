"""The adapter of query vectors learns a linear map from the training pairs alone."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import normalize

from job.data.dataset import Corpus, Dataset, Queries, TrainingPairs
from job.evaluation.evaluate import Vectors, sample_corpus, score_vectors
from job.evaluation.metrics import METRIC
from job.evaluation.significance import GroupedQueries
from job.model.device import Machine
from job.model.encoder import load_model
from job.spec.parse import build_spec
from job.training.query_adapter import (
    BaseVectors,
    embed_with_base,
    measure_kept_index,
    train_adapter,
)

WIDTH, DOCUMENTS, PAIRS, HELD_OUT = 16, 400, 300, 50
SPEC = build_spec({}, {"data.source": "pairs.jsonl", "evaluation.permutations": "1000"})


def queries_of(documents):
    count = len(documents)
    names = pa.array([f"q{number}" for number in range(count)])
    return Queries(names, names, np.arange(count + 1), documents, np.arange(count))


@pytest.fixture(scope="module")
def data():
    """Documents of random vectors; each fourth answers a held-out question, others are trained."""
    random = np.random.default_rng(5)
    order = random.permutation(DOCUMENTS)
    train, validation, test = np.split(order, [PAIRS, PAIRS + HELD_OUT])
    pairs = TrainingPairs(pa.table({"anchor": ["?"] * PAIRS}), np.arange(PAIRS), train, train)
    ids = pa.array([f"d{number:03}" for number in range(DOCUMENTS)])
    corpus = Corpus(ids, ids)
    return Dataset(
        corpus, pairs, queries_of(validation), queries_of(test), None, None, None, None, {}
    )


def vectors_of(data, turned):
    """Make queries near their documents: turned by a rotation, or with noise only."""
    random = torch.Generator().manual_seed(5)
    corpus = normalize(torch.randn(DOCUMENTS, WIDTH, generator=random), dim=1)
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q
    # Halfway between the identity and a rotation.
    matrix = torch.eye(WIDTH) + rotation if turned else torch.eye(WIDTH)

    def queries(documents):
        noise = torch.randn(len(documents), WIDTH, generator=random)
        return corpus[torch.from_numpy(documents)] @ matrix + 0.3 * normalize(noise, dim=1)

    splits = data.train.documents, data.validation.documents, data.test.documents
    return BaseVectors(*map(queries, splits), corpus)


def searched(data):
    return sample_corpus(data.validation, data.corpus, DOCUMENTS, 0)


def scores_of(queries, vectors, data):
    return score_vectors(Vectors(queries, vectors.corpus), data.test, [WIDTH])[WIDTH]["float32"]


def test_an_adapter_undoes_a_linear_change_of_the_queries(data):
    vectors = vectors_of(data, turned=True)
    adapter = train_adapter(vectors, data, searched(data), SPEC)
    before, after = adapter.validation
    assert adapter.passes > 0
    assert after > before + 0.1
    found = [scores_of(q, vectors, data) for q in (vectors.test, adapter.apply(vectors.test))]
    assert found[1].mean(METRIC) > found[0].mean(METRIC) + 0.1


def test_an_adapter_that_does_not_improve_validation_changes_nothing(data):
    """Here the answers of training are random documents."""
    vectors = vectors_of(data, turned=False)
    random = np.random.default_rng(0).integers(0, DOCUMENTS, PAIRS)
    wrong = replace(data, train=replace(data.train, documents=random))
    adapter = train_adapter(vectors, wrong, searched(data), SPEC)
    assert adapter.passes == 0
    assert torch.equal(adapter.matrix, torch.eye(WIDTH))
    assert adapter.validation[0] == adapter.validation[1]


def test_the_test_set_has_no_part_in_training(data):
    vectors = vectors_of(data, turned=True)
    other = replace(data, test=queries_of(data.train.documents[:50]))
    first = train_adapter(vectors, data, searched(data), SPEC)
    second = train_adapter(replace(vectors, test=-vectors.test), other, searched(data), SPEC)
    assert torch.equal(first.matrix, second.matrix)


def test_another_row_of_the_same_document_or_question_is_no_negative(data):
    """If all rows share one question, no negative is left, and nothing is learned."""
    vectors = vectors_of(data, turned=True)
    for same in ("questions", "documents"):
        pairs = replace(data.train, **{same: np.zeros(PAIRS, dtype=np.int64)})
        adapter = train_adapter(vectors, replace(data, train=pairs), searched(data), SPEC)
        assert torch.allclose(adapter.matrix, torch.eye(WIDTH), atol=1e-3)


def test_vectors_that_an_earlier_start_did_not_save_are_encoded_again(data, tiny_encoder):
    model = load_model(
        build_spec({}, {"model.base": str(tiny_encoder)}).model, Machine("cpu", "float32", "")
    )
    texts = pa.array([f"tell{n} ask{n}" for n in range(4)])
    few = replace(
        data,
        corpus=Corpus(texts, texts),
        train=replace(data.train, table=pa.table({"anchor": pa.chunked_array([texts])})),
        validation=replace(data.validation, texts=texts),
        test=replace(data.test, texts=texts),
    )
    again = embed_with_base(model, few, Mock(vectors=None), 8)
    saved = Vectors(torch.ones(4, 64), torch.ones(4, 64))
    kept = embed_with_base(model, few, Mock(vectors=saved), 8)
    for name in ("train", "validation", "test", "corpus"):
        assert torch.allclose(getattr(again, name), again.train, atol=1e-6)
    assert torch.equal(kept.test, saved.queries)
    assert torch.equal(kept.corpus, saved.corpus)
    assert torch.equal(kept.train, again.train)


def test_shares_are_of_the_gain_with_documents_encoded_again(data):
    """The tuned model is perfect; its queries find nothing among vectors of the base model."""
    vectors = vectors_of(data, turned=True)
    corpus, documents = vectors.corpus, torch.from_numpy(data.test.documents)
    base = scores_of(vectors.test, vectors, data)
    tuned = scores_of(corpus[documents], vectors, data)
    by_group = GroupedQueries(data.test.groups, 1000, 0)
    gain = by_group.lift(tuned.metrics[METRIC] - base.metrics[METRIC])
    found, adapter = measure_kept_index(
        vectors, -corpus[documents], (base, tuned), data, searched(data), SPEC, gain
    )
    assert (found.base, found.tuned) == (base.mean(METRIC), 1.0)
    kept = found.rows["adapter"]
    alone = scores_of(adapter.apply(vectors.test), vectors, data).mean(METRIC)
    assert kept.ndcg == pytest.approx(alone)
    assert kept.kept == pytest.approx((alone - found.base) / (1 - found.base))
    assert kept.kept_ci[0] < kept.kept < kept.kept_ci[1]
    opposite = found.rows["tuned_queries"]
    assert opposite.against_base.is_loss
    assert opposite.kept < 0
    assert "The tuned model's queries score 0.000 there: worse (" in found.sentence
