"""Embed texts without padding: their tokens in one row, and attention within each text.

Linear layers, norms and activations take each token by itself, so only attention must know where a
text ends. It is computed for all neighbors of equal length at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from job.model.parts import ROLES, first_position, transformers_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers import PreTrainedModel

Features = dict[str, Any]
# The mark of a pass that is to be packed, and our name among transformers' attention functions.
PACKED = "packed"
# What an attention layer may ask for besides plain attention.
EXTRAS = ("position_bias", "softcap", "s_aux", "sliding_window")
# Different lengths, two of them equal; vectors differ by rounding only.
TEXTS, ROUNDING = ["a b c d e f g", "a b c", "c b a", "b"], 1e-4


def allow_packing(encoder: "SentenceTransformer") -> bool:
    """Let the transformers of an encoder take packed passes; return whether that is right.

    It is where attention is plain, and positions are those that are given. Whether that holds,
    modules behind the transformers included, is tried with a few texts.
    """
    from sentence_transformers.base.modules import Transformer

    found = transformers_of(encoder)
    plain = [
        each for each in found if each._supports_attention_backend and _attention(each) == "sdpa"
    ]
    if not found or len(plain) < len(found):
        return False
    _register()
    for module in encoder.modules():
        if isinstance(module, Transformer):
            module.forward = _packing(module)
    return all(_gives_equal_vectors(encoder, role) for role in ROLES)


def _gives_equal_vectors(encoder: "SentenceTransformer", role: str) -> bool:
    from sentence_transformers.util import batch_to_device

    features = batch_to_device(encoder.preprocess(TEXTS, task=role), encoder.device)
    mask = features.get("attention_mask")
    # Packing is not for padding on the left, and nothing is tried without padding.
    if mask is None or not bool(mask[:, 0].all()) or bool(mask.all()):
        return False
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            padded, packed = (
                encoder(dict(each), task=role)["sentence_embedding"]
                for each in (features, features | {PACKED: True})
            )
    # How a model fails that takes no packed texts is its own choice.
    except Exception:  # noqa: BLE001
        return False
    finally:
        encoder.train(was_training)
    return padded.shape == packed.shape and bool((padded - packed).abs().max() < ROUNDING)


def _packing(module: "Transformer") -> Any:  # noqa: ANN401  a module's method
    forward, first = module.forward, first_position(module)

    @wraps(forward)
    def compute(features: Features, **options: object) -> Features:
        if not features.pop(PACKED, False):
            return forward(features, **options)
        with _packed_attention(module.model):
            return forward(_pack(features, first), **options)

    return compute


def _pack(features: Features, first: int) -> Features:
    """Put the tokens of all texts, (n, width) with padding, into one row, (1, tokens)."""
    mask = features["attention_mask"].bool()
    packed = {name: value for name, value in features.items() if name != "attention_mask"}
    for name, value in packed.items():
        if isinstance(value, Tensor) and value.shape == mask.shape:
            packed[name] = value[mask][None]
    lengths = mask.sum(dim=1)
    packed["position_ids"] = (mask.cumsum(dim=1) - 1 + first)[mask][None]
    # The library's pooling reads where texts begin.
    packed["cu_seq_lens_q"] = torch.cat([lengths.new_zeros(1), lengths.cumsum(dim=0)])
    packed["runs"] = [(len(list(run)), length) for length, run in groupby(lengths.tolist())]
    return packed


@contextmanager
def _packed_attention(transformer: "PreTrainedModel") -> Iterator[None]:
    before = _attention(transformer)
    transformer.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        transformer.set_attn_implementation(before)


def _attention(transformer: "PreTrainedModel") -> str:
    return str(transformer.config._attn_implementation)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, _attend)
    AttentionMaskInterface.register(PACKED, _no_mask)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    runs: list[tuple[int, int]],
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend within each text; `runs` are the texts and tokens of neighbors of equal length.

    Takes (1, heads, tokens, head width), and returns (1, tokens, heads, head width).
    Raises `NotImplementedError` if a layer asks for more than plain attention.
    """
    del module, attention_mask
    if any(others.get(name) is not None for name in EXTRAS):
        raise NotImplementedError
    is_trained = query.device.type == "cpu" and query.requires_grad
    attend = _attend_in_steps if is_trained else scaled_dot_product_attention
    sizes = [texts * length for texts, length in runs]
    parts = [each[0].transpose(0, 1).split_with_sizes(sizes) for each in (query, key, value)]
    found = []
    for run, *part in zip(runs, *parts, strict=True):
        queries, keys, values = (each.unflatten(0, run).transpose(1, 2) for each in part)
        attended = attend(queries, keys, values, dropout_p=dropout, scale=scaling)
        found.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(found)[None], None


def _attend_in_steps(
    queries: Tensor, keys: Tensor, values: Tensor, dropout_p: float, scale: float | None
) -> Tensor:
    """Compute the same: on a CPU, the backward pass of these steps is faster (job/LOG.md)."""
    scores = queries @ keys.transpose(-1, -2) * (scale or queries.shape[-1] ** -0.5)
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    return functional.dropout(weights, dropout_p) @ values


def _no_mask(*, mask_function: object, **_: object) -> None:
    """Return no mask; raise `NotImplementedError` if a model hides more than padding."""
    from transformers.masking_utils import bidirectional_mask_function

    if mask_function is not bidirectional_mask_function:
        raise NotImplementedError
