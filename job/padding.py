"""How many tokens a training reads, and how much padding it computes beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer


class TokenCount:
    """Tokens and places of all passes so far; those that memory is saved by repeating count."""

    def __init__(self) -> None:
        # A tensor once passes came: to read it after each would keep a GPU waiting.
        self._tokens: torch.Tensor | int = 0
        self._places = 0

    def see(self, module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        """Count a pass that trains; hung into a model's first module."""
        mask = given[0].get("attention_mask")
        if module.training and mask is not None:
            self._tokens = self._tokens + mask.sum()
            self._places += mask.numel()

    def facts(self) -> dict[str, Any]:
        tokens = int(self._tokens)
        return {
            "read": tokens,
            "padding_share": round(1 - tokens / self._places, 4) if self._places else None,
        }


@contextmanager
def counted(encoder: SentenceTransformer) -> Iterator[TokenCount]:
    """Count the tokens that a model is trained on within the block."""
    count = TokenCount()
    hook = encoder[0].register_forward_pre_hook(count.see)
    try:
        yield count
    finally:
        hook.remove()


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
