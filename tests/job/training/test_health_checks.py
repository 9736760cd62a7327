"""A failing training stops early, gives the reason, and leaves no broken checkpoint."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import CPU, tiny_training
from transformers import TrainerCallback

from job.model.encoder import load_model
from job.training.health_checks import HealthCheck, is_degrading, spread

MAIN = "eval_dim_32_cosine_ndcg@10"


@pytest.fixture
def prepare(tiny_spec, tmp_path):
    """Prepare a training of three epochs of ten steps; `base` overrides the base model's score."""

    def make(*callbacks, base=None, model=None, **settings):
        prepared = tiny_training(tiny_spec(**settings), tmp_path / "work")
        return prepared.trainer(*callbacks, base=base, model=model)

    return make


def checkpoints(trainer):
    return sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))


def weights(trainer):
    return {name: w.clone() for name, w in trainer.model.state_dict().items()}


def assert_same(one, other):
    for name, found in one.items():
        torch.testing.assert_close(found, other[name], rtol=0, atol=0, equal_nan=True)


class AfterStep(TrainerCallback):
    """Call a function with the model after a given step."""

    def __init__(self, step, function):
        self._step, self._function = step, function

    def on_step_end(self, _args, state, _control, model=None, **_):
        if state.global_step == self._step:
            self._function(model)


def test_a_healthy_training_is_not_stopped(prepare):
    trainer = prepare()

    trainer.train()

    assert trainer.health_check.reason is None
    assert trainer.state.global_step == 30
    assert "checkpoint-30" in checkpoints(trainer)


def test_a_nan_loss_changes_no_weight(prepare, tiny_spec):
    """The step is neither applied, validated nor saved, and the training stops."""
    model = load_model(tiny_spec().model, CPU)
    with torch.no_grad():
        # The embedding of one word: the loss is NaN once a batch contains it.
        next(model.encoder.parameters())[30] = float("nan")
    trainer = prepare(model=model, training__mini_batch_size="8")
    before = weights(trainer)

    trainer.train()

    assert trainer.health_check.reason == (
        "the loss is nan at step 1 of 30; lower `training.learning_rate`, or set "
        "`model.precision=float32`"
    )
    assert_same(weights(trainer), before)
    assert checkpoints(trainer) == []
    assert not [entry for entry in trainer.state.log_history if "loss" in entry or MAIN in entry]


def test_an_infinite_gradient_changes_no_weight(prepare):
    """The weights stay as they were after the previous step, and finite."""
    before = []

    def break_gradient(model):
        before.append({name: w.clone() for name, w in model.state_dict().items()})
        next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)

    trainer = prepare(AfterStep(14, break_gradient))

    trainer.train()

    assert trainer.health_check.reason == (
        "the gradient is nan at step 15 of 30; lower `training.learning_rate`, or set "
        "`model.precision=float32`"
    )
    assert_same(weights(trainer), before[0])
    assert all(bool(w.isfinite().all()) for w in weights(trainer).values())
    assert torch.isfinite(torch.tensor(trainer.state.best_metric))
    assert checkpoints(trainer) == ["checkpoint-10"]


def test_infinite_gradients_are_allowed_in_float16(prepare):
    """The gradient scaler handles them: it lowers its scale and skips the step."""
    trainer = prepare()
    health_check, state = trainer.health_check, SimpleNamespace(global_step=0, max_steps=30)
    next(trainer.model.parameters()).grad = next(trainer.model.parameters()) * math.inf

    for fp16 in (True, False):
        control = SimpleNamespace(should_training_stop=False, should_save=True)
        health_check.on_pre_optimizer_step(SimpleNamespace(fp16=fp16), state, control)
        assert control.should_training_stop is not fp16


def test_collapsed_embeddings_stop_the_training(prepare):
    """The learning rate destroys the model; its random search results count as 0."""
    trainer = prepare(training__learning_rate="1.0")

    trainer.train()

    assert trainer.health_check.reason == (
        "all texts have nearly the same vector (mean cosine 1.00000, the base model's 0.947) at "
        "step 10 of 30; lower `training.learning_rate`"
    )
    assert [e[MAIN] for e in trainer.state.log_history if MAIN in e] == [0.0]
    assert checkpoints(trainer) == []


