"""The training on all pairs repeats the tested one, and nothing is chosen in it."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_training import tiny_training

from job.core.errors import Interrupted
from job.runtime.signals import StopSignal
from job.spec.parse import build_spec
from job.spec.schema import ResolvedTraining
from job.storage.workspace import Workspace
from job.training.checkpoints import last_checkpoint
from job.training.refit import fixed_steps, share_of_schedule, train_on_all
from job.training.train import TrainingContext, prepare_training
from job.training.trainer import FixedSteps, build_trainer

RESOLVED = {"batch_size": 32, "mini_batch_size": None, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def task(tiny_encoder, pairs_file, tiny_settings, tmp_path_factory):
    given = {"data.source": str(pairs_file), "model.base": str(tiny_encoder)}
    given |= tiny_settings | {"training.epochs": "2", "data.limit": "200"}
    given |= {"data.min_test_queries": "5"}
    return tiny_training(build_spec({}, given), tmp_path_factory.mktemp("tested"))


@pytest.fixture(scope="module")
def tested(task):
    """The training whose model is tested: two epochs of five steps, the last one the best."""
    found = task.train()
    assert found.best_step == found.steps == 10
    return found


def context_of(folder, stop=None):
    return TrainingContext(Workspace(folder).for_refit(), stop or StopSignal())


def on_all(task, tested, folder, pairs=None, stop=None):
    pairs = pairs or task.dataset.all_pairs
    context = context_of(folder, stop)
    hyperparameters, validation = tested.hyperparameters, task.base.validation
    share = share_of_schedule(hyperparameters.spec, tested.best_step, len(task.dataset.train))
    return train_on_all(task.load(), pairs, share, hyperparameters, validation, context)


def weights_of(found):
    return found.model.encoder.state_dict()


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("epochs", "best", "pairs", "expected"),
    [
        # Of 5 steps an epoch; of 200 pairs an epoch has 7.
        (2, 10, 200, (14, 14)),
        (2, 5, 200, (7, 14)),
        (2, 5, 160, (5, 10)),
        # Half an epoch.
        (0.5, 3, 320, (5, 5)),
        # At least one step.
        (8, 1, 96, (1, 24)),
    ],
)
def test_the_steps_are_scaled_to_the_pairs(epochs, best, pairs, expected):
    """As many passes as the tested model has seen, of a schedule of as many passes."""
    spec = ResolvedTraining(epochs=epochs, **RESOLVED)
    share = share_of_schedule(spec, best, 160)
    assert fixed_steps(spec, share, pairs) == FixedSteps(*expected)


def test_on_the_same_pairs_it_gives_the_tested_model_again(task, tested, tmp_path):
    """Bit by bit: data order, schedule and weights do not depend on the validation."""
    found = on_all(task, tested, tmp_path, task.dataset.train)
    assert (found.steps, found.fault) == (10, None)
    assert_equal(weights_of(found), weights_of(tested))


def test_an_earlier_best_step_ends_in_the_middle_of_the_schedule(task, tested, tmp_path):
    """The learning rate is that of the whole schedule, not decayed to zero at the end."""
    spec, context = tested.hyperparameters.spec, context_of(tmp_path)
    inputs = prepare_training(task.load(), task.dataset.train, task.base.validation, spec, context)
    trainer = build_trainer(
        replace(inputs, fixed=FixedSteps(5, 10)), context.workspace, context.stop
    )
    trainer.run(None)
    assert trainer.state.global_step == 5
    # The cosine after 5 of 10 steps, of which the first is the warm-up.
    middle = spec.learning_rate * 0.5 * (1 + math.cos(math.pi * 4 / 9))
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(middle)
    assert not [entry for entry in trainer.state.log_history if any("eval" in key for key in entry)]


@pytest.mark.parametrize("every", ["epoch", "3"])
def test_a_resumed_training_equals_an_uninterrupted_one(task, tested, stop_after, tmp_path, every):
    """Whenever the tested one was validated; and a complete training is not repeated."""
    spec = tested.hyperparameters.spec.model_copy(
        update={"evaluate_every": every if every == "epoch" else int(every)}
    )
    tested = replace(tested, hyperparameters=replace(tested.hyperparameters, spec=spec))
    whole = on_all(task, tested, tmp_path / "whole")
    assert whole.steps == 14
    with pytest.raises(Interrupted, match="after step 7 of 14"):
        on_all(task, tested, tmp_path / "parts", stop=stop_after(6))
    resumed = on_all(task, tested, tmp_path / "parts")
    again = on_all(task, tested, tmp_path / "parts")
    assert_equal(weights_of(resumed), weights_of(whole))
    assert_equal(weights_of(again), weights_of(whole))
    checkpoints = Workspace(tmp_path / "parts").for_refit().checkpoints
    assert last_checkpoint(checkpoints).name == "checkpoint-14"


def test_a_broken_training_is_named_and_not_used(task, tested, tmp_path):
    """The caller then keeps the tested model."""
    spec = tested.hyperparameters.spec.model_copy(update={"learning_rate": 1.0, "scale": 1000.0})
    broken = replace(tested, hyperparameters=replace(tested.hyperparameters, spec=spec))
    found = on_all(task, broken, tmp_path)
    assert found.fault
