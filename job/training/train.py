"""Train the model and select the best checkpoint on validation."""

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
from job.core.memory import LoraChoice
from job.data.dataset import TrainingData, TrainingPairs
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.cache import load_neighbors, save_neighbors
from job.evaluation.evaluate import Validation
from job.model.encoder import Model
from job.model.parts import transformers_of
from job.runtime.oom import batch_size_facts
from job.runtime.signals import StopSignal
from job.spec.schema import ResolvedTraining, TrainingSpec
from job.storage.arrow_tables import IntArray
from job.storage.workspace import Workspace
from job.training.callbacks import training_curves
from job.training.checkpoints import (
    checkpoint_at,
    checkpoint_on_each_host,
    delete_newer,
    restore,
    step_of,
)
from job.training.hard_negatives import add_negatives, find_nearest_neighbors
from job.training.hyperparameters import Hyperparameters, read_hyperparameters, resolve
from job.training.lora import Adapter
from job.training.padding import count_tokens
from job.training.rotation import Rotation, rotate
from job.training.trainer import PairTrainer, TrainingInputs, build_trainer

# With fewer validations a rise to the end says little about overfitting.
FEW_VALIDATIONS = 4


@dataclass(frozen=True)
class Training:
    """The result: `model` is the best on validation; `best_step` 0 means the base model."""

    model: Model
    steps: int
    resumed_from_step: int
    best_step: int
    hyperparameters: Hyperparameters
    # Validation nDCG@10 at the main dimension, of the base model and of the selected model.
    base_validation: float
    best_validation: float
    history: list[dict[str, float]]
    # Why the training stopped early, as a clause for a sentence (`job.training.health_checks`).
    stopped_early: str | None = None
    # The merged adapter; None if all weights were trained, or no checkpoint was selected.
    lora: dict[str, Any] | None = None
    # None if the vectors were not rotated, or no checkpoint was selected.
    rotation: dict[str, Any] | None = None
    # The following fields describe this start only, so comparisons ignore them.
    # Pairs trained on, with repetitions.
    pairs: int = field(default=0, compare=False)
    # Rows embedded at once: requested, and used after running out of memory.
    mini_batch_size: dict[str, int] | None = field(default=None, compare=False)
    # Tokens read and the share of padding; those of rank 0 if there are several.
    tokens: dict[str, Any] | None = field(default=None, compare=False)
    # Including validation.
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
        """Summarize the validation scores; `main` is the metric key of the main dimension."""
        if self.stopped_early:
            selected = f"checkpoint of step {self.best_step}" if self.best_step else "base model"
            return f"Training stopped early: {self.stopped_early}. The {selected} was selected."
        scores = [(int(e["step"]), e[main]) for e in self.history if main in e]
        if not self.steps:
            return "No training took place."
        if len(scores) < 2:
            return "Validation was scored only once, which cannot show overfitting."
        last_step, last = scores[-1]
        best_step, best = max(scores, key=lambda entry: entry[1])
        if best_step == last_step and len(scores) < FEW_VALIDATIONS:
            return (
                f"The validation score was highest at the end ({best:.3f}); {len(scores)} "
                "validations are too few to see overfitting, or that more `training.epochs` help."
            )
        if best_step == last_step:
            return (
                f"The validation score was highest at the end ({best:.3f}): there is no sign of "
                "overfitting, and more `training.epochs` may improve the model further."
            )
        return (
            f"The validation score was highest at step {best_step} ({best:.3f}) and {last:.3f} at "
            f"the end, step {last_step}: overfitting or chance. The best checkpoint was selected."
        )


@dataclass(frozen=True)
class TrainingContext:
    """The workspace, the stop signal and precomputed vectors of a training."""

    workspace: Workspace
    stop: StopSignal
    # Called on rank 0 with the folder of each new checkpoint.
    on_checkpoint: Callable[[Path], None] | None = None
    # The base model's embeddings of the whole corpus.
    corpus_vectors: torch.Tensor | None = None
    # Whether the base model's document vectors are kept, so that queries must match them.
    keeps_index: bool = False
    # Chosen before the model was loaded; None chooses by the loaded model.
    lora: LoraChoice | None = None
    # Name of the base model, for the adapter.
    base: str = ""


def train(
    model: Model,
    data: TrainingData,
    validation: Validation,
    spec: TrainingSpec,
    context: TrainingContext,
) -> Training:
    """Train, then restore the checkpoint that is best on validation; the base model is a candidate.

    Raises `Interrupted` after a stop signal, once a checkpoint is written, and `TrainingError`.
    """
    _check(spec, validation)
    workspace = context.workspace
    checkpoint = checkpoint_on_each_host(workspace.checkpoints)

    def resolve_once() -> Hyperparameters:
        delete_newer(workspace.checkpoints, checkpoint)
        # A resumed run keeps the values that its first start resolved.
        earlier = read_hyperparameters(workspace.hyperparameters) if checkpoint else None
        hyperparameters = earlier or resolve(spec, model, data.train, context.lora)
        if hyperparameters.spec.epochs != 0:
            hyperparameters.write(workspace.hyperparameters)
        return hyperparameters

    hyperparameters = from_rank_zero(resolve_once)
    if hyperparameters.spec.epochs == 0:
        return Training(model, 0, 0, 0, hyperparameters, validation.base, validation.base, [])
    inputs = prepare_training(model, data.train, validation, hyperparameters.spec, context)
    trainer = build_trainer(inputs, workspace, context.stop, context.on_checkpoint)
    outcome = fit(trainer, hyperparameters, checkpoint, context.stop)
    best, step = float(trainer.state.best_metric or 0.0), int(trainer.state.best_global_step or 0)
    if best <= validation.base:
        return outcome
    if step < outcome.steps:
        checkpoint = checkpoint_at(workspace.checkpoints, step)
        restore(inputs.model, checkpoint, inputs.adapter)
    rotation = inputs.rotation.facts() if inputs.rotation else None
    facts = merge_adapter(inputs, workspace)
    return replace(outcome, best_step=step, best_validation=best, lora=facts, rotation=rotation)


