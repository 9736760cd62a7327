"""What grouping texts by length saves in a training step: `python tests/benchmarks/padding.py`.

The same batches go through the library's loss and ours in turns, whole and in cached mini-batches,
forwards and backwards; counted are the tokens that were read, and the places computed for them.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

SIDES = {
    "library": "one pass for each column, padded to its longest text",
    "ours": "passes of rows of similar length",
    "library, cached": "mini-batches as the rows come",
    "ours, cached": "mini-batches of rows of similar length",
}


@dataclass
class Side:
    loss: Any
    tokens: int = 0
    places: int = 0
    seconds: list[float] = field(default_factory=list)

    def see(self, _module: object, given: tuple[Any, ...]) -> None:
        mask = given[0]["attention_mask"]
        self.tokens += int(mask.sum())
        self.places += mask.numel()


def batches_of(model: Any, pairs: Any, size: int, count: int) -> Iterator[tuple[Any, Any]]:
    """Draw batches of both columns, as the trainer's collator makes them, with row numbers."""
    import numpy as np
    import torch

    order = np.random.default_rng(0).permutation(len(pairs))
    for start in range(0, size * count, size):
        rows = order[start : start + size]
        columns = [
            model.encoder.preprocess(pairs.table[name].take(rows).to_pylist())
            for name in ("anchor", "positive")
        ]
        yield columns, torch.tensor(rows)


def step(model: Any, side: Side, columns: Any, labels: Any) -> None:
    """Take one step's gradients, and count what it computes."""
    from job.machine import Machine

    machine: Machine = model.machine
    copied = [
        {key: value.clone() if hasattr(value, "clone") else value for key, value in column.items()}
        for column in columns
    ]
    hook = model.encoder[0].register_forward_pre_hook(side.see)
    started = time.perf_counter()
    with machine.autocast():
        loss = side.loss(copied, labels)
    loss.backward()
    if machine.device == "cuda":
        import torch

        torch.cuda.synchronize()
    side.seconds.append(time.perf_counter() - started)
    hook.remove()
    model.encoder.zero_grad()


def sides_of(model: Any, pairs: Any, dimensions: tuple[int, ...], mini: int) -> dict[str, Side]:
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

    from job.losses import matryoshka_loss
    from job.spec import ResolvedTraining

    def ours(mini_batch_size: int | None) -> Any:
        given = {"batch_size": 128, "epochs": 1, "learning_rate": 1e-4}
        spec = ResolvedTraining.model_validate(given | {"mini_batch_size": mini_batch_size})
        return matryoshka_loss(model, pairs, dimensions, spec)

    def library(make: Callable[..., Any], **options: int) -> Any:
        return MatryoshkaLoss(model.encoder, make(model.encoder, **options), list(dimensions))

    return {
        "library": Side(library(MultipleNegativesRankingLoss)),
        "ours": Side(ours(None)),
        "library, cached": Side(library(CachedMultipleNegativesRankingLoss, mini_batch_size=mini)),
        "ours, cached": Side(ours(mini)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", default="builtin:aws-docs")
    options.add_argument("--model", default="builtin:minilm")
    options.add_argument("--device", default="auto")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--mini", type=int, default=16)
    options.add_argument("--steps", type=int, default=8)
    given = options.parse_args()
    from job.data import load_dataset
    from job.evaluate import choose_dimensions
    from job.machine import choose_machine
    from job.model import load_model
    from job.spec_document import build_spec

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
    report(sides, given.steps)


def report(sides: dict[str, Side], steps: int) -> None:
    from statistics import median

    print("| loss | what | tokens a step | places a step | padding | seconds a step | speed |")
    print("|---|---|---|---|---|---|---|")
    for name, side in sides.items():
        # Against the library's of its kind; the first step compiles.
        rival = sides["library, cached" if "cached" in name else "library"]
        took, other = median(side.seconds[1:]), median(rival.seconds[1:])
        share = 1 - side.tokens / side.places
        print(
            f"| {name} | {SIDES[name]} | {side.tokens / steps:,.0f} | {side.places / steps:,.0f} "
            f"| {share:.1%} | {took:.2f} | {other / took:.2f} |"
        )


if __name__ == "__main__":
    main()
