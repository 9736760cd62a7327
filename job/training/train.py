"""Training: the loss, the trainer, the checkpoints, and the choice among them on validation."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from job.core.errors import Interrupted, MachineError, SpecError
from job.data.dataset import TrainingData, TrainingPairs
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.cache import load_neighbors, save_neighbors
from job.evaluation.evaluate import Validation
from job.evaluation.metrics import IntArray
from job.model.encoder import Model
from job.runtime.oom import batch_size_facts
from job.runtime.signals import StopSignal
from job.spec.schema import TrainingSpec
from job.storage.workspace import Workspace
from job.training.callbacks import training_curves
from job.training.checkpoints import checkpoint_on_each_host, restore, step_of
from job.training.hard_negatives import add_negatives, find_nearest_neighbors
from job.training.hyperparameters import Hyperparameters, read_hyperparameters, resolve
from job.training.padding import count_tokens
from job.training.trainer import PairTrainer, TrainingInputs, build_trainer


@dataclass(frozen=True)
class Training:
    """The outcome: `model` is the best on validation; `best_step` 0 means the base model."""

    model: Model
    steps: int
    resumed_from_step: int
    best_step: int
    hyperparameters: Hyperparameters
    # Validation nDCG@10 at the main dimension, of the base and of the chosen model.
    base_validation: float
    best_validation: float
    history: list[dict[str, float]]
    # Why the training ended before its time, to be put in a sentence (`job.training.health`).
    stopped_early: str | None = None
    # Of this start alone, so no part of the outcome: pairs passed, with repetitions, and seconds,
    # with those of the validations.
    pairs: int = field(default=0, compare=False)
    # Texts of a column that were embedded at once: asked for, and what the memory allowed.
    mini_batch_size: dict[str, int] | None = field(default=None, compare=False)
    # Of the conductor, where there are several processes: read, and the padding beside them.
    tokens: dict[str, Any] | None = field(default=None, compare=False)
    seconds: float = field(default=0.0, compare=False)

    @property
    def improved_on_validation(self) -> bool:
        return self.best_step > 0

    def facts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "model"} | {
            "hyperparameters": self.hyperparameters.facts(),
            "seconds": round(self.seconds, 3),
            "pairs_per_second": round(self.pairs / self.seconds, 1) if self.seconds else None,
        }

    def remark(self, main: str) -> str:
        """Say how validation went under the key of the main dimension."""
        if self.stopped_early:
            kept = f"checkpoint of step {self.best_step}" if self.best_step else "base model"
            return f"Training was stopped early: {self.stopped_early}. The {kept} was kept."
        reached = [(int(e["step"]), e[main]) for e in self.history if main in e]
        if not self.steps:
            return "Nothing was trained."
        if len(reached) < 2:
            return "Validation was scored once, so nothing can be said of over-fitting."
        last_step, last = reached[-1]
        best_step, best = max(reached, key=lambda entry: entry[1])
        if best_step == last_step:
            return (
                f"Validation rose to the end, to {best:.3f}: no over-fitting is seen, and more "
                "`training.epochs` may gain more."
            )
        return (
            f"Validation was best at step {best_step} ({best:.3f}) and {last:.3f} at the end, step "
            f"{last_step}: over-fitting or chance; the best one was kept."
        )


@dataclass(frozen=True)
class TrainingContext:
    """Where a training writes, what may end it, and what is known already."""

    workspace: Workspace
    stop: StopSignal
    # Called on rank 0 with the folder of each checkpoint that was written.
    on_checkpoint: Callable[[Path], None] | None = None
    # The untrained model's embeddings of the whole corpus.
    corpus_vectors: torch.Tensor | None = None


def train(
    model: Model,
    data: TrainingData,
    validation: Validation,
    spec: TrainingSpec,
    context: TrainingContext,
) -> Training:
    """Train, then restore the best checkpoint on validation; the base model is a candidate too.

    Raises `Interrupted` after a stop signal (with a checkpoint written) and `TrainingError`.
    """
    _check(spec, validation)
    workspace = context.workspace
    checkpoint = checkpoint_on_each_host(workspace.checkpoints)

    def resolve_once() -> Hyperparameters:
        # A run that goes on keeps what its first start has resolved.
        earlier = read_hyperparameters(workspace.hyperparameters) if checkpoint else None
        hyperparameters = earlier or resolve(spec, model, data.train)
        if hyperparameters.spec.epochs != 0:
            hyperparameters.write(workspace.hyperparameters)
        return hyperparameters

    hyperparameters = from_rank_zero(resolve_once)
    if hyperparameters.spec.epochs == 0:
        return Training(model, 0, 0, 0, hyperparameters, validation.base, validation.base, [])
    pairs, neighbors = data.train, None
    if hyperparameters.spec.mined_negatives or hyperparameters.spec.hard_group_size > 1:
        neighbors = _nearest_neighbors(
            model, pairs, hyperparameters.spec.negative_margin, validation.batch_size, context
        )
        pairs = add_negatives(pairs, neighbors, hyperparameters.spec.mined_negatives)
    inputs = TrainingInputs(model, pairs, validation, hyperparameters.spec, neighbors)
    trainer = build_trainer(inputs, workspace, context.stop, context.on_checkpoint)
    outcome = _fit(trainer, hyperparameters, checkpoint, context.stop)
    best, step = float(trainer.state.best_metric or 0.0), int(trainer.state.best_global_step or 0)
    if best <= validation.base:
        return outcome
    if step < outcome.steps:
        restore(model, workspace.checkpoints / f"checkpoint-{step}", validation, best)
    return replace(outcome, best_step=step, best_validation=best)


def _fit(
    trainer: PairTrainer,
    hyperparameters: Hyperparameters,
    checkpoint: Path | None,
    stop: StopSignal,
) -> Training:
    """Train to the end, from a checkpoint on if there is one; returns what came of it so far."""
    started = time.perf_counter()
    inputs = trainer.inputs
    with stop.awaited(), count_tokens(inputs.model.encoder) as tokens:
        trainer.run(checkpoint)
    seconds, state = time.perf_counter() - started, trainer.state
    if stop.requested:
        done = f"step {state.global_step} of {state.max_steps}"
        msg = f"The run was interrupted after {done}. Launch it again to go on from there."
        raise Interrupted(msg)
    resumed = step_of(checkpoint) if checkpoint else 0
    passes = float(state.epoch or 0) * (1 - resumed / max(1, state.global_step))
    base = inputs.validation.base
    return Training(
        inputs.model,
        state.global_step,
        resumed,
        best_step=0,
        hyperparameters=hyperparameters,
        base_validation=base,
        best_validation=base,
        history=training_curves(state),
        stopped_early=trainer.health_check.reason,
        mini_batch_size=batch_size_facts(inputs.requested_mini_batch_size, trainer.mini_batch_size),
        tokens=tokens,
        pairs=round(passes * len(inputs.pairs)),
        seconds=seconds,
    )


def _nearest_neighbors(
    model: Model, pairs: TrainingPairs, margin: float, batch_size: int, context: TrainingContext
) -> list[IntArray]:
    """Find each pair's nearest neighbors, or take those of an earlier start.

    They decide the order of the data, and rounding on another machine could change them.
    """
    path = context.workspace.nearest_neighbors
    kept = from_rank_zero(lambda: load_neighbors(path))
    if kept is not None:
        return kept
    found = find_nearest_neighbors(model, pairs, margin, batch_size, context.corpus_vectors)
    if is_rank_zero():
        save_neighbors(path, found)
    return from_rank_zero(lambda: found)


def _check(spec: TrainingSpec, validation: Validation) -> None:
    """Refuse early what the spec cannot know: dimensions, and the trainer's integrations."""
    weights, dimensions = spec.dimension_weights, list(validation.dimensions.all)
    if weights and len(weights) != len(dimensions):
        msg = (
            f"`training.dimension_weights` has {len(weights)} values for the dimensions "
            f"{dimensions}; one each is needed, large to small."
        )
        raise SpecError(msg)
    for name in spec.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            msg = f"`training.report_to` has `{name}`, which is none of the trainer's: {known}."
            raise SpecError(msg)
        if name not in get_available_reporting_integrations():  # type: ignore[no-untyped-call]
            msg = f"`training.report_to`: `{name}` is not installed here. Install or drop it."
            raise MachineError(msg)
