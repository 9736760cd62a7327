"""Resolve the `auto` values of the training section from data and model, each with a reason."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from job.core.errors import TrainingError
from job.core.memory import LoraChoice, choose_lora, read_size
from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.model.device import Machine
from job.model.encoder import Model, count_parameters, size_of
from job.model.parts import has_static_embeddings, transformers_of
from job.runtime.logs import tell
from job.spec.schema import ResolvedTraining, TrainingSpec
from job.storage.workspace import Workspace, write_atomically
from job.training.auto_values import STATIC_RATE, choose_for_pairs, learning_rate
from job.training.checkpoints import last_checkpoint
from job.training.memory import fit_memory


@dataclass(frozen=True)
class Hyperparameters:
    """The training section with every `auto` resolved, and the reason for each resolved value."""

    spec: ResolvedTraining
    reasons: dict[str, str]

    def facts(self) -> dict[str, Any]:
        return {
            field: {"value": getattr(self.spec, field), "reason": reason}
            for field, reason in self.reasons.items()
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            path, TypeAdapter(Hyperparameters).dump_json(self, indent=2).decode() + "\n"
        )


def read_hyperparameters(path: Path) -> Hyperparameters | None:
    """Read what an earlier start resolved: a resumed run keeps it, on any machine.

    Raises `TrainingError` if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Hyperparameters).validate_json(path.read_bytes())
    except ValueError:
        msg = (
            f"`{path}` is damaged, so the hyperparameters of the checkpoints in its folder are "
            "unknown. Delete that folder to train from the start."
        )
        raise TrainingError(msg) from None


def choose_before_loading(
    spec: TrainingSpec, folder: Path, machine: Machine, workspace: Workspace
) -> LoraChoice:
    """Resolve `training.lora` from the base model's files; a resumed run keeps its choice.

    It decides the type in which the weights are loaded.
    """
    for part in (workspace, *workspace.trainings()):
        earlier = None
        if last_checkpoint(part.checkpoints):
            earlier = read_hyperparameters(part.hyperparameters)
        if earlier:
            reason = earlier.reasons.get("lora", "set in the spec")
            return LoraChoice(earlier.spec.lora == "on", reason)
    return choose_lora(spec.lora, read_size(folder), machine.free_memory(), machine.precision)


def resolve(
    spec: TrainingSpec, model: Model, pairs: TrainingPairs, lora: LoraChoice | None = None
) -> Hyperparameters:
    """Choose a value for every `auto`; `lora` was chosen before the model was loaded.

    Of these, memory decides LoRA of large models, and mini-batch and checkpointing, which do not
    change the loss.
    """
    chosen, reasons = choose_for_pairs(spec, len(pairs))
    size, precision = size_of(model), model.machine.precision
    lora = lora or choose_lora(spec.lora, size, model.machine.free_memory(), precision)
    if spec.lora == "auto":
        chosen["lora"], reasons["lora"] = "on" if lora.on else "off", lora.reason
    if spec.learning_rate == "auto":
        is_static = has_static_embeddings(model.encoder) and not transformers_of(model.encoder)
        found = learning_rate(count_parameters(model), lora=lora.on)
        rate, reason = STATIC_RATE if is_static else found
        chosen["learning_rate"], reasons["learning_rate"] = rate, reason
    # Each rank trains on one shard of the batch.
    shard = math.ceil(chosen.get("batch_size", spec.batch_size) / process_group.world_size())
    fitted, why = fit_memory(spec, model, pairs, shard, lora)
    chosen |= fitted
    reasons |= why
    for field, reason in reasons.items():
        tell("hyperparameters", **{field: chosen[field], "reason": reason})
    return Hyperparameters(ResolvedTraining.model_validate(spec.model_dump() | chosen), reasons)
