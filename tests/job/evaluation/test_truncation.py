"""Truncated texts are counted with the model's tokenizer and prompts."""

import pyarrow as pa
import pytest

from job.data.dataset import Corpus, Queries
from job.evaluation.truncation import count_truncated
from job.model import lengths
from job.model.device import Machine
from job.model.encoder import Prompts, load_model
from job.spec.schema import ModelSpec


@pytest.fixture(scope="module")
def model(tiny_encoder):
    spec = ModelSpec(base=str(tiny_encoder), max_length=16)
    return load_model(spec, Machine("cpu", "float32", "")).with_prompts(Prompts("", "tell0 tell1 "))


def texts(*lengths):
    return pa.array([" ".join(["ask1"] * n) for n in lengths], pa.large_string())


def search(*lengths):
    queries, documents = texts(3, 15), texts(*lengths)
    return Queries(queries, queries, None, None, None), Corpus(documents, documents)


def test_tokens_are_counted_with_prompt_and_special_tokens(model):
    """With two special tokens and two prompt words, 12 words fit into 16 tokens, 13 do not."""
    assert count_truncated(model, *search(12, 13, 40)).model_dump() == {
        "max_tokens": 16,
        "queries": {"texts": 2, "cut": 1, "longest": 17},
        "documents": {"texts": 3, "cut": 2, "longest": 44},
    }


def test_a_large_corpus_is_sampled(model, monkeypatch):
    """The sample is spread evenly from the first to the last text."""
    monkeypatch.setattr(lengths, "MAX_TEXTS", 3)
    found = count_truncated(model, *search(1, 40, 2, 40, 30)).documents
    assert found.model_dump() == {"texts": 3, "cut": 1, "longest": 34}