def prepare_training(
    model: Model,
    pairs: TrainingPairs,
    validation: Validation,
    spec: ResolvedTraining,
    context: TrainingContext,
) -> TrainingInputs:
    """Find the pairs' neighbors, mine negatives, add a rotation and an adapter, as values say."""
    neighbors = None
    if spec.mined_negatives or spec.hard_group_size > 1:
        neighbors = _nearest_neighbors(
            model, pairs, spec.negative_margin, validation.batch_size, context
        )
        pairs = add_negatives(pairs, neighbors, spec.mined_negatives)
    rotation = _rotate(model, pairs, validation, spec, context)
    model, adapter = prepare_model(model, spec, context.base)
    return TrainingInputs(model, pairs, validation, spec, neighbors, adapter, rotation=rotation)


def _rotate(
    model: Model,
    pairs: TrainingPairs,
    validation: Validation,
    spec: ResolvedTraining,
    context: TrainingContext,
) -> Rotation | None:
    is_auto = spec.rotate == "auto"
    # The base model's index would need other queries, and an adapter alone has no rotation.
    if spec.rotate == "off" or (is_auto and (context.keeps_index or spec.lora == "on")):
        return None
    path, vectors = context.workspace.rotation, context.corpus_vectors
    return rotate(model, pairs, validation, vectors, path, only_if_better=is_auto)


def prepare_model(model: Model, spec: ResolvedTraining, base: str) -> tuple[Model, Adapter | None]:
    """Add an adapter and checkpoint activations, if the hyperparameters say so."""
    adapter = Adapter(model, spec, base) if spec.lora == "on" else None
    if spec.gradient_checkpointing == "on":
        for transformer in transformers_of(model.encoder):
            if not transformer.supports_gradient_checkpointing:
                msg = (
                    "The model does not support `training.gradient_checkpointing`; set it to `off`."
                )
                raise SpecError(msg)
            transformer.activation_checkpointing_enable({"use_reentrant": False})
        # The backward pass computes activations again, with the attention of that moment.
        model = replace(model, attention=model.encoding_attention)
    return model, adapter


def merge_adapter(inputs: TrainingInputs, workspace: Workspace) -> dict[str, Any] | None:
    """Save the adapter, merge it, and return its facts; None without an adapter."""
    adapter, validation = inputs.adapter, inputs.validation
    if adapter is None:
        return None
    if is_rank_zero():
        adapter.save(workspace.adapter)
    return adapter.merge(validation.search.corpus, validation.batch_size)


def fit(
    trainer: PairTrainer,
    hyperparameters: Hyperparameters,
    checkpoint: Path | None,
    stop: StopSignal,
) -> Training:
    """Train to the end, resuming from a checkpoint if given; `best_step` is not set yet."""
    started = time.perf_counter()
    inputs = trainer.inputs
    with stop.deferred(), count_tokens(inputs.model.encoder) as tokens:
        trainer.run(checkpoint)
    seconds, state = time.perf_counter() - started, trainer.state
    if stop.requested:
        done = f"step {state.global_step} of {state.max_steps}"
        msg = f"The run was interrupted after {done}. Relaunch it to resume from there."
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
        mini_batch_size=batch_size_facts(
            inputs.requested_mini_batch_size, trainer.retries.mini_batch_size
        ),
        tokens=tokens,
        pairs=round(passes * len(inputs.pairs)),
        seconds=seconds,
    )


def _nearest_neighbors(
    model: Model, pairs: TrainingPairs, margin: float, batch_size: int, context: TrainingContext
) -> list[IntArray]:
    """Find each pair's nearest neighbors, or load those of an earlier start.

    They decide the order of the data, and rounding on another machine could change them.
    """
    path = context.workspace.nearest_neighbors
    cached = from_rank_zero(lambda: load_neighbors(path))
    if cached is not None:
        return cached
    found = find_nearest_neighbors(model, pairs, margin, batch_size, context.corpus_vectors)
    if is_rank_zero():
        save_neighbors(path, found)
    return from_rank_zero(lambda: found)


def _check(spec: TrainingSpec, validation: Validation) -> None:
    """Raise early on faults that the spec cannot check: dimensions and reporting integrations."""
    weights, dimensions = spec.dimension_weights, list(validation.dimensions.all)
    if weights and len(weights) != len(dimensions):
        msg = (
            f"`training.dimension_weights` has {len(weights)} values, but there are "
            f"{len(dimensions)} dimensions: {dimensions}. Give one weight per dimension, from "
            "large to small."
        )
        raise SpecError(msg)
    for name in spec.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            msg = f"`training.report_to` contains `{name}`, which is unknown. Choose from: {known}."
            raise SpecError(msg)
        if name not in get_available_reporting_integrations():  # type: ignore[no-untyped-call]
            msg = (
                f"`training.report_to` contains `{name}`, which is not installed. Install it, or "
                "remove it from the job file."
            )
            raise MachineError(msg)
