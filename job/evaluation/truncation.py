"""Count the texts that the model truncates: it cannot find what it does not read."""

from typing import Any

import numpy as np

from job.data.dataset import Corpus, Queries
from job.evaluation.results import TruncatedTexts, Truncation
from job.model.encoder import Model

# More texts are sampled at even distances, because neighboring texts are often alike.
MAX_TEXTS = 20_000


def count_truncated(model: Model, queries: Queries, corpus: Corpus) -> Truncation:
    """Count the tokens of the test queries and of the corpus, prompts included."""
    limit = int(model.encoder.get_max_seq_length() or 0)
    return Truncation(
        max_tokens=limit,
        queries=_count(model, queries.texts, model.prompts.query, limit),
        documents=_count(model, corpus.texts, model.prompts.document, limit),
    )


def _count(model: Model, texts: Any, prompt: str, limit: int) -> TruncatedTexts:  # noqa: ANN401
    chosen = np.linspace(0, len(texts) - 1, min(MAX_TEXTS, len(texts))).astype(np.int64)
    with_prompts = [prompt + text for text in texts.take(chosen).to_pylist()]
    tokens = model.encoder.tokenizer(with_prompts, truncation=False, padding=False, verbose=False)
    lengths = np.array([len(ids) for ids in tokens["input_ids"]])
    cut = int((lengths > limit).sum()) if limit else 0
    return TruncatedTexts(texts=len(lengths), cut=cut, longest=int(lengths.max()))
