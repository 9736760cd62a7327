"""Texts are embedded in passes of similar length, with the tokens that fit in memory."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import CONCEPTS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from job.evaluation.evaluate import encode_block
from job.model import encode
from job.model.device import PASS_COSTS, Machine
from job.model.encode import embed_texts, encoding_cost
from job.model.encoder import Model, Prompts, load_model, size_of
from job.model.passes import ONE_PASS, PassCost
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "")
GIB = 2**30


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU)


@pytest.fixture
def passes(model):
    """Record rows and width of each pass."""
    found = []
    hook = model.encoder[0].register_forward_pre_hook(
        lambda _, given: found.append(tuple(given[0]["attention_mask"].shape))
    )
    yield found
    hook.remove()


def texts_of(lengths):
    """Return texts of this many words, in random order."""
    order = np.random.default_rng(0).permutation(np.repeat(*zip(*lengths.items(), strict=True)))
    return [" ".join(f"tell{(n + i) % CONCEPTS}" for i in range(n)) for n in order]


def test_a_text_shares_its_pass_with_texts_of_its_length(model, passes):
    """Few passes, little padding; the vectors are the library's, in the order of the texts."""
    texts = texts_of({5: 90, 6: 60, 30: 40, 60: 10})

    found = embed_texts(model, texts, "document", 1_024, PassCost(100, 8))

    assert passes == [(10, 62), (40, 32), (150, 8)]
    expected = model.encoder.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_texts_may_be_embedded_in_one_pass(model, passes):
    embed_texts(model, texts_of({5: 3, 60: 2}), "document", 1_024, ONE_PASS)
    assert passes == [(5, 62)]


def test_a_pass_has_at_most_the_texts_that_the_spec_allows(model, passes):
    embed_texts(model, texts_of({5: 20}), "document", 8)
    assert passes == [(8, 7), (8, 7), (4, 7)]


def test_blocks_of_texts_change_no_vector(model, monkeypatch):
    """They are tokenized apart."""
    texts = texts_of({5: 9, 30: 8, 60: 3})
    whole = embed_texts(model, texts, "document", 64)
    monkeypatch.setattr(encode, "TEXTS_PER_BLOCK", 6)
    found = embed_texts(model, texts, "document", 64)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_one_long_text_does_not_pad_thousands(model, monkeypatch):
    """The tokens of a block are stored with padding up to its longest text."""
    stored, preprocess = [], model.encoder.preprocess

    def record(texts, **options):
        features = preprocess(texts, **options)
        stored.append(tuple(features["input_ids"].shape))
        return features

    monkeypatch.setattr(model.encoder, "preprocess", record)
    monkeypatch.setattr(encode, "TOKENS_PER_BLOCK", 600)
    texts = texts_of({1: 150, 60: 1})
    whole = model.encoder.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
    stored.clear()

    found = embed_texts(model, texts, "document", 1_024)

    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)
    assert max(rows * width for rows, width in stored) <= 600
    assert len(stored) == 3


def test_padding_on_the_left_is_as_short_as_in_small_batches(model, passes, monkeypatch):
    """It is not cut off, so only as many texts are tokenized at once as the library takes."""
    texts = texts_of({5: 60, 60: 4, 30: 64})
    monkeypatch.setattr(model.encoder.tokenizer, "padding_side", "left")

    embed_texts(model, texts, "document", 1_024)

    assert passes == [(64, 62), (64, 32)]
    passes.clear()
    embed_texts(model, texts_of({5: 2, 60: 1}), "document", 1)
    assert passes == [(1, 62), (1, 7), (1, 7)]


def test_static_embeddings_are_embedded_in_batches_of_the_spec():
    """Their texts are one list of tokens, without a mask to divide by."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "tell1": 1}, unk_token="[UNK]"))
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    model = Model(SentenceTransformer(modules=[static], device="cpu"), CPU, 8, Prompts())
    rows = []
    static.register_forward_pre_hook(lambda _, given: rows.append(len(given[0]["offsets"])))

    assert embed_texts(model, ["tell1 other"] * 10, "document", 4).shape == (10, 8)
    assert rows == [4, 4, 2]


@dataclass(frozen=True)
class Gpu(Machine):
    """A GPU with this much free memory, as far as the host knows."""

    free: int = 0

    def free_memory(self):
        return self.free


def cost_on(model, free):
    return encoding_cost(replace(model, machine=Gpu("cuda", "bfloat16", "", free)), "document")


def test_a_gpu_embeds_as_many_tokens_at_once_as_its_free_memory_holds(model):
    """At most as many as keep it busy, and at least those of one text."""
    assert cost_on(model, 20 * GIB) == replace(PASS_COSTS["cuda"], max_tokens=65_536)
    assert cost_on(model, 0).max_tokens == 64
    # 100 texts of 64 tokens, besides a tenth of the memory and 1 GiB.
    text = size_of(model).layer_bytes(64, precision="bfloat16", stores_scores=False)
    assert cost_on(model, int((100.5 * text + GIB) / 0.9)).max_tokens == 100 * 64


def test_other_devices_embed_the_tokens_that_were_measured(model):
    for device, known in (("cpu", "cpu float32"), ("mps", "cpu")):
        other = replace(model, machine=Machine(device, "float32", ""))
        padded = replace(other, packs=False)
        assert encoding_cost(other, "query") == (
            other.machine.packed_cost or encoding_cost(padded, "query")
        )
        assert encoding_cost(padded, "query") == replace(PASS_COSTS[known], max_tokens=8_192)


def test_if_memory_runs_out_passes_have_half_the_tokens(model, passes, monkeypatch):
    """Long texts are the ones that do not fit, and fewer rows would not change their passes."""
    monkeypatch.setitem(PASS_COSTS, "cpu float32", PassCost(100, 8, 2_048))
    forward = model.encoder.forward

    def limited(features, **options):
        if features["attention_mask"].numel() > 600:
            raise MemoryError
        return forward(features, **options)

    monkeypatch.setattr(model.encoder, "forward", limited)
    encode_block(model, texts_of({60: 64}), "document", 1_024)
    assert passes == [(8, 62)] * 8
