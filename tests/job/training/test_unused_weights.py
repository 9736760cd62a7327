"""Several processes exchange the gradients that there are, once a step, and weights once."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_models import build_model
from tiny_training import CPU, tiny_training
from worker_processes import together

from job.distributed import process_group
from job.model.encoder import load_model
from job.spec.schema import ModelSpec
from job.training.disk_space import model_bytes
from job.training.unused_weights import exclude_unused_weights

POOLER = ["0.model.pooler.dense.weight", "0.model.pooler.dense.bias"]


@pytest.fixture
def exclude(monkeypatch):
    """Return what is found in a model of two processes, and the weights that are excluded."""
    monkeypatch.setattr(process_group, "world_size", lambda: 2)

    def run(folder):
        model = load_model(ModelSpec(base=str(folder)), CPU)
        before = torch.get_rng_state()
        search = exclude_unused_weights(model)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(weights.grad is None for weights in model.encoder.parameters())
        return search, getattr(model.encoder, "_ddp_params_and_buffers_to_ignore", [])

    return run


def test_the_pooler_of_a_bert_is_excluded(exclude, tiny_encoder):
    """Its gradient never comes, and nothing is searched."""
    assert exclude(tiny_encoder) == (False, POOLER)


def test_a_router_uses_the_weights_of_both_routes_in_each_step(exclude, tmp_path):
    """A search in each pass would take those of the other route for unused, and fail."""
    build_model("router", tmp_path)
    search, ignored = exclude(tmp_path)
    assert not search
    assert {name.split(".pooler")[0] for name in ignored} == {
        f"0.sub_modules.{role}.0.model" for role in ("query", "document")
    }


def train_and_count(rank, spec, folder):
    """Train on this rank; return how often collective calls were made, and the bytes broadcast."""
    prepared = tiny_training(spec, Path(folder))
    model = prepared.load()
    with torch.profiler.profile(record_shapes=True) as profile:
        outcome = prepared.train(model=model)
    # The profiler's own list takes longer than the training.
    events = [
        event
        for event in profile.profiler.kineto_results.events()
        if event.name().startswith("gloo:")
    ]
    shapes = [s for event in events if event.name() == "gloo:broadcast" for s in event.shapes()]
    sent = sum(4 * torch.Size(shape).numel() for shape in shapes if shape)
    calls = Counter(event.name() for event in events)
    return calls, sent, model_bytes(model), outcome.steps, outcome.best_step


@pytest.mark.exhaustive
def test_two_processes_exchange_weights_once(tiny_spec, tmp_path):
    """And gradients once a step, however often they validate."""
    spec = tiny_spec(training__epochs="4")
    found = together(2, train_and_count, spec, str(tmp_path))
    for calls, sent, size, steps, best in found:
        # Before the first step, and of the best checkpoint.
        assert 0 < best < steps
        assert 2 * size <= sent < 2.5 * size
        # Of the loss, the stop signal, the gradients of the documents and those of the weights.
        assert calls["gloo:all_reduce"] == 4 * steps
