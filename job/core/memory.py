"""Estimate the memory of a training, in full and with LoRA, from a model's files.

Needs no torch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GB = 1e9
HALF, SINGLE = 2, 4
# AdamW keeps two float32 values per trained weight, besides its float32 gradient.
OPTIMIZER_BYTES = 2 * SINGLE
# Texts embedded at once, and their tokens, for which a training must have memory.
MIN_ROWS, USUAL_TOKENS = 8, 512
# What autograd keeps, in half and in single precision: for each input and output of a linear layer
# (current decoders also keep the steps of their norms and gates in float32), and for each score.
ENCODER_BYTES, DECODER_BYTES, SCORE_BYTES = (2.3, 3.7), (3.9, 5.9), (6, 4)
# Smaller models need less than 4 GB in full, so an adapter is not worth its lower quality.
LORA_PARAMETERS = 200_000_000
# Decoders learn as well by an adapter; above this size it is several times cheaper.
DECODER_PARAMETERS = 500_000_000
# Names of the sizes in the configurations of different architectures.
LAYER_FIELDS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
WIDTH_FIELDS = ("hidden_size", "d_model", "dim", "n_embd")
HEAD_FIELDS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
INNER_FIELDS = ("intermediate_size", "d_ff", "hidden_dim", "n_inner")
# Shares of the free memory that a job may use, on a GPU and on other devices.
GPU_SHARE, HOST_SHARE = 0.9, 0.6
# Formats of buffers such as position ids, as safetensors calls them.
BUFFERS = ("I16", "I32", "I64", "U16", "U32", "U64", "BOOL")
HEADER_SIZE_BYTES, MAX_HEADER_BYTES = 8, 2**26


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a transformer that decide the memory of its training."""

    parameters: int
    layers: int
    width: int
    heads: int
    # Inputs plus outputs of all linear layers of one block: LoRA adds `rank` weights for each.
    features: int
    is_decoder: bool

    def adapter_parameters(self, rank: int) -> int:
        return self.layers * rank * self.features

    def full_bytes(self, precision: str) -> int:
        """Return the bytes of weights, gradients and optimizer when all weights are trained.

        Weights are float32; autocast also keeps their copies in half precision.
        """
        copies = 0 if precision == "float32" else HALF
        return self.parameters * (SINGLE + SINGLE + OPTIMIZER_BYTES + copies)

    def lora_bytes(self, rank: int, precision: str) -> int:
        """Return the bytes of frozen weights, adapter, its gradients and its optimizer."""
        trained = self.adapter_parameters(rank) * (SINGLE + SINGLE + OPTIMIZER_BYTES)
        return self.parameters * frozen_weight_bytes(precision) + trained

    def text_bytes(
        self, tokens: int, *, precision: str, stores_scores: bool, checkpointing: bool
    ) -> float:
        """Return the bytes of a padded text's activations until the backward pass.

        Per layer and token: some bytes per input and output of its linear layers, and per head and
        other token if the attention stores its scores (counted by tests/saved_bytes.py).
        With checkpointing, one layer's, and the inputs of all (measured, job/LOG.md).
        """
        layer = self.layer_bytes(tokens, precision=precision, stores_scores=stores_scores)
        if checkpointing:
            return layer + self.layers * tokens * self.width * (SINGLE + HALF)
        return self.layers * layer

    def layer_bytes(self, tokens: int, *, precision: str, stores_scores: bool) -> float:
        """Return the bytes of a padded text's activations in one layer."""
        kept = (DECODER_BYTES if self.is_decoder else ENCODER_BYTES)[precision == "float32"]
        scores = SCORE_BYTES[precision == "float32"] * self.heads * tokens if stores_scores else 0
        return tokens * (kept * self.features + scores)


@dataclass(frozen=True)
class LoraChoice:
    """Whether to train an adapter instead of all weights, and the reason."""

    on: bool
    reason: str


