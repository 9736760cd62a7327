"""Embed texts: the same way for base and tuned model, in training and in the final check."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from job.core.memory import usable_bytes
from job.model.device import PASS_COSTS
from job.model.encoder import Model, size_of
from job.model.parts import Role, has_static_embeddings, max_tokens, route
from job.model.passes import PassCost

if TYPE_CHECKING:
    from torch import Tensor

# Texts that are tokenized at once, and then divided into passes by their tokens.
TEXTS_PER_BLOCK = 4_096
# Their tokens, all padded to the longest text: 16 MiB for each input of the model.
TOKENS_PER_BLOCK = 2**21
# The same where padding is on the left: it is not cut off, and shorter blocks have less of it.
PADDED_TEXTS_PER_BLOCK = 64
# Tokens of a padded pass on a CPU, which keeps nothing for a backward pass (measured, job/LOG.md).
CPU_TOKENS = 8_192
# Tokens that keep a GPU busy (estimated); more would only take memory.
GPU_TOKENS = 65_536
# Tokens of a text of a model without a limit.
USUAL_TOKENS = 512


def embed_texts(
    model: Model, texts: list[str], role: Role, batch_size: int, cost: PassCost | None = None
) -> "Tensor":
    """Embed texts, each with the prompt of its role in front, at most `batch_size` in a pass.

    Returns float32 vectors of length 1, (n, width), on the model's device.
    """
    import torch

    cost = cost or encoding_cost(model, role)
    # The library's measure of a text's length. The longest texts come first: they show at once
    # whether the memory suffices.
    order = np.argsort([-len(text) for text in texts], kind="stable")
    model.encoder.eval()
    with torch.inference_mode(), model.machine.autocast():
        blocks = [
            _embed_block(model, block, role, cost, batch_size)
            for block in _blocks(model, [texts[row] for row in order], role, batch_size)
        ]
    found = torch.cat(blocks)[torch.from_numpy(order.argsort())]
    # Outside autocast, which would round the vectors.
    return torch.nn.functional.normalize(found.float(), dim=1)


def _blocks(model: Model, texts: list[str], role: Role, batch_size: int) -> Iterator[list[str]]:
    """Divide texts, the longest first, into those that are tokenized at once."""
    most, limit = _texts_per_block(model, role, batch_size), max_tokens(model.encoder, role)
    start = 0
    while start < len(texts):
        # Hardly any text has more tokens than characters.
        tokens = min(limit, len(texts[start]) + len(model.prompt(role)))
        stop = start + max(1, min(most, int(TOKENS_PER_BLOCK / (tokens or 1))))
        yield texts[start:stop]
        start = stop


def _texts_per_block(model: Model, role: Role, batch_size: int) -> int:
    if has_static_embeddings(model.encoder):
        # Their tokens are one list, which is not divided into passes.
        return batch_size
    tokenizer = getattr(route(model.encoder, role)[0], "tokenizer", None)
    is_left = getattr(tokenizer, "padding_side", "right") == "left"
    return min(PADDED_TEXTS_PER_BLOCK, batch_size) if is_left else TEXTS_PER_BLOCK


def _embed_block(
    model: Model, texts: list[str], role: Role, cost: PassCost, batch_size: int
) -> "Tensor":
    """Embed texts that are tokenized at once: (n, width)."""
    from sentence_transformers.util import batch_to_device

    from job.model.features import Passes, text_lengths

    encoder = model.encoder
    features = encoder.preprocess(texts, prompt=model.prompt(role), task=role)
    if (mask := features.get("attention_mask")) is not None:
        # Before the copy to a GPU, which would have to be asked for them.
        features["lengths"] = text_lengths(mask)
    passes = Passes([batch_to_device(features, encoder.device)], encoder, cost, batch_size)
    vectors = [encoder(dict(each), task=role)["sentence_embedding"] for each in passes.features]
    return passes.columns(vectors)[0]


def encoding_cost(model: Model, role: Role) -> PassCost:
    """Return what a pass costs the model's device, with the tokens that fit in its memory."""
    cost, machine = model.pass_cost or PASS_COSTS["cpu"], model.machine
    size = size_of(model)
    if machine.device != "cuda":
        return cost if cost.packed else replace(cost, max_tokens=CPU_TOKENS)
    if size is None:
        return cost
    limit = max_tokens(model.encoder, role)
    longest = USUAL_TOKENS if math.isinf(limit) else int(limit)
    # Layers are computed one after the other, and keep less than for a backward pass.
    stores_scores = "eager" in model.encoding_attention
    text = size.layer_bytes(longest, precision=machine.precision, stores_scores=stores_scores)
    fitting = int(usable_bytes(machine.device, machine.free_memory(), 0) / text) * longest
    return replace(cost, max_tokens=min(max(longest, fitting), GPU_TOKENS))
