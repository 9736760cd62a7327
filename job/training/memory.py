"""Fit a training into the memory: how many rows at once, and whether to checkpoint activations."""

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from job.core.memory import MIN_ROWS, SINGLE, LoraChoice, ModelSize, frozen_weight_bytes, model_size
from job.data.dataset import TrainingPairs
from job.model.encoder import Model, count_parameters
from job.model.parts import Role, max_tokens, token_counts, transformers_of
from job.spec.schema import TrainingSpec

# Texts whose tokens are counted to estimate the memory of a batch.
SAMPLE = 1_000
# Share of the free memory that a batch may use.
MEMORY_SHARE = 0.6
NO_SIZES = "the model's config does not state its layer sizes"


@dataclass(frozen=True)
class RowMemory:
    """The activation memory of one pair until the backward pass."""

    size: ModelSize
    # Tokens of the pair's question, positive and negatives.
    lengths: list[int]
    stores_scores: bool

    def bytes(self, *, checkpointing: bool) -> float:
        options = {"stores_scores": self.stores_scores, "checkpointing": checkpointing}
        return float(sum(self.size.text_bytes(n, **options) for n in self.lengths))


def fit_memory(
    spec: TrainingSpec, model: Model, pairs: TrainingPairs, batch: int, lora: LoraChoice
) -> tuple[dict[str, Any], dict[str, str]]:
    """Resolve mini-batch size and gradient checkpointing, with reasons; `batch` in pairs."""
    size = size_of(model)
    row = _row_memory(model, size, pairs, spec.mined_negatives) if size else None
    free = model.machine.free_memory() - (_bytes_to_come(spec, size, model, lora) if size else 0)
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    checkpointing = spec.gradient_checkpointing == "on"
    if spec.gradient_checkpointing == "auto":
        rows = min(MIN_ROWS, batch, _requested(spec) or batch)
        checkpointing, reason = _choose_checkpointing(model, row, rows, free)
        chosen["gradient_checkpointing"] = "on" if checkpointing else "off"
        reasons["gradient_checkpointing"] = reason
    if spec.mini_batch_size == "auto":
        needed = row.bytes(checkpointing=checkpointing) if row else None
        chosen["mini_batch_size"], reasons["mini_batch_size"] = mini_batch_size(batch, needed, free)
    return chosen, reasons


def size_of(model: Model) -> ModelSize | None:
    """Return the sizes that a model's config states."""
    transformer = transformer_of(model)
    config = getattr(transformer, "config", None)
    return model_size(config.to_dict(), count_parameters(model)) if config else None


def transformer_of(model: Model) -> Any:  # noqa: ANN401  transformers' models share no type
    """Return the model of transformers in an encoder; None if it has none or several."""
    found = transformers_of(model.encoder)
    return found[0] if len(found) == 1 else None


def _requested(spec: TrainingSpec) -> int | None:
    return spec.mini_batch_size if isinstance(spec.mini_batch_size, int) else None


def _bytes_to_come(spec: TrainingSpec, size: ModelSize, model: Model, lora: LoraChoice) -> int:
    """Return the memory of gradients, optimizer and copies, which training adds to the weights."""
    precision = model.machine.precision
    if lora.on:
        weights = size.parameters * frozen_weight_bytes(precision)
        return size.lora_bytes(spec.lora_rank, precision) - weights
    return size.full_bytes(precision) - size.parameters * SINGLE


def _choose_checkpointing(
    model: Model, row: RowMemory | None, rows: int, free: int
) -> tuple[bool, str]:
    if row is None:
        return False, NO_SIZES
    if rows * row.bytes(checkpointing=False) <= MEMORY_SHARE * free:
        return False, f"{rows} pairs fit in memory without it"
    if not getattr(transformer_of(model), "supports_gradient_checkpointing", False):
        return False, "the model does not support it"
    return True, f"{rows} pairs do not fit in memory without it"


def mini_batch_size(batch: int, row: float | None, free: int) -> tuple[int | None, str]:
    """Choose how many pairs to embed at once, with the reason; None if the whole batch fits.

    `row` are the bytes of a pair's activations, `free` the bytes of memory left for them.
    """
    if row is None:
        return None, NO_SIZES
    usable = max(row, MEMORY_SHARE * free)
    needed = f"a batch needs about {batch * row / 2**30:.1f} GiB"
    if batch * row <= usable:
        return None, f"{needed}, which fits in memory"
    return 2 ** math.floor(math.log2(usable / row)), f"{needed}, more than fits in memory"


def _row_memory(
    model: Model, size: ModelSize, pairs: TrainingPairs, mined_negatives: int
) -> RowMemory:
    given = max(map(len, pairs.table["negatives"][:SAMPLE].to_pylist()), default=0)
    question = _long_text(model, pairs.table["anchor"], "query")
    document = _long_text(model, pairs.table["positive"], "document")
    lengths = [question, *[document] * (1 + given + mined_negatives)]
    return RowMemory(size, lengths, model.training_attention == "eager")


def _long_text(model: Model, column: pa.ChunkedArray, role: Role) -> int:
    """Return the 90th percentile of token counts: long texts decide a batch's memory."""
    counts = token_counts(model.encoder, column[:SAMPLE].to_pylist(), role)
    return int(min(sorted(counts)[int(0.9 * (len(counts) - 1))], max_tokens(model.encoder, role)))
