"""Texts without padding have the vectors and gradients of padded ones, where a model allows it."""

from dataclasses import replace

import pytest
import torch
from tiny_models import build_model

from job.model.device import Machine
from job.model.encode import embed_texts
from job.model.encoder import load_model, set_dropout
from job.model.features import Passes
from job.model.passes import ONE_PASS
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "")
LENGTHS = (3, 9, 1, 9, 20, 3, 40, 3)
# Whose attention is plain, in whatever way they count positions.
PACKED = (
    *("bert", "roberta", "xlm-r", "camembert", "distilbert", "albert", "electra", "nomic-bert"),
    *("cls pooling", "max pooling", "cls and mean with LayerNorm", "dense layer"),
    *("float16 weights", "sharded weights", "prompts", "plain encoder"),
)
# Local attention, causal attention, biases by distance, no transformer.
PADDED = (
    *("mpnet", "deberta-v2", "modernbert", "t5", "qwen3", "mean pooling of a decoder", "gpt2"),
    *("static embeddings", "router", "router with static queries"),
)
TEXTS = [" ".join(f"tell{(n + i) % 20}" for i in range(n)) for n in LENGTHS]


def load(name, folder):
    model = load_model(ModelSpec(base=str(build_model(name, folder / "model"))), CPU)
    model.encoder.eval()
    return model


def vectors_of(model, cost, texts=TEXTS):
    features = model.encoder.preprocess(texts, prompt="ask1 is ", task="document")
    passes = Passes([features], model.encoder, cost)
    vectors = [model.encoder(dict(each))["sentence_embedding"] for each in passes.features]
    return passes.columns(vectors)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
def test_packed_texts_have_the_vectors_and_gradients_of_padded_ones(name, tmp_path):
    """Whatever the pooling, and behind a prompt that it leaves out."""
    model = load(name, tmp_path)
    assert model.pass_cost.packed
    for module in model.encoder.modules():
        if hasattr(module, "include_prompt"):
            module.include_prompt = False
    found = []
    for cost in (ONE_PASS, replace(model.pass_cost, max_tokens=100)):
        model.encoder.zero_grad()
        vectors = vectors_of(model, cost)
        vectors.square()[:, ::2].sum().backward()
        weights = [w.grad for w in model.encoder.parameters() if w.grad is not None]
        found.append([vectors.detach(), *weights])
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PADDED)
def test_other_models_keep_their_padding(name, tmp_path):
    model = load(name, tmp_path)
    assert not model.packs
    assert model.pass_cost == CPU.pass_cost
    assert len(embed_texts(model, TEXTS, "document", 64)) == len(TEXTS)


def test_only_tokens_are_computed(tmp_path):
    """All in one row, without the padding; attention is restored afterwards."""
    model, shapes = load("bert", tmp_path), []
    transformer = model.encoder[0].model
    transformer.encoder.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape))

    vectors = embed_texts(model, TEXTS, "document", 64)

    assert shapes == [(1, sum(LENGTHS) + 2 * len(TEXTS), 64)]
    assert transformer.config._attn_implementation == "sdpa"
    torch.testing.assert_close(vectors, embed_texts(model, TEXTS, "document", 64, ONE_PASS))


def test_dropout_holds_for_packed_attention_too(tmp_path):
    """Only while the model trains."""
    model = load("bert", tmp_path)
    set_dropout(model.encoder, 0.0)
    for layer in model.encoder[0].model.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    with torch.no_grad():
        whole = vectors_of(model, model.pass_cost)
        model.encoder.train()
        assert not torch.allclose(vectors_of(model, model.pass_cost), whole, atol=1e-3)
        # Attention of a training step is computed in other operations.
        with torch.enable_grad():
            trained = vectors_of(model, model.pass_cost).detach()
        assert not torch.allclose(trained, whole, atol=1e-3)
        model.encoder.eval()
        assert torch.equal(vectors_of(model, model.pass_cost), whole)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_texts_are_padded_with_an_attention_that_is_asked_for(attention, tmp_path):
    folder = build_model("bert", tmp_path / "model")
    model = load_model(ModelSpec(base=str(folder), attention=attention), CPU)
    assert model.pass_cost == CPU.pass_cost
    assert not model.pass_cost.packed


def test_bfloat16_changes_vectors_as_little_as_with_padding(tmp_path):
    folder = build_model("bert", tmp_path / "model")
    model = load_model(ModelSpec(base=str(folder)), Machine("cpu", "bfloat16", ""))
    assert model.pass_cost.packed
    exact = vectors_of(load("bert", tmp_path / "float32"), ONE_PASS)
    with model.training(), model.machine.autocast():
        packed, padded = (vectors_of(model, cost) for cost in (model.pass_cost, ONE_PASS))
    error = (packed - exact).abs().max()
    assert 0 < error < 2 * (padded - exact).abs().max()
