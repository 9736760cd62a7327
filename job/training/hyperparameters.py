"""Resolve the `auto` values of the training section from data and model, each with a reason."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from job.core.errors import TrainingError
from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.model.encoder import Model, count_parameters
from job.model.parts import Role, max_tokens, token_counts, transformers_of
from job.runtime.logs import tell
from job.spec.schema import ResolvedTraining, TrainingSpec
from job.storage.workspace import write_atomically
from job.training.auto_values import STATIC_RATE, choose_for_pairs, learning_rate

# Texts whose tokens are counted to estimate the memory of a batch.
SAMPLE = 1_000
# Share of the free memory that a batch may use.
MEMORY_SHARE = 0.6


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


def resolve(spec: TrainingSpec, model: Model, pairs: TrainingPairs) -> Hyperparameters:
    """Choose a value for every `auto`.

    Memory decides the mini-batch size only, which does not change the loss.
    """
    chosen, reasons = choose_for_pairs(spec, len(pairs))
    if spec.learning_rate == "auto":
        is_static = not transformers_of(model.encoder)
        rate, reason = STATIC_RATE if is_static else learning_rate(count_parameters(model))
        chosen["learning_rate"], reasons["learning_rate"] = rate, reason
    if spec.mini_batch_size == "auto":
        # Each rank trains on one shard of the batch.
        batch = chosen.get("batch_size", spec.batch_size)
        shard = math.ceil(batch / process_group.world_size())
        rows, reason = mini_batch_size(shard, model, pairs, spec.mined_negatives)
        chosen["mini_batch_size"], reasons["mini_batch_size"] = rows, reason
    for field, reason in reasons.items():
        tell("hyperparameters", **{field: chosen[field], "reason": reason})
    return Hyperparameters(ResolvedTraining.model_validate(spec.model_dump() | chosen), reasons)


def mini_batch_size(
    batch: int, model: Model, pairs: TrainingPairs, mined_negatives: int
) -> tuple[int | None, str]:
    """Choose how many rows to embed at once, with the reason; None if the whole batch fits."""
    row = _bytes_per_row(model, pairs, mined_negatives)
    if row is None:
        return None, "the model's config does not state its layer sizes"
    free = max(row, MEMORY_SHARE * model.machine.free_memory())
    needed = f"a batch needs about {batch * row / 2**30:.1f} GiB"
    if batch * row <= free:
        return None, f"{needed}, which fits in memory"
    return 2 ** math.floor(math.log2(free / row)), f"{needed}, more than fits in memory"


def _bytes_per_row(model: Model, pairs: TrainingPairs, mined_negatives: int) -> float | None:
    """Estimate the activation memory of one pair until the backward pass.

    Per layer and token: 34 bytes per hidden unit, plus 5 bytes per head and other token if the
    attention stores its scores (Korthikanti et al. 2022, equation 2). Doubled, because autocast
    keeps some activations in float32.
    """
    config: Any = getattr(getattr(model.encoder[0], "model", None), "config", None)
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    if not all(hasattr(config, name) for name in names):
        return None
    layers, heads, width = (getattr(config, name) for name in names)
    scores = 5 * heads if model.training_attention == "eager" else 0
    given = max(map(len, pairs.table["negatives"][:SAMPLE].to_pylist()), default=0)
    question = _long_text(model, pairs.table["anchor"], "query")
    document = _long_text(model, pairs.table["positive"], "document")
    lengths = [question, *[document] * (1 + given + mined_negatives)]
    return float(sum(2 * layers * n * (34 * width + scores * n) for n in lengths))


def _long_text(model: Model, column: pa.ChunkedArray, role: Role) -> int:
    """Return the 90th percentile of token counts: long texts decide a batch's memory."""
    counts = token_counts(model.encoder, column[:SAMPLE].to_pylist(), role)
    return int(min(sorted(counts)[int(0.9 * (len(counts) - 1))], max_tokens(model.encoder, role)))
