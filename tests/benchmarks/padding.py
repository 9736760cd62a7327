"""What grouping texts by length saves in a training step: `python tests/benchmarks/padding.py`.

The same batches go through the library's loss and ours in turns, whole and in cached mini-batches,
forwards and backwards; counted are the tokens that were read, and the places computed for them.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
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
from job.model.device import choose_machine
from job.model.encoder import load_model
from job.spec.parse import build_spec
from job.spec.schema import ResolvedTraining
from job.training.loss import matryoshka_loss


@dataclass
class Side:
    what: str
    loss: Any
    tokens: int = 0
    places: int = 0
    seconds: list[float] = field(default_factory=list)

    def see(self, _module, given):
        mask = given[0]["attention_mask"]
        self.tokens += int(mask.sum())
        self.places += mask.numel()


def batches_of(model, pairs, size, count):
    """Draw batches of both columns, as the trainer's collator makes them, with row numbers."""
    order = np.random.default_rng(0).permutation(len(pairs))
    for start in range(0, size * count, size):
        rows = order[start : start + size]
        columns = [
            model.encoder.preprocess(pairs.table[name].take(rows).to_pylist())
            for name in ("anchor", "positive")
        ]
        yield columns, torch.tensor(rows)


def step(model, side, columns, labels):
    """Take one step's gradients, and count what it computes."""
    copied = [
        {key: value.clone() if hasattr(value, "clone") else value for key, value in column.items()}
        for column in columns
    ]
    hook = model.encoder[0].register_forward_pre_hook(side.see)
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
    """Make the losses by name."""

    def ours(mini_batch_size):
        given = {"batch_size": 128, "epochs": 1, "learning_rate": 1e-4}
        spec = ResolvedTraining.model_validate(given | {"mini_batch_size": mini_batch_size})
        return matryoshka_loss(model, pairs, dimensions, spec)

    def library(loss):
        return MatryoshkaLoss(model.encoder, loss, list(dimensions))

    whole = MultipleNegativesRankingLoss(model.encoder)
    cached = CachedMultipleNegativesRankingLoss(model.encoder, mini_batch_size=mini)
    return {
        "library": Side("one pass for each column, padded to its longest text", library(whole)),
        "ours": Side("passes of rows of similar length", ours(None)),
        "library, cached": Side("mini-batches as the rows come", library(cached)),
        "ours, cached": Side("mini-batches of rows of similar length", ours(mini)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--mini", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()

    spec = build_spec({}, {"data.source": given.data, "model.base": given.model})
    pairs = load_dataset(spec.data, {}).train
    model = load_model(spec.model, choose_machine(given.device, "auto"))
    model.encoder.train()
    sides = sides_of(model, pairs, choose_dimensions(spec.evaluation, model.width).all, given.mini)
    for side in sides.values():
        side.loss.to(model.encoder.device)
    for columns, labels in batches_of(model, pairs, given.batch, given.steps):
        for side in sides.values():
            step(model, side, columns, labels)
    print("| loss | what | tokens a step | places a step | padding | seconds a step | speed |")
    print("|---|---|---|---|---|---|---|")
    for name, side in sides.items():
        # Against the library's of its kind; the first step compiles.
        rival = sides[name.replace("ours", "library")]
        took, other = median(side.seconds[1:]), median(rival.seconds[1:])
        print(
            f"| {name} | {side.what} | {side.tokens / given.steps:,.0f} "
            f"| {side.places / given.steps:,.0f} | {1 - side.tokens / side.places:.1%} "
            f"| {took:.2f} | {other / took:.2f} |"
        )


if __name__ == "__main__":
    main()
