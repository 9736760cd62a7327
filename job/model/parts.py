"""The modules of an encoder: its transformers, the way of queries and of documents through them."""

import math
from collections.abc import Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module
    from transformers import PreTrainedModel

Role = Literal["query", "document"]
ROLES: tuple[Role, ...] = ("query", "document")
# A tokenizer without a limit states a number like 10^30.
NO_LIMIT = 10**9


def transformers_of(encoder: "SentenceTransformer") -> list["PreTrainedModel"]:
    """Return the transformers: none in static embeddings, several behind a router."""
    from transformers import PreTrainedModel

    found: dict[str, PreTrainedModel] = {}
    for name, module in encoder.named_modules():
        # A model inside another one, such as T5's stack, is a part of it.
        is_inner = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, PreTrainedModel) and not is_inner:
            found[name] = module
    return list(found.values())


def route(encoder: "SentenceTransformer", role: Role) -> "list[Module]":
    """Return the modules that texts of a role pass, in order.

    Raises `ValueError` if a router has no way for the role.
    """
    from sentence_transformers.base.modules import Router

    first, *others = encoder.children()
    if isinstance(first, Router):
        name = first._resolve_route(task=role, modality="text")
        return [*first.sub_modules[str(name)].children(), *others]
    return [first, *others]


def has_static_embeddings(encoder: "SentenceTransformer") -> bool:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return any(isinstance(module, StaticEmbedding) for module in encoder.modules())


def limit_tokens(encoder: "SentenceTransformer", limit: int) -> bool:
    """Cut texts after this many tokens; return False if no module of the encoder can."""
    from sentence_transformers.base.modules import Transformer

    # Static embeddings read whole texts.
    limited = [module for module in encoder.modules() if isinstance(module, Transformer)]
    for module in limited:
        module.max_seq_length = limit
    return bool(limited)


def max_tokens(encoder: "SentenceTransformer", role: Role) -> float:
    """Return the number of tokens after which texts of a role are cut; infinite without a limit."""
    limit = getattr(route(encoder, role)[0], "max_seq_length", None)
    return limit if limit is not None and limit < NO_LIMIT else math.inf


def token_counts(encoder: "SentenceTransformer", texts: Sequence[str], role: Role) -> list[int]:
    """Return the number of tokens of each text before it is cut."""
    from tokenizers import Tokenizer

    tokenizer: Any = getattr(route(encoder, role)[0], "tokenizer", None)
    if isinstance(tokenizer, Tokenizer):
        # As static embeddings tokenize.
        return [len(e.ids) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    tokens = tokenizer(list(texts), truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in tokens["input_ids"]]


def keep_vectors_in_float32(encoder: "SentenceTransformer") -> None:
    """Compute everything behind the transformers in float32, also under autocast.

    Otherwise pooling, dense layers and normalization round vectors to the 8 bits of bfloat16.
    The transformers keep the type of their weights.
    """
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.base.modules.module import Module

    for module in list(encoder.modules()):
        if isinstance(module, Transformer):
            module.forward = _to_float32(module.forward)
        elif isinstance(module, Module) and not isinstance(module, Router):
            outside = _outside_autocast(module.float().forward, encoder.device.type)
            module.forward = outside  # type: ignore[method-assign]


def _to_float32(forward: Any) -> Any:  # noqa: ANN401  a module's method
    @wraps(forward)
    def compute(features: dict[str, Any], **options: object) -> dict[str, Any]:
        return as_float32(forward(features, **options))

    return compute


def _outside_autocast(forward: Any, device: str) -> Any:  # noqa: ANN401  a module's method
    import torch

    @wraps(forward)
    def compute(features: dict[str, Any], **options: object) -> dict[str, Any]:
        with torch.autocast(device, enabled=False):
            found: dict[str, Any] = forward(as_float32(features), **options)
        return found

    return compute


def as_float32(features: dict[str, Any]) -> dict[str, Any]:
    """Convert a text's embeddings of half precision, in place."""
    import torch

    for name, value in features.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            features[name] = value.float()
    return features
