"""`auto` in the training's section: resolved from the data and the model, each with its reason."""

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
from job.runtime.logs import tell
from job.spec.schema import ResolvedTraining, TrainingSpec
from job.storage.workspace import write_atomically

# Below so many updates a model has hardly moved; above so many epochs it learns rows by heart.
UPDATES_WANTED, EPOCHS_AT_LEAST, EPOCHS_AT_MOST = 50, 3, 10
# The batch is the difficulty of the task; with fewer updates an epoch than this, half is better.
BATCH, STEPS_WANTED = 128, 6
# Texts whose tokens are counted to know how much memory a batch needs.
SAMPLE = 1_000
# Share of the free memory that a batch may take.
MEMORY_SHARE = 0.6


@dataclass(frozen=True)
class Hyperparameters:
    """The training's section without any `auto`, and why each such field has its value."""

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
    """Read what an interrupted run resolved: it goes on with that, on whatever machine."""
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Hyperparameters).validate_json(path.read_bytes())
    except ValueError:
        msg = (
            f"`{path}` is damaged, so nobody knows how the checkpoints beside it were trained; "
            "delete that folder to train anew."
        )
        raise TrainingError(msg) from None


def resolve(spec: TrainingSpec, model: Model, pairs: TrainingPairs) -> Hyperparameters:
    """Give every `auto` its value; the memory decides the mini-batch only, never the loss."""
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    batch, passes = spec.batch_size, spec.epochs
    if batch == "auto":
        batch = chosen["batch_size"] = batch_size(len(pairs))
        reasons["batch_size"] = f"{len(pairs)} pairs are {len(pairs) // batch} such batches"
    if passes == "auto":
        passes = chosen["epochs"] = epochs(len(pairs), batch)
        reasons["epochs"] = f"about {math.ceil(len(pairs) / batch) * passes} updates"
    if spec.learning_rate == "auto":
        chosen["learning_rate"], reasons["learning_rate"] = learning_rate(count_parameters(model))
    if spec.mini_batch_size == "auto":
        # Each process has its share of the batch.
        share = math.ceil(batch / process_group.world_size())
        rows, reason = mini_batch_size(share, model, pairs, spec.mined_negatives)
        chosen["mini_batch_size"], reasons["mini_batch_size"] = rows, reason
    for field, reason in reasons.items():
        tell("hyperparameters", **{field: chosen[field], "reason": reason})
    return Hyperparameters(ResolvedTraining.model_validate(spec.model_dump() | chosen), reasons)


def batch_size(pairs: int) -> int:
    """Halve the usual batch while it leaves too few updates an epoch."""
    size = BATCH
    while size > 16 and pairs < STEPS_WANTED * size:
        size //= 2
    return size


def epochs(pairs: int, batch: int) -> int:
    wanted = math.ceil(UPDATES_WANTED / math.ceil(pairs / batch))
    return min(max(wanted, EPOCHS_AT_LEAST), EPOCHS_AT_MOST)


def learning_rate(count: int) -> tuple[float, str]:
    """Choose by the number of parameters: small models bear, and in few steps need, more.

    Measured for MiniLM (22 M, job/LOG.md); the others are the usual rates of their sizes.
    """
    rates = ((50e6, 1e-4), (200e6, 5e-5), (math.inf, 2e-5))
    return next(rate for size, rate in rates if count <= size), f"{count:,} parameters"


def mini_batch_size(
    batch: int, model: Model, pairs: TrainingPairs, mined_negatives: int
) -> tuple[int | None, str]:
    """Choose how many rows to embed at once; None where the memory takes the whole batch."""
    row = _bytes_of_a_row(model, pairs, mined_negatives)
    if row is None:
        return None, "the model does not say how large its layers are"
    free = max(row, MEMORY_SHARE * model.machine.free_memory())
    needed = f"a batch needs about {batch * row / 2**30:.1f} GiB"
    if batch * row <= free:
        return None, f"{needed}, which is free"
    return 2 ** math.floor(math.log2(free / row)), f"{needed}, more than is free"


def _bytes_of_a_row(model: Model, pairs: TrainingPairs, mined_negatives: int) -> float | None:
    """Estimate the activations that one pair keeps until the backward pass.

    Per layer and token 34 bytes a unit of width, and for attention that keeps its scores 5 bytes
    a head and other token (Korthikanti et al. 2022, equation 2); twice that for what autocast
    keeps in float32.
    """
    config: Any = getattr(getattr(model.encoder[0], "model", None), "config", None)
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    if not all(hasattr(config, name) for name in names):
        return None
    layers, heads, width = (getattr(config, name) for name in names)
    scores = 5 * heads if model.machine.training_attention == "eager" else 0
    given = max(map(len, pairs.table["negatives"][:SAMPLE].to_pylist()), default=0)
    question = _long_text(model, pairs.table["anchor"])
    document = _long_text(model, pairs.table["positive"])
    lengths = [question, *[document] * (1 + given + mined_negatives)]
    return float(sum(2 * layers * n * (34 * width + scores * n) for n in lengths))


def _long_text(model: Model, column: pa.ChunkedArray) -> int:
    """Count the tokens of a long text (nine of ten are shorter): those fill a batch's memory."""
    encoder = model.encoder
    tokens = encoder.tokenizer(
        column[:SAMPLE].to_pylist(), truncation=True, max_length=encoder.max_seq_length
    )["input_ids"]
    return sorted(map(len, tokens))[int(0.9 * (len(tokens) - 1))]
