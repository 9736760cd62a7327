"""Tokenize batches with the lengths of their texts, and count a training's tokens."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from job.model.features import text_lengths
from job.model.packing import PACKED


class LengthCollator(SentenceTransformerDataCollator):
    """Tokenize a batch, and add the tokens of each text, where they are known without a GPU."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().__call__(features)
        for name in [name for name in batch if name.endswith("_attention_mask")]:
            batch[name.removesuffix("attention_mask") + "lengths"] = text_lengths(batch[name])
        return batch


@contextmanager
def count_tokens(encoder: SentenceTransformer) -> Iterator[dict[str, Any]]:
    """Count the tokens that a model is trained on within the block.

    The yielded dict is filled at the end of the block. Forward passes that are repeated to save
    memory are counted again.
    """
    facts: dict[str, Any] = {}
    # Tensors after the first pass: reading them at each pass would make the GPU wait.
    tokens: torch.Tensor | int = 0
    positions: torch.Tensor | int = 0

    def count(module: torch.nn.Module, given: tuple[Mapping[str, Any], ...]) -> None:
        nonlocal positions, tokens
        mask = given[0].get("attention_mask")
        if module.training and mask is not None:
            read = mask.sum()
            tokens = tokens + read
            positions = positions + (read if given[0].get(PACKED) else mask.numel())

    hook = encoder[0].register_forward_pre_hook(count)
    try:
        yield facts
    finally:
        hook.remove()
    facts["read"] = int(tokens)
    facts["padding_share"] = round(1 - int(tokens) / int(positions), 4) if positions else None
