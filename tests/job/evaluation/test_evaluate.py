"""The scored dimensions, sampled searches, and the encoding of texts."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metering import Meter

from job.core.errors import SpecError
from job.data.dataset import Corpus, Queries, load_dataset
from job.evaluation import evaluate
from job.evaluation.base_vs_tuned import compare_swap
from job.evaluation.evaluate import (
    Dimensions,
    Vectors,
    choose_dimensions,
    embed,
    encode,
    encode_block,
    encode_documents,
    sample_corpus,
    score,
    score_bm25,
    score_vectors,
)
from job.evaluation.hybrid import hybrid_search
from job.evaluation.metrics import METRIC
from job.evaluation.quantization import rank
from job.evaluation.results import ParetoPoint, Retention
from job.evaluation.significance import GroupedQueries
from job.model.device import Machine
from job.model.encoder import load_model
from job.spec.schema import DataSpec, EvaluationSpec, ModelSpec
from job.storage import mapped_arrays

CPU = Machine("cpu", "float32", "")


@pytest.mark.parametrize(
    ("width", "fields", "expected"),
    [
        # By default the width and the default dimensions below it, each once.
        (1024, {}, Dimensions((1024, 512, 256, 128, 64), 128)),
        (512, {}, Dimensions((512, 256, 128, 64), 128)),
        (384, {}, Dimensions((384, 256, 128, 64), 128)),
        (100, {}, Dimensions((100, 64), 100)),
        (48, {}, Dimensions((48,), 48)),
        # Any order is accepted, and all may be below the width.
        (384, {"dimensions": (64, 384, 128)}, Dimensions((384, 128, 64), 128)),
        (768, {"dimensions": (128, 32)}, Dimensions((128, 32), 128)),
        # The main dimension is the largest one up to `main_dimension`, or else the smallest.
        (256, {"main_dimension": 200}, Dimensions((256, 128, 64), 128)),
        (256, {"main_dimension": 4096}, Dimensions((256, 128, 64), 256)),
        (256, {"main_dimension": 32}, Dimensions((256, 128, 64), 64)),
        (768, {"dimensions": (768,)}, Dimensions((768,), 768)),
    ],
)
def test_dimensions_fit_the_models_width(width, fields, expected):
    """They are sorted from large to small; the first is the full dimension."""
    chosen = choose_dimensions(EvaluationSpec(**fields), width)

    assert chosen == expected
    assert chosen.full == expected.all[0]


def test_a_dimension_above_the_width_is_refused():
    """The message names the field, its value and the model's width."""
    spec = EvaluationSpec(dimensions=(128, 1024, 2048))

    with pytest.raises(SpecError, match=r"`evaluation\.dimensions` contains 1024, .* 768 "):
        choose_dimensions(spec, 768)


@pytest.mark.parametrize(
    ("fields", "smallest"),
    [
        ({}, "8 (64 dimensions as binary)"),
        ({"precisions": ["float32"]}, "256 (64 dimensions as float32)"),
        ({"precisions": ["int8", "float32"], "dimensions": [32]}, "32 (32 dimensions as int8)"),
    ],
)
def test_a_budget_that_no_vector_fits_is_refused(fields, smallest):
    """It is refused before anything is encoded; the size of the smallest vectors is accepted."""
    size, _, vectors = smallest.partition(" ")
    size = int(size)

    with pytest.raises(SpecError) as refusal:
        choose_dimensions(EvaluationSpec(max_bytes_per_vector=size - 1, **fields), 768)

    assert f"`evaluation.max_bytes_per_vector` is {size - 1}, " in str(refusal.value)
    assert f" {size} bytes {vectors}. " in str(refusal.value)
    choose_dimensions(EvaluationSpec(max_bytes_per_vector=size, **fields), 768)


@st.composite
def searches(draw):
    """Draw a corpus and queries, each with at least one relevant document."""
    size = draw(st.integers(1, 60))
    relevant = draw(st.lists(st.sets(st.integers(0, size - 1), min_size=1, max_size=5), min_size=1))
    names = sorted(str(number) for number in range(size))
    corpus = Corpus(
        pa.array(names, pa.large_string()),
        pa.array([f"text {name}" for name in names], pa.large_string()),
    )
    numbers = pa.array([f"q{number}" for number in range(len(relevant))], pa.large_string())
    queries = Queries(
        ids=numbers,
        texts=numbers,
        offsets=np.cumsum([0, *map(len, relevant)]),
        documents=np.array([p for ps in relevant for p in sorted(ps)], dtype=np.int64),
        groups=np.arange(len(relevant)) // 2,
    )
    return queries, corpus


def relevant_ids(queries, corpus):
    """List the ids of each query's relevant documents."""
    return [corpus.ids.take(queries.relevant(i)).to_pylist() for i in range(len(queries))]


GRADED = Queries(
    ids=pa.array(["q"], pa.large_string()),
    texts=pa.array(["words of one"], pa.large_string()),
    offsets=np.array([0, 2]),
    documents=np.array([1, 2]),
    groups=np.array([0]),
    grades=np.array([1.0, 3.0]),
)
# Of the query's documents, the one with grade 1 comes first, then that with grade 3.
GRADED_NDCG = (1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))
GRADED_CORPUS = Corpus(
    pa.array(["a", "b", "c"], pa.large_string()),
    pa.array(["none", "words of one", "one other"], pa.large_string()),
)
GRADED_VECTORS = Vectors(
    torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.5], [1.0, 0.0], [1.0, 1.0]])
)


