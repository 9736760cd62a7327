"""Number formats of a model's weights: published, in memory, and stored."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from job.model.encoder import Model, count_parameters
from job.model.parts import has_static_embeddings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# `output.dtype: auto` halves the files of larger models.
LARGE = 500_000_000
# As safetensors calls them.
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", "I8": "int8"}


def published_dtype(folder: Path) -> str:
    """Return the format of most weights in a model's files."""
    counts: Counter[str] = Counter()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                counts[tensor["dtype"]] += end - start
    found = counts.most_common(1)[0][0] if counts else "F32"
    return NAMES.get(found, found.lower())


def weights_dtype(encoder: "SentenceTransformer") -> str:
    """Return the format of most weights in memory."""
    counts: Counter[str] = Counter()
    for weights in encoder.parameters():
        counts[str(weights.dtype).removeprefix("torch.")] += weights.numel()
    return counts.most_common(1)[0][0] if counts else "float32"


def stored_dtype(requested: str, model: Model) -> str:
    """Return the format to store a model in: `requested`, or what `auto` means for its size.

    Static embeddings stay in float32: the library computes them in the format of their file, so
    its vectors would be rounded, and differ from those that were scored.
    """
    if has_static_embeddings(model.encoder):
        return "float32"
    if requested != "auto":
        return requested
    return "bfloat16" if count_parameters(model) > LARGE else "float32"


@contextmanager
def converted_to(encoder: "SentenceTransformer", dtype: str) -> Iterator[None]:
    """Within this block, the weights have another format; buffers keep theirs."""
    import torch

    formats = [(weights, weights.dtype) for weights in encoder.parameters()]
    for weights, _ in formats:
        weights.data = weights.data.to(getattr(torch, dtype))
    try:
        yield
    finally:
        for weights, before in formats:
            weights.data = weights.data.to(before)


def round_weights(encoder: "SentenceTransformer", dtype: str) -> bool:
    """Round the weights in memory to a format; return whether any of them changed.

    What is scored afterwards is what will be stored.
    """
    import torch

    changed = False
    for weights in encoder.parameters():
        rounded = weights.data.to(getattr(torch, dtype)).to(weights.dtype)
        changed = changed or not torch.equal(rounded, weights.data)
        weights.data.copy_(rounded)
    return changed
