"""Fit a training into the memory: how many rows at once, and whether to checkpoint activations."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from job.core.memory import (
    MIN_ROWS,
    SINGLE,
    LoraChoice,
    ModelSize,
    frozen_weight_bytes,
    usable_bytes,
)
from job.data.dataset import TrainingPairs
from job.model.encoder import Model, size_of, transformer_of
from job.model.parts import Role, max_tokens, token_counts
from job.model.passes import Cut, IntArray, PassCost, cut
from job.spec.schema import TrainingSpec

# Texts whose tokens are counted to estimate the memory of a batch.
SAMPLE = 1_000
# Batches of them that are divided into passes.
BATCHES = 8
NO_SIZES = "the model's config does not state its layer sizes"


@dataclass(frozen=True)
class BatchMemory:
    """The activation memory of batches until the backward pass."""

    size: ModelSize
    # Tokens of a sample of pairs: question, positive, negatives.
    lengths: IntArray
    # None: each column is one pass.
    cost: PassCost | None
    precision: str
    stores_scores: bool

    def bytes(self, pairs: int, *, checkpointing: bool) -> float:
        """Return the bytes of the largest of some batches, padded as it will be computed."""
        return max(
            sum(self._pass_bytes(each, checkpointing=checkpointing) for each in cuts)
            for cuts in self._batches(pairs)
        )

    def pass_bytes(self, pairs: int, rows: int, *, checkpointing: bool) -> float:
        """Return the bytes of the largest pass, if none has more than `rows` texts."""
        return max(
            self._pass_bytes(each, checkpointing=checkpointing)
            for cuts in self._batches(pairs, rows)
            for each in cuts
        )

    def _pass_bytes(self, part: Cut, *, checkpointing: bool) -> float:
        text = self.size.text_bytes(
            part.width,
            precision=self.precision,
            stores_scores=self.stores_scores,
            checkpointing=checkpointing,
        )
        return (part.stop - part.start) * text

    def _batches(self, pairs: int, rows: int | None = None) -> list[list[Cut]]:
        draw = np.random.default_rng(0)
        drawn = draw.integers(len(self.lengths), size=(BATCHES, pairs))
        return [self._cut(self.lengths[numbers], rows) for numbers in drawn]

    def _cut(self, lengths: IntArray, rows: int | None) -> list[Cut]:
        if self.cost:
            return cut(-np.sort(-lengths.ravel()), self.cost, rows)
        columns = [np.full(len(column), column.max()) for column in lengths.T]
        return [each for column in columns for each in cut(column, PassCost(0, 1), rows)]


def fit_memory(
    spec: TrainingSpec, model: Model, pairs: TrainingPairs, batch: int, lora: LoraChoice
) -> tuple[dict[str, Any], dict[str, str]]:
    """Resolve mini-batch size and gradient checkpointing, with reasons; `batch` in pairs."""
    size = size_of(model)
    memory = _batch_memory(model, size, pairs, spec.mined_negatives) if size else None
    to_come = _bytes_to_come(spec, size, model, lora) if size else 0
    usable = usable_bytes(model.machine.device, model.machine.free_memory(), to_come)
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    checkpointing = spec.gradient_checkpointing == "on"
    if spec.gradient_checkpointing == "auto":
        rows = min(MIN_ROWS, batch, _requested(spec) or batch)
        checkpointing, reason = _choose_checkpointing(model, memory, rows, usable)
        chosen["gradient_checkpointing"] = "on" if checkpointing else "off"
        reasons["gradient_checkpointing"] = reason
    if spec.mini_batch_size == "auto":
        chosen["mini_batch_size"], reasons["mini_batch_size"] = _mini_batch_size(
            batch, memory, usable, checkpointing=checkpointing
        )
    return chosen, reasons


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
    model: Model, memory: BatchMemory | None, rows: int, usable: float
) -> tuple[bool, str]:
    if memory is None:
        return False, NO_SIZES
    if memory.bytes(rows, checkpointing=False) <= usable:
        return False, f"{rows} pairs fit in memory without it"
    if not getattr(transformer_of(model), "supports_gradient_checkpointing", False):
        return False, "the model does not support it"
    return True, f"{rows} pairs do not fit in memory without it"


def _mini_batch_size(
    batch: int, memory: BatchMemory | None, usable: float, *, checkpointing: bool
) -> tuple[int | None, str]:
    """Choose how many texts to embed at once, with the reason; None if the whole batch fits."""
    if memory is None:
        return None, NO_SIZES
    whole = memory.bytes(batch, checkpointing=checkpointing)
    needed = f"a batch needs about {whole / 2**30:.1f} GiB"
    if whole <= usable:
        return None, f"{needed}, which fits in memory"
    rows = 2 ** math.ceil(math.log2(batch) - 1)
    while rows > 1 and memory.pass_bytes(batch, rows, checkpointing=checkpointing) > usable:
        rows //= 2
    return max(1, rows), f"{needed}, more than fits in memory"


def _batch_memory(
    model: Model, size: ModelSize, pairs: TrainingPairs, mined_negatives: int
) -> BatchMemory:
    given = max(map(len, pairs.table["negatives"][:SAMPLE].to_pylist()), default=0)
    questions = _lengths(model, pairs.table["anchor"], "query")
    documents = _lengths(model, pairs.table["positive"], "document")
    # Negatives are as long as other rows' positives.
    columns = [np.roll(documents, number) for number in range(1 + given + mined_negatives)]
    lengths = np.column_stack([questions, *columns])
    machine = model.machine
    stores_scores = model.training_attention == "eager"
    return BatchMemory(size, lengths, machine.pass_cost, machine.precision, stores_scores)


def _lengths(model: Model, column: pa.ChunkedArray, role: Role) -> IntArray:
    """Return the tokens of the first texts, as they are truncated."""
    counts = token_counts(model.encoder, column[:SAMPLE].to_pylist(), role)
    return np.minimum(counts, max_tokens(model.encoder, role)).astype(np.int64)
