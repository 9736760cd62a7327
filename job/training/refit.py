"""Train once more on all pairs, like the model that was tested; nothing is chosen here."""

import math
from dataclasses import dataclass, replace

from job.data.dataset import TrainingPairs
from job.distributed.process_group import from_rank_zero
from job.evaluation.evaluate import Validation
from job.model.encoder import Model
from job.spec.schema import ResolvedTraining
from job.training.checkpoints import checkpoint_on_each_host, delete_newer
from job.training.hyperparameters import Hyperparameters
from job.training.train import TrainingContext, fit, merge_adapter, prepare_training
from job.training.trainer import FixedSteps, build_trainer


@dataclass(frozen=True)
class RefitTraining:
    """The model of all pairs; `fault` says why it is unusable, as a clause for a sentence."""

    model: Model
    steps: int
    fault: str | None


def train_on_all(
    model: Model,
    pairs: TrainingPairs,
    best_share: float,
    hyperparameters: Hyperparameters,
    validation: Validation,
    context: TrainingContext,
) -> RefitTraining:
    """Train the base model on all pairs with the hyperparameters of the tested training.

    `best_share` is the share of its schedule at which that one was best. Of `validation` only
    texts are read, to see whether all texts get the same vector. Raises `Interrupted` after a stop
    signal, once a checkpoint is written.
    """
    workspace = context.workspace
    checkpoint = checkpoint_on_each_host(workspace.checkpoints)
    from_rank_zero(lambda: delete_newer(workspace.checkpoints, checkpoint))
    workspace.checkpoints.mkdir(parents=True, exist_ok=True)
    inputs = prepare_training(model, pairs, validation, hyperparameters.spec, context)
    inputs = replace(inputs, fixed=fixed_steps(hyperparameters.spec, best_share, len(pairs)))
    trainer = build_trainer(inputs, workspace, context.stop, context.on_checkpoint)
    outcome = fit(trainer, hyperparameters, checkpoint, context.stop)
    health = trainer.health_check
    fault = outcome.stopped_early or (health.fault if health.detect_fault() else None)
    if fault is None:
        merge_adapter(inputs, workspace)
    return RefitTraining(inputs.model, outcome.steps, fault)


def share_of_schedule(spec: ResolvedTraining, step: int, pairs: int) -> float:
    """Return how far a step is in the schedule of so many pairs, whether or not it was ended."""
    return step / max(1, planned_steps(spec, pairs))


def fixed_steps(spec: ResolvedTraining, share: float, pairs: int) -> FixedSteps:
    """Return the step that is so far in the schedule of `pairs`."""
    scheduled = planned_steps(spec, pairs)
    return FixedSteps(min(max(1, round(scheduled * share)), scheduled), scheduled)


def planned_steps(spec: ResolvedTraining, pairs: int) -> int:
    """Return the steps of all epochs, as the trainer counts them."""
    return math.ceil(spec.epochs * math.ceil(pairs / spec.batch_size))
