"""A training that can come to nothing ends early, says why, and leaves nothing of its fault."""

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
from job.training.health import HealthCheck, is_degrading, spread

MAIN = "eval_dim_32_cosine_ndcg@10"


@pytest.fixture
def prepare(tiny_spec, tmp_path):
    """Set up a training of three epochs of ten steps; `base` is a made-up score of the base."""

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


class AtStep(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step, work):
        self._step, self._work = step, work

    def on_step_end(self, _args, state, _control, model=None, **_):
        if state.global_step == self._step:
            self._work(model)


def test_a_sound_training_is_left_alone(prepare):
    trainer = prepare()

    trainer.train()

    assert trainer.health_check.reason is None
    assert trainer.state.global_step == 30
    assert checkpoints(trainer) == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]


def test_a_loss_that_is_no_number_changes_no_weight(prepare, tiny_spec):
    """The step is not taken, neither validated nor saved, and the training ends there."""
    model = load_model(tiny_spec().model, CPU)
    with torch.no_grad():
        # One word's embedding; the loss is NaN as soon as a batch has the word.
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
    """Nothing of it reaches the weights; those of the step before stay, and are finite."""
    kept = []

    def break_gradient(model):
        kept.append({name: w.clone() for name, w in model.state_dict().items()})
        next(model.parameters()).register_hook(lambda gradient: gradient * math.inf)

    trainer = prepare(AtStep(14, break_gradient))

    trainer.train()

    assert trainer.health_check.reason == (
        "the gradient is nan at step 15 of 30; lower `training.learning_rate`, or set "
        "`model.precision=float32`"
    )
    assert_same(weights(trainer), kept[0])
    assert all(bool(w.isfinite().all()) for w in weights(trainer).values())
    assert torch.isfinite(torch.tensor(trainer.state.best_metric))
    assert checkpoints(trainer) == ["checkpoint-10"]


def test_the_scaler_of_float16_may_look_for_infinite_gradients(prepare):
    """It lowers its scale and skips the step; only a loss that is no number ends the training."""
    trainer = prepare()
    health_check, state = trainer.health_check, SimpleNamespace(global_step=0, max_steps=30)
    next(trainer.model.parameters()).grad = next(trainer.model.parameters()) * math.inf

    for fp16 in (True, False):
        control = SimpleNamespace(should_training_stop=False, should_save=True)
        health_check.on_pre_optimizer_step(SimpleNamespace(fp16=fp16), state, control)
        assert control.should_training_stop is not fp16


def test_one_vector_for_all_texts_ends_the_training(prepare):
    """A rate that destroys the model; what it finds then, it finds by chance, and counts as 0."""
    trainer = prepare(training__learning_rate="1.0")

    trainer.train()

    assert trainer.health_check.reason == (
        "all texts have nearly the same vector (mean cosine 1.00000, the base model's 0.947) at "
        "step 10 of 30; lower `training.learning_rate`"
    )
    assert [e[MAIN] for e in trainer.state.log_history if MAIN in e] == [0.0]
    assert checkpoints(trainer) == []


def test_a_model_that_was_narrow_from_the_start_may_stay_so(prepare):
    """Only a tenth of the base model's own spread is a collapse."""
    trainer = prepare()
    health_check = trainer.health_check
    with torch.no_grad():
        # The same in all texts, beside which a text's own part is small.
        trainer.model[0].model.encoder.layer[-1].output.LayerNorm.bias += 15
    found = spread(health_check._model, health_check._validation)

    assert 1e-5 < found < 1e-3
    health_check._base_spread = found * 9
    assert not health_check.detect_fault()
    health_check._base_spread = found * 11
    assert health_check.detect_fault()


def test_weights_that_are_no_numbers_are_never_scored(prepare):
    """Nothing is sorted by vectors of NaN."""

    def spoil(model):
        with torch.no_grad():
            next(model.parameters())[30] = float("nan")

    trainer = prepare(AtStep(10, spoil))

    trainer.train()

    assert trainer.health_check.reason == (
        "the weights are no numbers at step 10 of 30; lower `training.learning_rate`"
    )
    assert trainer.state.best_metric == 0.0
    assert checkpoints(trainer) == []


@pytest.mark.parametrize(
    ("reached", "share", "sinks"),
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
def test_sinking_is_clearly_below_the_base_from_the_start_and_no_better_than_before(
    reached, share, sinks
):
    """The base model has 0.5. Over-fitting later on is nothing of the kind."""
    assert is_degrading(reached, 0.5, share) is sinks


def test_a_training_that_sinks_ends_early_and_so_does_the_one_taken_up(prepare):
    """The validation that ended it leaves no checkpoint: what is taken up comes to it again."""
    settings = {"base": 0.9, "training__learning_rate": "1e-9"}
    trainer = prepare(**settings)

    trainer.train()
    again = prepare(**settings)
    again.train(resume_from_checkpoint=f"{again.args.output_dir}/checkpoint-10")

    assert trainer.health_check.reason == again.health_check.reason
    assert trainer.health_check.reason == (
        "validation was 0.011 and is 0.011 at step 20 of 30, the base model's is 0.900; lower "
        "`training.learning_rate`"
    )
    assert trainer.state.global_step == again.state.global_step == 20
    assert_same(weights(trainer), weights(again))
    assert checkpoints(trainer) == ["checkpoint-10"]


@pytest.mark.parametrize(("every", "asked"), [("7", 14), ("epoch", 13)])
def test_nothing_is_saved_after_the_end_whoever_asks_for_it(prepare, every, asked):
    """Not by a callback that came before it, nor by the trainer's own end of an epoch."""

    class Asks(TrainerCallback):
        def on_step_end(self, _args, state, control, **_):
            if state.global_step == asked:
                control.should_save = True

    def spoil(model):
        with torch.no_grad():
            next(model.parameters())[:] = float("nan")

    trainer = prepare(AtStep(asked - 1, spoil), Asks(), training__evaluate_every=every)

    trainer.train()

    assert trainer.health_check.reason.startswith(f"the loss is nan at step {asked} of 30")
    assert checkpoints(trainer) == ["checkpoint-7" if every == "7" else "checkpoint-10"]


def test_the_spread_is_how_much_texts_differ(prepare, monkeypatch):
    """0 where all vectors point one way, 1 where they have nothing in common."""
    trainer = prepare()
    model, validation = trainer.health_check._model, trainer.health_check._validation
    for vectors, expected in ((torch.ones(64, 64), 0.0), (torch.eye(64), 1.0)):
        monkeypatch.setattr("job.training.health.encode_documents", lambda *_, v=vectors: v * 3)
        assert spread(model, validation) == pytest.approx(expected, abs=1e-9)
    one = replace(validation.search, corpus=validation.search.corpus.take(np.array([0])))
    assert spread(model, replace(validation, search=one)) == 0.0
    # With one document there is nothing to compare, and no fault to find.
    assert not HealthCheck(model, replace(validation, search=one)).detect_fault()
