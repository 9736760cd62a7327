"""`model.max_length: auto`: the number of tokens that the data needs. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from job.model.refusals import read_settings

# Models keep a limit up to this: batches are padded to their own texts, so it costs nothing.
SHORT = 512
COVERED = 0.995
# A round number of tokens.
STEP = 64
# Texts whose tokens are counted, at even distances, because neighboring texts are often alike.
MAX_TEXTS = 20_000


@dataclass(frozen=True)
class Length:
    """The limit in tokens, and a clause that says where it comes from and what it cuts."""

    tokens: int
    reason: str


def choose_length(counts: npt.NDArray[np.int64], limit: int | None) -> Length:
    """Return the tokens that 99.5 % of the texts need, at least `SHORT` and at most `limit`.

    `counts` are the tokens of each text with its prompt; `limit` is None for a model without one.
    """
    needed = int(np.quantile(counts, COVERED, method="inverted_cdf"))
    rounded = max(SHORT, -(-needed // STEP) * STEP)
    chosen = rounded if limit is None else min(rounded, limit)
    cut = int((counts > chosen).sum())
    limited = ", more than the model has" if chosen < needed else ""
    reason = f"99.5 % of the texts need {needed} tokens or less{limited}; {cut} of {len(counts)} "
    return Length(chosen, f"{reason}are cut, the longest has {counts.max()}")


def sample_rows(count: int) -> npt.NDArray[np.int64]:
    """Return the numbers of at most `MAX_TEXTS` of `count` texts."""
    return np.linspace(0, count - 1, min(MAX_TEXTS, count)).astype(np.int64)


def published_length(model: Path) -> int:
    """Return the token limit that sentence-transformers will use; 512 (BERT's) if none is set."""
    if limit := read_settings(model / "sentence_bert_config.json").get("max_seq_length"):
        return int(limit)
    limits = (
        read_settings(model / "tokenizer_config.json").get("model_max_length"),
        read_settings(model / "config.json").get("max_position_embeddings"),
    )
    return int(min(filter(None, limits), default=512))
