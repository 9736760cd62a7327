"""A model's tokenizer: its padding token, its vocabulary, and what it knows of the data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from job.core.errors import ModelError
from job.model.parts import (
    ROLES,
    Role,
    max_tokens,
    read_tokens,
    route,
    unknown_token,
    word_tokens,
)
from job.runtime.logs import warn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

# Above this share of unknown tokens, or below this share of texts that differ in their tokens, a
# model trains on noise. With four fifths of the tokens unknown, a model still learns (job/LOG.md).
MOST_UNKNOWN, LEAST_DISTINCT = 0.9, 0.5
# Models of the texts' language have a hundredth of it; names and emoji reach this share.
MANY_UNKNOWN = 0.3


def set_padding_tokens(base: str, encoder: "SentenceTransformer") -> None:
    """Use the end token for padding where there is none; it is saved with the model.

    Many decoders have no padding token. Padding is masked, so its token has no effect.
    """
    from transformers import PreTrainedTokenizerBase

    for role in ROLES:
        tokenizer = getattr(route(encoder, role)[0], "tokenizer", None)
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token is not None:
            continue
        if tokenizer.eos_token is None:
            msg = f"The tokenizer of the model `{base}` has neither a padding token nor an end "
            msg += "token, so texts of different lengths cannot be embedded together. "
            raise ModelError(msg + "Set `pad_token` in its `tokenizer_config.json`.")
        tokenizer.pad_token = tokenizer.eos_token


def require_fitting_tokenizer(base: str, module: "Module") -> None:
    """Raise `ModelError` if the tokenizer knows no words, or one without an embedding."""
    tokenizer = getattr(module, "tokenizer", None)
    rows = _embedding_rows(module)
    if tokenizer is None or rows is None or not hasattr(tokenizer, "get_vocab"):
        return
    # Without files, the library makes a tokenizer of special tokens; T5's also has one for spaces.
    special = {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    if len(set(tokenizer.get_vocab()) - special) <= 1:
        msg = f"The tokenizer of the model `{base}` knows no words, because its files are missing. "
        raise ModelError(msg + "Restore `tokenizer.json` from the model that it was made of.")
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= rows:
        msg = f"The tokenizer of the model `{base}` does not fit its weights: the token `{token}` "
        msg += f"has the number {highest}, but there are embeddings for {rows} tokens only. "
        raise ModelError(msg + "Restore the model's own `tokenizer.json`.")


def _embedding_rows(module: "Module") -> int | None:
    from transformers import PreTrainedModel

    model = getattr(module, "model", None)
    if isinstance(model, PreTrainedModel):
        try:
            module = model.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            # Models of characters (CANINE) and of own code need not have such a table.
            return None
    return getattr(module, "num_embeddings", None)


def require_known_words(
    base: str, encoder: "SentenceTransformer", prompt: str, texts: Sequence[str], role: Role
) -> None:
    """Raise `ModelError` if nearly all of the texts' tokens are unknown, or most texts look alike.

    Warns if many tokens are unknown.
    """
    texts = sorted(set(texts))
    names = "questions" if role == "query" else "documents"
    found = word_tokens(encoder, [prompt + text for text in texts], role)
    if unknown := unknown_token(encoder, role):
        token, number = unknown
        share = sum(ids.count(number) for ids in found) / max(1, sum(map(len, found)))
        if share > MANY_UNKNOWN:
            msg = f"The tokenizer of the model `{base}` does not know the words of the data: "
            msg += f"{share:.0%} of the tokens of {len(texts)} {names} are unknown (`{token}`). "
            msg += "Use a model for their language, or restore `tokenizer.json`."
            if share > MOST_UNKNOWN:
                raise ModelError(msg)
            warn("model", msg)
    limit, longest = max_tokens(encoder, role), max(map(len, found))
    read = set(map(tuple, read_tokens(encoder, [prompt + text for text in texts], role)))
    if len(read) < LEAST_DISTINCT * len(texts):
        msg = (
            f"The model `{base}` cannot tell the texts of the data apart: of {len(texts)} {names}, "
        )
        msg += f"only {len(read)} differ in the tokens that it reads. "
        if longest > limit:
            msg += f"It cuts them after {limit:g} tokens, and the longest has {longest}, with its "
            msg += (
                "prompt. Set a larger `model.max_length`, a shorter prompt, or use another model."
            )
            raise ModelError(msg)
        raise ModelError(msg + "Use a model for their language, or restore `tokenizer.json`.")
