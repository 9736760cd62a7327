"""What every kind of language model offers: one function that answers messages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# How the refusal of a server begins, instead of a model's.
REFUSED = "HTTP "
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Settings:
    """Of one request; models that know no seed ignore it."""

    temperature: float
    seed: int
    max_tokens: int

    def facts(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class Answer:
    """A model's text; if it gave none, `refusal` says why. Token counts are 0 if unknown."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    refusal: str = ""
    # Whether the limit of tokens cut the text off.
    is_cut: bool = False
    # Settings that the model does not take, and was asked without.
    without: tuple[str, ...] = ()


# Answers messages; called by several threads at once. Raises `BackendError` if the model cannot be
# asked at all: a wrong key, an unknown model, a server that stays busy or silent.
Ask = Callable[[Messages, Settings], Answer]