def test_every_ranking_is_scored_by_grades():
    """BM25, vectors at every precision, both fused, and the sample that scores checkpoints."""
    bm25 = score_bm25(GRADED, GRADED_CORPUS)
    by_vector = score_vectors(GRADED_VECTORS, GRADED, [2], ["float32", "int8"])
    by_group = GroupedQueries(GRADED.groups, 10, 0)
    kept = Retention(share=1, ci=(0, 1))
    point = ParetoPoint(
        dimension=2, precision="int8", bytes_per_vector=2, ndcg=GRADED_NDCG, retention=kept
    )
    swap = compare_swap(by_vector, by_vector, bm25, by_group, point)
    fused = hybrid_search(bm25, by_vector, by_vector, GRADED, by_group, swap, 0.01, improved=True)
    sampled = sample_corpus(GRADED, GRADED_CORPUS, 2, 0)
    vectors = Vectors(GRADED_VECTORS.queries, GRADED_VECTORS.corpus[sampled.positions])
    validation = score_vectors(vectors, sampled.queries, [2])
    found = [bm25.mean(METRIC), fused.scores.tuned["2"][METRIC], fused.swap_scores.tuned]
    found += [scores.mean(METRIC) for scores in (*by_vector[2].values(), *validation[2].values())]
    assert found == pytest.approx([GRADED_NDCG] * 7)


@given(searches(), st.integers(1, 80), st.integers(0, 3))
@settings(deadline=None)
def test_a_sampled_corpus_contains_all_relevant_documents(search, limit, seed):
    """Irrelevant documents are dropped until `limit` remain, and positions are renumbered."""
    queries, corpus = search
    relevant = len(set(queries.documents.tolist()))

    sample = sample_corpus(queries, corpus, limit, seed)

    assert relevant_ids(sample.queries, sample.corpus) == relevant_ids(queries, corpus)
    assert len(sample.corpus) == min(len(corpus), max(limit, relevant))
    # Ascending, so the sample is sorted by id too, and ties break as before.
    assert (np.diff(sample.positions) > 0).all()
    assert sample.corpus == corpus.take(sample.positions)
    # In the queries only the documents' positions change.
    for name in ("ids", "texts", "offsets", "groups"):
        assert getattr(sample.queries, name) is getattr(queries, name)


def test_the_seed_decides_which_documents_are_sampled():
    """The same seed samples the same documents, another seed samples others."""
    names = pa.array([f"{number:04}" for number in range(1_000)], pa.large_string())
    queries = Queries(names[:1], names[:1], np.array([0, 1]), np.array([500]), np.array([0]))

    first, again, other = (
        sample_corpus(queries, Corpus(names, names), 100, seed).positions.tolist()
        for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other
    assert 500 in first
    assert 500 in other


# Encoding.


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU)


@pytest.mark.parametrize("length", [8, 33, 64])
def test_any_max_length_may_be_scored(tiny_encoder, length):
    """Vectors do not depend on the batch, even if texts are truncated."""
    model = load_model(ModelSpec(base=str(tiny_encoder), max_length=length), CPU)
    texts = [" ".join(f"tell{number % 24}" for number in range(count)) for count in (3, 30, 100)]

    found = encode_documents(model, Corpus(pa.array(["a", "b", "c"]), pa.array(texts)), 64)

    alone = [model.encoder.encode([text], convert_to_tensor=True) for text in texts]
    expected = torch.nn.functional.normalize(torch.cat(alone), dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mapped_from", [1, 10**9])
def test_texts_are_encoded_a_block_at_a_time(model, monkeypatch, mapped_from):
    """A million texts never are Python strings at once, and their vectors may be on disk."""
    texts = pa.array([f"tell{n % 24} " * (1 + n % 5) for n in range(50)])
    whole, blocks = encode(model, texts, "query", 8), []

    def counted(model, block, *options):
        blocks.append(len(block))
        return encode_block(model, block, *options)

    monkeypatch.setattr(evaluate, "TEXTS_PER_BLOCK", 16)
    monkeypatch.setattr(evaluate, "encode_block", counted)
    monkeypatch.setattr(mapped_arrays, "MAPPED_FROM", mapped_from)
    found = encode(model, texts, "query", 8)

    assert blocks == [16, 16, 16, 2]
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_no_texts_give_an_empty_matrix_of_the_models_width(model):
    assert encode(model, pa.array([], pa.large_string()), "query", 8).shape == (0, 64)


# Dimensions and precisions of one encoding.


@pytest.mark.parametrize(
    ("precisions", "scored"),
    [
        ([], ["float32"]),
        (["int8"], ["float32", "int8", "int8_rescored"]),
        (["binary", "int8"], ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]),
    ],
)
def test_float32_is_always_scored_and_codes_with_and_without_rescoring(precisions, scored):
    """float32 is the reference for the others; the order of `precisions` does not matter."""
    found = rank(torch.randn(5, 16), torch.randn(40, 16), [16, 8], precisions)
    assert {dimension: [*by_name] for dimension, by_name in found.items()} == {
        16: scored,
        8: scored,
    }


def test_all_dimensions_and_precisions_come_from_one_encoding(model, pairs_file):
    """Texts are encoded once; float32 scores equal those without other precisions."""
    dataset = load_dataset(DataSpec(source=str(pairs_file)), {})
    meter = Meter()

    with meter.watching():
        vectors = embed(model, dataset.test, dataset.corpus, 64)
        found = score_vectors(vectors, dataset.test, (64, 32, 16), ["int8", "binary"])

    assert meter.encoded == len(dataset.test) + len(dataset.corpus)
    alone = score(model, dataset.test, dataset.corpus, (64, 32, 16), 64)
    assert {d: by["float32"].means() for d, by in found.items()} == {
        d: scores.means() for d, scores in alone.items()
    }
