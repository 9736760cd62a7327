"""How many tokens a training reads, and how much padding it computes beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer


@contextmanager
def count_tokens(encoder: SentenceTransformer) -> Iterator[dict[str, Any]]:
    """Count the tokens that a model is trained on within the block: what it yields holds them then.

    Passes that memory is saved by repeating count too.
    """
    facts: dict[str, Any] = {}
    positions = 0
    # A tensor once passes came: to read it after each would keep a GPU waiting.
    tokens: torch.Tensor | int = 0

    def count(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal positions, tokens
        mask = given[0].get("attention_mask")
        if module.training and mask is not None:
            tokens = tokens + mask.sum()
            positions += mask.numel()

    hook = encoder[0].register_forward_pre_hook(count)
    try:
        yield facts
    finally:
        hook.remove()
    facts["read"] = int(tokens)
    facts["padding_share"] = round(1 - int(tokens) / positions, 4) if positions else None


def sorted_by_length(features: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Sort a column's rows, the longest first; the order, (n,), puts them back.

    Mini-batches of neighbours then are hardly padded.
    """
    order = features["attention_mask"].sum(dim=1).argsort(descending=True, stable=True)
    moved = {
        name: value[order]
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(order)
        else value
        for name, value in features.items()
    }
    return moved, order.argsort()
