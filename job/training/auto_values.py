"""The `auto` values that do not depend on the machine, each with a reason. Needs no torch."""

import math
from typing import Any

from job.spec.schema import TrainingSpec

# With fewer updates a model hardly changes; with more epochs it memorizes rows.
MIN_UPDATES, MIN_EPOCHS, MAX_EPOCHS = 50, 3, 10
# A larger batch makes the task harder; with fewer steps per epoch than this, half of it is better.
DEFAULT_BATCH_SIZE, MIN_STEPS_PER_EPOCH = 128, 6
# The rate of sentence-transformers' own static models; a tenth of it moves nothing (job/LOG.md).
STATIC_RATE = (0.2, "static embeddings: each token's vector is trained by its own texts only")

# An adapter starts at zero and needs a higher rate than weights that are trained already.
LORA_RATE = 10


def choose_for_pairs(spec: TrainingSpec, pairs: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Choose the fields that depend only on the number of pairs; return values and reasons."""
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    batch = spec.batch_size
    if batch == "auto":
        batch = chosen["batch_size"] = batch_size(pairs)
        reasons["batch_size"] = f"{pairs} pairs fill {pairs // batch} batches per epoch"
    if spec.epochs == "auto":
        n_epochs = chosen["epochs"] = epochs(pairs, batch)
        reasons["epochs"] = f"about {math.ceil(pairs / batch) * n_epochs} updates"
    return chosen, reasons


def batch_size(pairs: int) -> int:
    """Halve the default batch size while an epoch has too few steps; at least 16."""
    size = DEFAULT_BATCH_SIZE
    while size > 16 and pairs < MIN_STEPS_PER_EPOCH * size:
        size //= 2
    return size


def epochs(pairs: int, batch: int) -> int:
    needed = math.ceil(MIN_UPDATES / math.ceil(pairs / batch))
    return min(max(needed, MIN_EPOCHS), MAX_EPOCHS)


def learning_rate(count: int, *, lora: bool = False) -> tuple[float, str]:
    """Choose by the number of parameters, with the reason.

    Small models tolerate higher rates, and need them if steps are few. The rate of the smallest
    models was measured with MiniLM (22 M parameters, job/LOG.md); the others are usual values.
    """
    rates = ((50e6, 1e-4), (200e6, 5e-5), (math.inf, 2e-5))
    rate, reason = next(rate for size, rate in rates if count <= size), f"{count:,} parameters"
    return (
        (LORA_RATE * rate, f"{reason}, {LORA_RATE} times as high for an adapter")
        if lora
        else (rate, reason)
    )
