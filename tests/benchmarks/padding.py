"""Measure how much sorting texts by length, or leaving out padding, saves in a training step.

    python tests/benchmarks/padding.py

First, the passes of a step and their padding are counted for each device, without computing them.
Then the same batches go through the library's loss and ours in turns, forward and backward, as
whole batches and in cached mini-batches. Tokens and the positions computed for them are counted;
`--steps 0` leaves this part out.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from job.data.dataset import load_dataset
from job.evaluation.evaluate import choose_dimensions
from job.model.device import PACKED_COSTS, PASS_COSTS, choose_machine
from job.model.encoder import load_model
from job.model.features import Passes
from job.model.packing import PACKED
from job.spec.parse import build_spec
from job.spec.schema import ResolvedTraining
from job.training.loss import matryoshka_loss

# Batches whose passes are counted.
COUNTED = 20


@dataclass
class Side:
    description: str
    loss: Any
    tokens: int = 0
    # Tokens and padding.
    positions: int = 0
    seconds: list[float] = field(default_factory=list)

    def count(self, _module, inputs):
        mask = inputs[0]["attention_mask"]
        self.tokens += int(mask.sum())
        self.positions += positions_of(inputs[0])


def positions_of(features):
    """Count the positions that a pass computes."""
    mask = features["attention_mask"]
    return int(mask.sum()) if features.get(PACKED) else mask.numel()


def batches_of(model, pairs, size, count):
    """Draw tokenized batches of both columns, like the trainer's collator, with row numbers."""
    order = np.random.default_rng(0).permutation(len(pairs))
    for start in range(0, size * count, size):
        rows = order[start : start + size]
        columns = [
            model.encoder.preprocess(pairs.table[name].take(rows).to_pylist())
            for name in ("anchor", "positive")
        ]
        yield columns, torch.tensor(rows)


def count_passes(model, batches):
    """Print passes, tokens and padding of a step as each device divides it."""
    print("| device | passes/step | most | tokens/step | positions/step | positions ÷ tokens |")
    print("|---|---|---|---|---|---|")
    packed = {f"{name}, packed": cost for name, cost in PACKED_COSTS.items()}
    for device, cost in [("one pass per column", None), *PASS_COSTS.items(), *packed.items()]:
        passes = [Passes(columns, model.encoder, cost).features for columns, _ in batches]
        features = [each for batch in passes for each in batch]
        tokens = sum(int(each["attention_mask"].sum()) for each in features)
        positions = sum(map(positions_of, features))
        counts = list(map(len, passes))
        print(
            f"| {device} | {sum(counts) / len(batches):.1f} | {max(counts)} "
            f"| {tokens / len(batches):,.0f} | {positions / len(batches):,.0f} "
            f"| {positions / tokens:.3f} |"
        )
    print()


def step(model, side, columns, labels):
    """Compute the gradients of one step, and count its tokens and positions."""
    copied = [
        {key: value.clone() if hasattr(value, "clone") else value for key, value in column.items()}
        for column in columns
    ]
    hook = model.encoder[0].register_forward_pre_hook(side.count)
    started = time.perf_counter()
    with model.machine.autocast():
        loss = side.loss(copied, labels)
    loss.backward()
    if model.machine.device == "cuda":
        torch.cuda.synchronize()
    side.seconds.append(time.perf_counter() - started)
    hook.remove()
    model.encoder.zero_grad()


def sides_of(model, pairs, dimensions, mini):
    """Make the compared losses, by name."""

    def ours(mini_batch_size, model=model):
        given = {"batch_size": 128, "epochs": 1, "learning_rate": 1e-4}
        spec = ResolvedTraining.model_validate(given | {"mini_batch_size": mini_batch_size})
        return matryoshka_loss(model, pairs, dimensions, spec)

    def library(loss):
        return MatryoshkaLoss(model.encoder, loss, list(dimensions))

    padded = replace(model, packs=False)
    whole = MultipleNegativesRankingLoss(model.encoder)
    cached = CachedMultipleNegativesRankingLoss(model.encoder, mini_batch_size=mini)
    return {
        "library": Side("one pass per column, padded to its longest text", library(whole)),
        "ours": Side("no padding" if model.packs else "rows of similar length", ours(None)),
        "ours, padded": Side(
            "the same with padding, as in other number formats", ours(None, padded)
        ),
        "library, cached": Side("mini-batches in row order", library(cached)),
        "ours, cached": Side("mini-batches of such rows", ours(mini)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--mini", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()

    spec = build_spec({}, {"data.source": options.data, "model.base": options.model})
    pairs = load_dataset(spec.data, {}).train
    model = load_model(spec.model, choose_machine(options.device, "auto"))
    model.encoder.train()
    dimensions = choose_dimensions(spec.evaluation, model.width).all
    count_passes(model, list(batches_of(model, pairs, options.batch, COUNTED)))
    if not options.steps:
        return
    sides = sides_of(model, pairs, dimensions, options.mini)
    for side in sides.values():
        side.loss.to(model.encoder.device)
    for columns, labels in batches_of(model, pairs, options.batch, options.steps):
        for side in sides.values():
            step(model, side, columns, labels)
    print("| loss | method | tokens/step | positions/step | padding | seconds/step | speed |")
    print("|---|---|---|---|---|---|---|")
    for name, side in sides.items():
        # Speed is relative to the library's counterpart. The first step compiles, so skip it.
        library = sides["library, cached" if "cached" in name else "library"]
        seconds, reference = median(side.seconds[1:]), median(library.seconds[1:])
        print(
            f"| {name} | {side.description} | {side.tokens / options.steps:,.0f} "
            f"| {side.positions / options.steps:,.0f} | {1 - side.tokens / side.positions:.1%} "
            f"| {seconds:.2f} | {reference / seconds:.2f} |"
        )


if __name__ == "__main__":
    main()
