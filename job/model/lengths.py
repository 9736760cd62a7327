"""`model.max_length: auto`: the number of tokens that the data needs. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from job.model.settings import read_settings, transformer_folder

# Models keep a limit up to this: batches are padded to their own texts, so it costs nothing.
SHORT = 512
COVERED = 0.995
# A round number of tokens.
STEP = 64
# Texts whose tokens are counted, at even distances, because neighboring texts are often alike.
MAX_TEXTS = 20_000
# Types of RoBERTa's descendants: their positions start after the number of the padding token.
COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer")


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
    """Return the token limit that the job will use; 512 (BERT's) if none is set."""
    folder = transformer_folder(model)
    config = read_settings(folder / "config.json")
    stated = read_settings(folder / "sentence_bert_config.json").get("max_seq_length")
    # GPT-2 has its own name for them.
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    limits = [read_settings(folder / "tokenizer_config.json").get("model_max_length"), positions]
    if stated is not None:
        limits = [stated]
    if positions and config.get("model_type") in COUNTED_FROM_PADDING:
        padding = config.get("pad_token_id")
        limits.append(positions - (1 if padding is None else padding) - 1)
    # Some files state 0 or -1 for no limit.
    return int(min((limit for limit in limits if limit and limit > 0), default=512))
