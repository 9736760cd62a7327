"""Count the texts that the model truncates: it cannot find what it does not read."""

import math

import numpy as np
import pyarrow as pa

from job.data.dataset import Corpus, Queries
from job.evaluation.results import TruncatedTexts, Truncation
from job.model.encoder import Model
from job.model.parts import ROLES, Role, max_tokens, token_counts

# More texts are sampled at even distances, because neighboring texts are often alike.
MAX_TEXTS = 20_000


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
    chosen = np.linspace(0, len(texts) - 1, min(MAX_TEXTS, len(texts))).astype(np.int64)
    with_prompts = [model.prompt(role) + text for text in texts.take(chosen).to_pylist()]
    lengths = np.array(token_counts(model.encoder, with_prompts, role))
    cut = int((lengths > limit).sum())
    return TruncatedTexts(texts=len(lengths), cut=cut, longest=int(lengths.max()))
