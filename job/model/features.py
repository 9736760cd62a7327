"""Divide tokenized texts into forward passes with little padding, in training and encoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import pad

from job.model.packing import PACKED
from job.model.parts import reads_tasks, route
from job.model.passes import Cut, PassCost, cut

Features = dict[str, Any]


def text_lengths(mask: Tensor) -> list[int] | None:
    """Return the tokens of each text; None if their padding is on the left."""
    if not bool(mask[:, 0].all()):
        return None
    found: list[int] = mask.sum(dim=1).tolist()
    return found


class Mask(Tensor):
    """An attention mask of which is known, without asking the GPU, whether it has padding.

    transformers asks each mask before it chooses an attention kernel.
    """

    is_full: bool

    @staticmethod
    def of(mask: Tensor, *, is_full: bool) -> "Mask":
        if isinstance(mask, Mask):
            return mask
        found = mask.as_subclass(Mask)
        found.is_full = is_full
        return found

    @classmethod
    def __torch_function__(
        cls,
        function: Any,  # noqa: ANN401  all are torch's
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        mask: Any = args[0] if args else None
        if function is Tensor.all and len(args) == 1 and not kwargs and isinstance(mask, Mask):
            return np.bool_(mask.is_full)
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **(kwargs or {}))
        is_converted = function in (Tensor.to, Tensor.bool) and isinstance(mask, Mask)
        if isinstance(found, Mask) and not is_converted:
            return found.as_subclass(Tensor)
        return Mask.of(found, is_full=mask.is_full) if is_converted else found


@dataclass(frozen=True)
class Group:
    """Columns that are embedded together, in passes of texts of similar length."""

    columns: list[int]
    passes: list[Features]
    # The row of each text in the vectors of the passes, column by column; None: in order.
    rows: Tensor | None
    sizes: list[int]

    def split(self, vectors: list[Tensor]) -> list[Tensor]:
        """Return the vectors of each column, from those of each pass."""
        joined = torch.cat(vectors)
        if self.rows is None:
            return [joined]
        return list(joined.index_select(0, self.rows).split_with_sizes(self.sizes))


class Passes:
    """A batch as forward passes; `columns` returns its vectors as the batch's columns."""

    def __init__(
        self,
        batch: Sequence[Features],
        encoder: SentenceTransformer,
        cost: PassCost | None,
        max_rows: int | None = None,
    ) -> None:
        """Divide a batch; if the device has no known cost, only into its columns and `max_rows`.

        Columns with equal settings are divided together: a question beside documents of its length.
        """
        alike: dict[object, list[int]] = {}
        for number, features in enumerate(batch):
            key = _settings(features, encoder) if cost else None
            alike.setdefault(number if key is None else key, []).append(number)
        cost = cost or PassCost(0, max(map(_width, batch)))
        self.groups = [
            _divide([batch[number] for number in numbers], numbers, encoder, cost, max_rows)
            for numbers in alike.values()
        ]

    @property
    def features(self) -> list[Features]:
        return [each for group in self.groups for each in group.passes]

    def columns(self, vectors: list[Tensor]) -> list[Tensor]:
        """Return the vectors of each column, (n, width) each, from those of each pass."""
        waiting = iter(vectors)
        found: dict[int, Tensor] = {}
        for group in self.groups:
            parts = group.split([next(waiting) for _ in group.passes])
            found |= dict(zip(group.columns, parts, strict=True))
        return [found[number] for number in sorted(found)]


def _width(features: Features) -> int:
    return features["attention_mask"].shape[1] if "attention_mask" in features else 1


def _settings(features: Features, encoder: SentenceTransformer) -> object:
    """Return what columns must have in common to share a pass; None if they cannot."""
    mask = features.get("attention_mask")
    if mask is None or _lengths(features) is None:
        return None
    unused = {"lengths"} if reads_tasks(encoder) else {"lengths", "task"}
    tensors = {name for name, value in features.items() if isinstance(value, Tensor)}
    if any(features[name].shape != mask.shape for name in tensors):
        return None
    others = sorted((n, str(v)) for n, v in features.items() if n not in tensors | unused)
    return (*sorted(tensors), *others)


def _lengths(features: Features) -> list[int] | None:
    if "lengths" not in features:
        features["lengths"] = text_lengths(features["attention_mask"])
    found: list[int] | None = features["lengths"]
    return found


def _divide(
    columns: Sequence[Features],
    numbers: list[int],
    encoder: SentenceTransformer,
    cost: PassCost,
    max_rows: int | None,
) -> Group:
    mask = columns[0].get("attention_mask")
    # Static embeddings have no mask: their texts are one list of tokens.
    if mask is None:
        return Group(numbers, list(columns), None, [])
    # With padding on the left, texts keep it: cutting it off would change their positions.
    sizes = [len(features["attention_mask"]) for features in columns]
    lengths = np.concatenate(
        [_lengths(f) or [_width(f)] * len(f["attention_mask"]) for f in columns]
    )
    # Stable: a repeated pass over the same batch must have the same rows.
    order = np.argsort(-lengths, kind="stable")
    cuts = cut(lengths[order], cost, max_rows)
    # One copy to the device, which does not wait for it.
    both = torch.from_numpy(np.stack([order, order.argsort()]))
    order_there, rows = both.to(mask.device, non_blocking=True).unbind()
    tokenizer = getattr(route(encoder, columns[0].get("task", "document"))[0], "tokenizer", None)
    joined = {
        name: _join([features[name] for features in columns], name, tokenizer, cuts[0].width)
        for name, value in columns[0].items()
        if isinstance(value, Tensor) and value.shape == mask.shape
    }
    # Other settings, such as the length of a prompt, hold for all rows.
    joined |= {
        name: value for name, value in columns[0].items() if name not in (*joined, "lengths")
    }
    ordered = {
        name: value.index_select(0, order_there) if _has_rows(value, len(order)) else value
        for name, value in joined.items()
    }
    passes = [{name: _part(v, each, len(order)) for name, v in ordered.items()} for each in cuts]
    for each, part in zip(passes, cuts, strict=True) if _lengths(columns[0]) else ():
        is_full = lengths[order[part.stop - 1]] == each["attention_mask"].shape[1]
        each["attention_mask"] = Mask.of(each["attention_mask"], is_full=bool(is_full))
        if cost.packed:
            each[PACKED] = True
    return Group(numbers, passes, rows, sizes)


def _has_rows(value: object, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


def _part(value: Any, part: Cut, rows: int) -> Any:  # noqa: ANN401  a feature
    if not _has_rows(value, rows):
        return value
    selected = value[part.start : part.stop]
    return selected[:, : part.width] if value.ndim == 2 else selected


def _join(
    columns: Sequence[Tensor],
    name: str,
    tokenizer: Any,  # noqa: ANN401  tokenizers share no type
    width: int,
) -> Tensor:
    """Concatenate one feature of several columns, each padded to the longest text of all."""
    # RoBERTa computes positions from the padding token, so no other one will do.
    filling = getattr(tokenizer, "pad_token_id", None) if name == "input_ids" else None
    width = min(width, max(column.shape[1] for column in columns))
    return torch.cat(
        [
            pad(column[:, :width], (0, max(0, width - column.shape[1])), value=filling or 0)
            for column in columns
        ]
    )
