"""Count the texts that the model truncates: it cannot find what it does not read."""

from typing import Any

import numpy as np

from job.data.dataset import Corpus, Dataset, Queries
from job.evaluation.metrics import IntArray
from job.evaluation.results import TruncatedTexts, Truncation
from job.model.encoder import Model, own_limit
from job.model.lengths import SHORT, choose_length, sample_rows
from job.runtime.logs import tell


def fit_length(model: Model, dataset: Dataset) -> int | None:
    """Return the limit in tokens that `model.max_length: auto` stands for, and log its reason."""
    limit = own_limit(model.encoder)
    if limit is not None and limit <= SHORT:
        return limit
    questions = (dataset.train.table["anchor"], dataset.validation.texts, dataset.test.texts)
    counts = np.concatenate(
        [_tokens(model, texts, model.prompts.query) for texts in questions if len(texts)]
        + [_tokens(model, dataset.corpus.texts, model.prompts.document)]
    )
    found = choose_length(counts, limit)
    tell("model", max_length=found.tokens, reason=found.reason)
    return found.tokens


def count_truncated(model: Model, queries: Queries, corpus: Corpus) -> Truncation:
    """Count the tokens of the test queries and of the corpus, prompts included."""
    limit = int(model.encoder.get_max_seq_length() or 0)
    return Truncation(
        max_tokens=limit,
        queries=_count(model, queries.texts, model.prompts.query, limit),
        documents=_count(model, corpus.texts, model.prompts.document, limit),
    )


def _count(model: Model, texts: Any, prompt: str, limit: int) -> TruncatedTexts:  # noqa: ANN401
    lengths = _tokens(model, texts, prompt)
    cut = int((lengths > limit).sum()) if limit else 0
    return TruncatedTexts(texts=len(lengths), cut=cut, longest=int(lengths.max()))


def _tokens(model: Model, texts: Any, prompt: str) -> IntArray:  # noqa: ANN401
    """Count the tokens of a sample of texts, each with the prompt in front."""
    with_prompt = [prompt + text for text in texts.take(sample_rows(len(texts))).to_pylist()]
    tokens = model.encoder.tokenizer(with_prompt, truncation=False, padding=False, verbose=False)
    return np.array([len(ids) for ids in tokens["input_ids"]])
