"""Which dimensions are scored, which documents a bounded search keeps, how texts are encoded."""

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
from job.evaluation.evaluate import (
    Dimensions,
    choose_dimensions,
    embed,
    encode,
    encode_block,
    encode_documents,
    sample_corpus,
    score,
    score_vectors,
)
from job.evaluation.quantization import rank
from job.model.device import Machine
from job.model.encoder import load_model
from job.spec.schema import DataSpec, EvaluationSpec, ModelSpec
from job.storage import mapped_arrays

CPU = Machine("cpu", "float32", "")


@pytest.mark.parametrize(
    ("width", "wanted", "expected"),
    [
        # By default the width and the usual ones below it, each once.
        (1024, {}, Dimensions((1024, 512, 256, 128, 64), 128)),
        (512, {}, Dimensions((512, 256, 128, 64), 128)),
        (384, {}, Dimensions((384, 256, 128, 64), 128)),
        (100, {}, Dimensions((100, 64), 100)),
        (48, {}, Dimensions((48,), 48)),
        # The order in which they were typed does not matter; all may lie below the width.
        (384, {"dimensions": (64, 384, 128)}, Dimensions((384, 128, 64), 128)),
        (768, {"dimensions": (128, 32)}, Dimensions((128, 32), 128)),
        # The main one is the nearest one below what was wanted, or else the smallest.
        (256, {"main_dimension": 200}, Dimensions((256, 128, 64), 128)),
        (256, {"main_dimension": 4096}, Dimensions((256, 128, 64), 256)),
        (256, {"main_dimension": 32}, Dimensions((256, 128, 64), 64)),
        (768, {"dimensions": (768,)}, Dimensions((768,), 768)),
    ],
)
def test_dimensions_fit_the_models_width(width, wanted, expected):
    """Large to small; the first is the full one."""
    chosen = choose_dimensions(EvaluationSpec(**wanted), width)

    assert chosen == expected
    assert chosen.full == expected.all[0]


def test_a_dimension_above_the_width_is_refused():
    """The message names the field, what it holds and what the model has."""
    spec = EvaluationSpec(dimensions=(128, 1024, 2048))

    with pytest.raises(SpecError, match=r"`evaluation\.dimensions` has 1024; .* 768"):
        choose_dimensions(spec, 768)


@pytest.mark.parametrize(
    ("wanted", "smallest"),
    [
        ({}, "8 (64 dimensions as binary)"),
        ({"precisions": ["float32"]}, "256 (64 dimensions as float32)"),
        ({"precisions": ["int8", "float32"], "dimensions": [32]}, "32 (32 dimensions as int8)"),
    ],
)
def test_a_budget_that_no_vector_fits_is_refused(wanted, smallest):
    """Before anything is encoded; the smallest vectors themselves fit their own size."""
    size = int(smallest.split()[0])

    with pytest.raises(SpecError) as refusal:
        choose_dimensions(EvaluationSpec(max_bytes_per_vector=size - 1, **wanted), 768)

    assert f"`evaluation.max_bytes_per_vector` is {size - 1}; " in str(refusal.value)
    assert f" {smallest}. " in str(refusal.value)
    choose_dimensions(EvaluationSpec(max_bytes_per_vector=size, **wanted), 768)


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


def answers(queries, corpus):
    """List the ids of each query's relevant documents."""
    return [corpus.ids.take(queries.relevant(i)).to_pylist() for i in range(len(queries))]


@given(searches(), st.integers(1, 80), st.integers(0, 3))
@settings(deadline=None)
def test_a_bounded_search_keeps_every_answer(search, limit, seed):
    """Documents are left out until `limit` remain, but no relevant one, and positions follow."""
    queries, corpus = search
    answered = len(set(queries.documents.tolist()))

    bounded = sample_corpus(queries, corpus, limit, seed)

    assert answers(bounded.queries, bounded.corpus) == answers(queries, corpus)
    assert len(bounded.corpus) == min(len(corpus), max(limit, answered))
    # Ascending, so the smaller corpus is sorted by id as well and ties break as before.
    assert (np.diff(bounded.positions) > 0).all()
    assert bounded.corpus == corpus.take(bounded.positions)
    # Of the queries only the positions of documents change.
    for name in ("ids", "texts", "offsets", "groups"):
        assert getattr(bounded.queries, name) is getattr(queries, name)


def test_the_seed_decides_which_documents_are_drawn():
    """The same seed draws the same documents, another one others."""
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


# How texts are encoded.


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU)


@pytest.mark.parametrize("length", [8, 33, 64])
def test_texts_may_be_cut_at_any_length(tiny_encoder, length):
    """A `model.max_length` of any size is scored like any other, also where texts are cut."""
    model = load_model(ModelSpec(base=str(tiny_encoder), max_length=length), CPU)
    texts = [" ".join(f"tell{number % 24}" for number in range(count)) for count in (3, 30, 100)]

    found = encode_documents(model, Corpus(pa.array(["a", "b", "c"]), pa.array(texts)), 64)

    expected = torch.cat([model.encoder.encode([text], convert_to_tensor=True) for text in texts])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mapped_from", [1, 10**9])
def test_texts_are_encoded_a_block_at_a_time(model, monkeypatch, mapped_from):
    """A million texts are never Python objects at once, nor need their vectors lie in memory."""
    texts = pa.array([f"tell{n % 24} " * (1 + n % 5) for n in range(50)])
    whole, blocks = encode(model, texts, "ask1 ", 8), []

    def counted(model, block, *options):
        blocks.append(len(block))
        return encode_block(model, block, *options)

    monkeypatch.setattr(evaluate, "TEXTS_PER_BLOCK", 16)
    monkeypatch.setattr(evaluate, "encode_block", counted)
    monkeypatch.setattr(mapped_arrays, "MAPPED_FROM", mapped_from)
    found = encode(model, texts, "ask1 ", 8)

    assert blocks == [16, 16, 16, 2]
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_no_texts_make_no_vectors(model):
    """And still as wide as the others."""
    assert encode(model, pa.array([], pa.large_string()), "", 8).shape == (0, 64)


# Dimensions and precisions of one encoding.


@pytest.mark.parametrize(
    ("wanted", "scored"),
    [
        ([], ["float32"]),
        (["int8"], ["float32", "int8", "int8_rescored"]),
        (["binary", "int8"], ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]),
    ],
)
def test_float32_is_always_scored_and_the_others_in_both_ways(wanted, scored):
    """It is what the others are held against; the order in which they were typed is no matter."""
    found = rank(torch.randn(5, 16), torch.randn(40, 16), [16, 8], wanted)
    assert {dimension: [*by_name] for dimension, by_name in found.items()} == {
        16: scored,
        8: scored,
    }


def test_all_dimensions_and_precisions_come_from_one_encoding(model, pairs_file):
    """Vectors are encoded once, whatever is made of them; float32 is scored as it is alone."""
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