def frozen_weight_bytes(precision: str) -> int:
    """Return the bytes of a frozen weight: bfloat16 is enough where autocast computes in it.

    float16 is not: models published in bfloat16 exceed its range.
    """
    return HALF if precision == "bfloat16" else SINGLE


def choose_lora(setting: str, size: ModelSize | None, memory: int, precision: str) -> LoraChoice:
    """Resolve `training.lora`; `memory` are the bytes of the device."""
    if setting != "auto":
        return LoraChoice(setting == "on", "set in the spec")
    if size is None:
        return LoraChoice(on=False, reason="the model's config does not state its layer sizes")
    parameters = f"{size.parameters:,} parameters"
    if size.parameters < LORA_PARAMETERS:
        return LoraChoice(on=False, reason=f"{parameters} need little memory")
    if size.is_decoder and size.parameters > DECODER_PARAMETERS:
        return LoraChoice(on=True, reason=f"a decoder with {parameters}")
    # An adapter learns less: checkpointed activations are the better way to save memory.
    needed = with_texts(size, size.full_bytes(precision), precision, checkpointing=True)
    text = f"training all {parameters} needs about {needed / GB:.1f} GB"
    if needed > memory:
        return LoraChoice(on=True, reason=f"{text}, more than fits in memory")
    return LoraChoice(on=False, reason=f"{text}, which fits in memory")


def with_texts(size: ModelSize, states: int, precision: str, *, checkpointing: bool) -> int:
    """Add the activations of the smallest useful mini-batch to the bytes of a training's states."""
    row = size.text_bytes(
        USUAL_TOKENS, precision=precision, stores_scores=False, checkpointing=checkpointing
    )
    return states + int(MIN_ROWS * row)


def usable_bytes(device: str, free: int, to_come: int) -> float:
    """Return the bytes for activations, of the `free` ones, beside `to_come` bytes of states."""
    if device == "cuda":
        # The kernels' workspaces, and what the allocator cannot fill.
        return GPU_SHARE * free - to_come - 2**30
    # Other programs share a host's memory.
    return HOST_SHARE * (free - to_come)


def model_size(config: Mapping[str, Any], parameters: int | None) -> ModelSize | None:
    """Read the sizes of a `config.json`; None if it does not state them."""
    inner = config.get("text_config")
    config = inner if isinstance(inner, Mapping) else config
    layers, width, heads = (
        _first(config, names) for names in (LAYER_FIELDS, WIDTH_FIELDS, HEAD_FIELDS)
    )
    if not (layers and width and heads and parameters):
        return None
    # Current decoders, and encoders built like them, normalize by RMS; BERT and RoBERTa do not.
    is_decoder = "rms_norm_eps" in config
    head = _first(config, ("head_dim", "d_kv")) or width // heads
    queries, keys = heads * head, (_first(config, ("num_key_value_heads",)) or heads) * head
    projections = 2 * (width + queries) + 2 * (width + keys)
    mlp = (width + (_first(config, INNER_FIELDS) or 4 * width)) * (3 if is_decoder else 2)
    return ModelSize(parameters, layers, width, heads, projections + mlp, is_decoder)


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def read_size(folder: Path) -> ModelSize | None:
    """Return the sizes of a model in a folder; None if its files do not state them."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return model_size(config, count_parameters(folder)) if isinstance(config, dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def count_parameters(folder: Path) -> int | None:
    """Count the weights by the headers of their files, without buffers of whole numbers.

    None if there are none.
    """
    shapes: list[list[int]] = []
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as opened:
            size = int.from_bytes(opened.read(HEADER_SIZE_BYTES), "little")
            header = json.loads(opened.read(min(size, MAX_HEADER_BYTES)))
        header.pop("__metadata__", None)
        shapes += [entry["shape"] for entry in header.values() if entry["dtype"] not in BUFFERS]
    return sum(map(math.prod, shapes)) or None
