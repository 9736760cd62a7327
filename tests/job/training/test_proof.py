"""Before the first step, two pairs prove that a model can be trained, saved and loaded."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import TinyJobs

from job.core.errors import ModelError
from job.model.device import Machine
from job.model.encoder import load_model
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.spec.schema import ModelSpec
from job.storage.workspace import Workspace
from job.training.proof import prove_trainable

CPU = Machine("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return TinyJobs(tmp_path_factory.mktemp("proofs"))


@pytest.fixture(scope="module")
def pairs(jobs):
    from job.data.dataset import load_dataset
    from job.spec.schema import DataSpec

    return load_dataset(DataSpec(source=str(jobs.pairs), min_test_queries=10), {}).train


@pytest.fixture
def prove(pairs, tiny_spec, tmp_path):
    def work(model):
        prove_trainable(model, "MODEL", pairs, (32, 16), tiny_spec().training, tmp_path)

    return work


def state_of(model):
    """Return everything that a proof touches."""
    encoder = model.encoder
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    randoms = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    modes = [module.training for module in encoder.modules()]
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    return weights, randoms, modes, trained, encoder.prompts, encoder.default_prompt_name


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("prompts", "float32"),
        ("prompts", "bfloat16"),
        ("static embeddings", "float32"),
        ("router", "bfloat16"),
        ("t5", "bfloat16"),
    ],
)
def test_a_proof_leaves_no_trace(jobs, prove, tmp_path, name, precision):
    """Weights, settings, modes and random numbers are as before, and no file is left."""
    base = jobs.build(name)
    model = load_model(ModelSpec(base=str(base)), replace(CPU, precision=precision))
    weights, randoms, *others = state_of(model)

    prove(model)

    weights_after, randoms_after, *others_after = state_of(model)
    assert others_after == others
    assert weights.keys() == weights_after.keys()
    assert all(torch.equal(weights[key], weights_after[key]) for key in weights)
    assert torch.equal(randoms[0], randoms_after[0])
    assert np.array_equal(randoms[1], randoms_after[1])
    assert randoms[2] == randoms_after[2]
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert list(tmp_path.iterdir()) == []


def test_of_a_large_model_only_vectors_get_gradients(jobs, prove, monkeypatch):
    """They take hardly any memory, and the gradients still pass every layer."""
    monkeypatch.setattr("job.training.proof.LARGE", 1_000)
    model = load_model(ModelSpec(base=str(jobs.build("qwen3"))), CPU)
    seen = []
    monkeypatch.setattr(
        "job.training.proof._save_and_compare",
        lambda model, *_: seen.extend(
            name for name, weights in model.encoder.named_parameters() if weights.grad is not None
        ),
    )

    prove(model)

    assert any("layers.0.input_layernorm" in name for name in seen)
    assert all("norm" in name for name in seen)
    assert all(weights.requires_grad for weights in model.encoder.parameters())


def test_a_model_whose_weights_cannot_be_trained_is_refused(jobs, prove):
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    model.encoder.requires_grad_(requires_grad=False)

    with pytest.raises(ModelError, match=r"^The model `MODEL` cannot be trained: "):
        prove(model)


def test_a_model_that_loses_its_state_when_saved_is_refused(jobs, prove):
    """At the start, not at the end of a paid run."""
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    # A buffer that transformers does not save.
    positions = model.encoder[0].model.embeddings.position_ids
    positions.copy_(torch.flip(positions, dims=[1]))

    with pytest.raises(ModelError, match=r"once saved and loaded, it embeds a text differently"):
        prove(model)


def test_an_infinite_gradient_is_refused(jobs, prove):
    """The word embeddings are too large to square."""
    model = load_model(ModelSpec(base=str(jobs.build("bert"))), CPU)
    with torch.no_grad():
        model.encoder[0].model.embeddings.LayerNorm.weight.fill_(1e38)

    with pytest.raises(ModelError, match=r"`MODEL` cannot be trained: the loss of two pairs is"):
        prove(model)


@pytest.mark.slow
def test_a_job_of_such_a_model_ends_before_anything_is_scored(
    jobs, tiny_spec, tmp_path, monkeypatch
):
    """The base model's scores are not computed."""

    def fail(*_, **__):
        msg = "this layer has no backward pass"
        raise NotImplementedError(msg)

    monkeypatch.setattr("job.training.proof.matryoshka_loss", fail)
    monkeypatch.setattr("job.pipeline.score_base", lambda *_: pytest.fail("it was scored"))
    spec = tiny_spec(model__base=str(jobs.build("bert")))

    with pytest.raises(ModelError, match="this layer has no backward pass") as caught:
        run(spec, Workspace(tmp_path / "work"), RunContext("name", "cpu"), StopSignal())
    assert caught.value.exit_code == 5
