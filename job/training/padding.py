"""Count a training's tokens and padding, and sort rows by length to reduce padding."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer


@contextmanager
def count_tokens(encoder: SentenceTransformer) -> Iterator[dict[str, Any]]:
    """Count the tokens that a model is trained on within the block.

    The yielded dict is filled at the end of the block. Forward passes that are repeated to save
    memory are counted again.
    """
    facts: dict[str, Any] = {}
    positions = 0
    # A tensor after the first pass: reading it at each pass would make the GPU wait.
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
    """Sort a column's rows by length, descending; the returned order, (n,), restores them.

    Mini-batches of rows with similar lengths have hardly any padding.
    """
    order = features["attention_mask"].sum(dim=1).argsort(descending=True, stable=True)
    reordered = {
        name: value[order]
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(order)
        else value
        for name, value in features.items()
    }
    return reordered, order.argsort()
