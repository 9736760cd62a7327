"""Weights that a model declares and its files do not hold: the library makes them up."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Not every model was saved with its pooler, and no embedding is made by one; positions are counted.
UNUSED = re.compile(r"(^|\.)(pooler\.|position_ids$)")


@contextmanager
def noting_random_weights() -> Iterator[list[str]]:
    """Yield the names of weights that models loaded within this block were not given.

    transformers reports them to its caller, and only prints them where sentence-transformers calls.
    """
    from transformers import PreTrainedModel

    given = PreTrainedModel.__dict__["from_pretrained"]
    random: list[str] = []

    def from_pretrained(cls: type, *args: object, **options: object) -> object:
        wanted = options.pop("output_loading_info", False)
        load = given.__get__(None, cls)
        model, info = load(*args, output_loading_info=True, **options)
        random.extend(name for name in info["missing_keys"] if not UNUSED.search(name))
        return (model, info) if wanted else model

    noting: Any = classmethod(from_pretrained)  # type: ignore[arg-type]
    PreTrainedModel.from_pretrained = noting  # type: ignore[method-assign]
    try:
        yield random
    finally:
        PreTrainedModel.from_pretrained = given  # type: ignore[method-assign]