def test_a_base_model_with_little_spread_is_not_collapsed(prepare):
    """A collapse needs less than a tenth of the base model's spread."""
    trainer = prepare()
    health_check = trainer.health_check
    with torch.no_grad():
        # A large bias that all texts share makes their differences relatively small.
        trainer.model[0].model.encoder.layer[-1].output.LayerNorm.bias += 15
    found = spread(health_check._model, health_check._validation)

    assert 1e-5 < found < 1e-3
    health_check._base_spread = found * 9
    assert not health_check.detect_fault()
    health_check._base_spread = found * 11
    assert health_check.detect_fault()


def test_nan_weights_are_never_scored(prepare):
    """Validation counts as 0, and no checkpoint is saved."""

    def break_weights(model):
        with torch.no_grad():
            next(model.parameters())[30] = float("nan")

    trainer = prepare(AfterStep(10, break_weights))

    trainer.train()

    assert trainer.health_check.reason == (
        "some weights are NaN or infinite at step 10 of 30; lower `training.learning_rate`"
    )
    assert trainer.state.best_metric == 0.0
    assert checkpoints(trainer) == []


@pytest.mark.parametrize(
    ("scores", "share_done", "expected"),
    [
        ([], 0.5, False),
        ([0.3], 0.5, False),
        ([0.3, 0.2], 0.5, True),
        ([0.3, 0.3], 0.25, True),
        ([0.3, 0.2], 0.2, False),
        ([0.2, 0.3], 0.5, False),
        ([0.2, 0.3, 0.25], 0.5, True),
        ([0.2, 0.46, 0.3], 0.5, False),
        ([0.5, 0.3, 0.2], 0.5, False),
        ([0.6, 0.1, 0.1], 0.9, False),
        ([0.449, 0.44], 0.5, True),
        ([0.451, 0.44], 0.5, False),
    ],
)
def test_a_degrading_training_was_always_clearly_below_the_base_and_is_not_improving(
    scores, share_done, expected
):
    """The base model has 0.5. Later overfitting does not count as degrading."""
    assert is_degrading(scores, 0.5, share_done) is expected


def test_a_degrading_training_stops_early_also_if_resumed(prepare):
    """The validation that stops it leaves no checkpoint, so a resumed run repeats it."""
    settings = {"base": 0.9, "training__learning_rate": "1e-9", "training__checkpoint_steps": "10"}
    trainer = prepare(**settings)

    trainer.train()
    again = prepare(**settings)
    again.train(resume_from_checkpoint=f"{again.args.output_dir}/checkpoint-10")

    assert trainer.health_check.reason == again.health_check.reason
    assert trainer.health_check.reason == (
        "the validation score was 0.011 and is 0.011 at step 20 of 30, the base model's is 0.900; "
        "lower `training.learning_rate`"
    )
    assert trainer.state.global_step == again.state.global_step == 20
    assert_same(weights(trainer), weights(again))
    assert checkpoints(trainer) == ["checkpoint-10"]


@pytest.mark.parametrize(("every", "requested"), [("7", 14), ("epoch", 13)])
def test_no_request_can_save_a_checkpoint_after_the_stop(prepare, every, requested):
    """Neither an earlier callback nor the trainer at the end of an epoch."""

    class SaveRequest(TrainerCallback):
        def on_step_end(self, _args, state, control, **_):
            if state.global_step == requested:
                control.should_save = True

    def break_weights(model):
        with torch.no_grad():
            next(model.parameters())[:] = float("nan")

    trainer = prepare(
        AfterStep(requested - 1, break_weights), SaveRequest(), training__evaluate_every=every
    )

    trainer.train()

    assert trainer.health_check.reason.startswith(f"the loss is nan at step {requested} of 30")
    assert checkpoints(trainer) == ["checkpoint-7" if every == "7" else "checkpoint-10"]


def test_the_spread_measures_how_much_embeddings_differ(prepare, monkeypatch):
    """0 if all vectors are parallel, 1 if they are orthogonal."""
    trainer = prepare()
    model, validation = trainer.health_check._model, trainer.health_check._validation
    for vectors, expected in ((torch.ones(64, 64), 0.0), (torch.eye(64), 1.0)):
        monkeypatch.setattr(
            "job.training.health_checks.encode_documents", lambda *_, v=vectors: v * 3
        )
        assert spread(model, validation) == pytest.approx(expected, abs=1e-9)
    one = replace(validation.search, corpus=validation.search.corpus.take(np.array([0])))
    assert spread(model, replace(validation, search=one)) == 0.0
    # A single document cannot be compared, so no collapse is detected.
    assert not HealthCheck(model, replace(validation, search=one)).detect_fault()
