"""The modules of an encoder: its transformers, the way of queries and of documents through them."""

import math
from collections.abc import Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Embedding, Module
    from transformers import PreTrainedModel

Role = Literal["query", "document"]
ROLES: tuple[Role, ...] = ("query", "document")
# A tokenizer without a limit states a number like 10^30.
NO_LIMIT = 10**9
# The ends of the names of tables of learned positions, in BERT, GPT-2, BART and their descendants.
POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")


def transformers_of(encoder: "Module") -> list["PreTrainedModel"]:
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


def reads_tasks(encoder: "SentenceTransformer") -> bool:
    """Return whether the model embeds queries and documents in different ways."""
    from sentence_transformers.base.modules import Router, Transformer

    return any(
        isinstance(module, Router)
        or (isinstance(module, Transformer) and "task" in module._declared_forward_params)
        for module in encoder.modules()
    )


def limit_tokens(encoder: "SentenceTransformer", limit: int) -> bool:
    """Cut texts after this many tokens; return False if no module of the encoder can."""
    from sentence_transformers.base.modules import Transformer

    # Static embeddings read whole texts.
    limited = [module for module in encoder.modules() if isinstance(module, Transformer)]
    for module in limited:
        module.max_seq_length = limit
    return bool(limited)


def max_positions(module: "Module") -> float:
    """Return the usable learned positions of an encoder or module; infinite if it computes them."""
    found: list[Module] = [*transformers_of(module)] or [module]
    return min(map(_positions, found))


def _positions(transformer: "Module") -> float:
    tables = [each.num_embeddings - _first(each) for each in _position_tables(transformer)]
    # BART's table has more rows than positions.
    stated = getattr(getattr(transformer, "config", None), "max_position_embeddings", None)
    if tables and isinstance(stated, int) and stated > 0:
        tables.append(stated)
    return min(tables, default=math.inf)


def first_position(transformer: "Module") -> int:
    """Return the position of a text's first token."""
    return max(map(_first, _position_tables(transformer)), default=0)


def _position_tables(transformer: "Module") -> "list[Embedding]":
    from torch.nn import Embedding

    return [
        module
        for name, module in transformer.named_modules()
        if name.endswith(POSITION_TABLES) and isinstance(module, Embedding)
    ]


def _first(table: "Embedding") -> int:
    # In RoBERTa and its descendants, positions start after the padding index.
    return 0 if table.padding_idx is None else table.padding_idx + 1


def limit_to_positions(encoder: "SentenceTransformer") -> None:
    """Cut texts after the last position that each transformer has learned.

    Some models state more tokens, or none, and fail on longer texts.
    """
    from sentence_transformers.base.modules import Transformer

    for module in encoder.modules():
        if isinstance(module, Transformer):
            limit, most = module.max_seq_length, max_positions(module)
            if math.isfinite(most) and (limit is None or limit > most):
                module.max_seq_length = int(most)


def max_tokens(encoder: "SentenceTransformer", role: Role) -> float:
    """Return the number of tokens after which texts of a role are cut; infinite without a limit."""
    limit = getattr(route(encoder, role)[0], "max_seq_length", None)
    return limit if limit is not None and limit < NO_LIMIT else math.inf


def token_counts(encoder: "SentenceTransformer", texts: Sequence[str], role: Role) -> list[int]:
    """Return the number of tokens of each text before it is cut, special tokens included."""
    return [len(ids) for ids in _token_ids(encoder, texts, role)]


def read_tokens(
    encoder: "SentenceTransformer", texts: Sequence[str], role: Role
) -> list[list[int]]:
    """Return the numbers of the tokens that the model reads; some tokenizers cut a text's start."""
    limit = max_tokens(encoder, role)
    cut = {} if math.isinf(limit) else {"truncation": True, "max_length": int(limit)}
    return _token_ids(encoder, texts, role, **cut)


def word_tokens(
    encoder: "SentenceTransformer", texts: Sequence[str], role: Role
) -> list[list[int]]:
    """Return the numbers of each text's tokens before it is cut, without special tokens."""
    return _token_ids(encoder, texts, role, add_special_tokens=False)


def _token_ids(
    encoder: "SentenceTransformer", texts: Sequence[str], role: Role, **options: object
) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer: Any = getattr(route(encoder, role)[0], "tokenizer", None)
    if isinstance(tokenizer, Tokenizer):
        # As static embeddings tokenize.
        return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    defaults = {"truncation": False, "padding": False, "verbose": False}
    found = tokenizer(list(texts), **defaults | options)
    return [list(ids) for ids in found["input_ids"]]


def unknown_token(encoder: "SentenceTransformer", role: Role) -> tuple[str, int] | None:
    """Return the token for unknown words, and its number; None if the tokenizer has none."""
    from tokenizers import Tokenizer

    tokenizer: Any = getattr(route(encoder, role)[0], "tokenizer", None)
    if isinstance(tokenizer, Tokenizer):
        token = getattr(tokenizer.model, "unk_token", None) or "<unk>"
        number = tokenizer.token_to_id(token)
    else:
        token, number = tokenizer.unk_token, tokenizer.unk_token_id
    return None if number is None else (token, number)


def keep_padding(encoder: "SentenceTransformer") -> None:
    """Pad texts, also if a model's own files choose FlashAttention.

    The library would then pass all texts as a single one, without the mask that training reads.
    """
    from sentence_transformers.base.modules import Transformer

    for module in encoder.modules():
        if isinstance(module, Transformer):
            module.unpad_inputs = False


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
            compute_in_float32(module, encoder.device.type)


def compute_in_float32(module: "Module", device: str) -> None:
    """Compute a module that is no transformer in float32, also under autocast."""
    module.forward = _outside_autocast(module.float().forward, device)


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
