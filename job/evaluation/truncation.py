"""Count the texts that the model truncates: it cannot find what it does not read."""

import math

import numpy as np
import pyarrow as pa

from job.data.dataset import Corpus, Dataset, Queries
from job.evaluation.results import TruncatedTexts, Truncation
from job.model.encoder import Model, own_limit
from job.model.lengths import SHORT, choose_length, sample_rows
from job.model.parts import ROLES, Role, max_tokens, token_counts, transformers_of
from job.runtime.logs import tell
from job.storage.arrow_tables import IntArray


def fit_length(model: Model, dataset: Dataset) -> int | None:
    """Return the limit in tokens that `model.max_length: auto` stands for, and log its reason.

    None keeps the limits of a model without a transformer, or with several.
    """
    if len(transformers_of(model.encoder)) != 1:
        return None
    limit = own_limit(model.encoder)
    if limit is not None and limit <= SHORT:
        return limit
    questions = (dataset.train.table["anchor"], dataset.validation.texts, dataset.test.texts)
    counts = [_tokens(model, texts, "query") for texts in questions if len(texts)]
    counts.append(_tokens(model, dataset.corpus.texts, "document"))
    found = choose_length(np.concatenate(counts), limit)
    tell("model", max_length=found.tokens, reason=found.reason)
    return found.tokens


def count_truncated(model: Model, queries: Queries, corpus: Corpus) -> Truncation:
    """Count the tokens of the test queries and of the corpus, prompts included."""
    limits = {role: max_tokens(model.encoder, role) for role in ROLES}
    longest = max(limits.values())
    return Truncation(
        # 0: there is no limit.
        max_tokens=int(longest) if math.isfinite(longest) else 0,
        queries=_count(model, queries.texts, "query", limits["query"]),
        documents=_count(model, corpus.texts, "document", limits["document"]),
    )


def _count(model: Model, texts: pa.Array, role: Role, limit: float) -> TruncatedTexts:
    lengths = _tokens(model, texts, role)
    cut = int((lengths > limit).sum())
    return TruncatedTexts(texts=len(lengths), cut=cut, longest=int(lengths.max()))


def _tokens(model: Model, texts: pa.Array, role: Role) -> IntArray:
    """Count the tokens of a sample of texts, each with the prompt in front."""
    sample = texts.take(sample_rows(len(texts))).to_pylist()
    return np.array(token_counts(model.encoder, [model.prompt(role) + t for t in sample], role))
