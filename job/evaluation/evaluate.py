"""Score a model, base or tuned, the same way: encode once, score each dimension and precision."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from job.core.errors import SpecError
from job.data.dataset import Corpus, Queries
from job.distributed import process_group
from job.evaluation.bm25 import rank_bm25
from job.evaluation.dimensions import Dimensions, dimensions_of
from job.evaluation.metrics import METRIC, Scores, compute_metrics
from job.evaluation.quantization import BITS, bytes_per_vector, rank
from job.model.encode import embed_texts, encoding_cost
from job.model.encoder import Model
from job.model.parts import Role
from job.runtime.counter import embeddings_counted
from job.runtime.oom import retry_on_oom
from job.spec.schema import EvaluationSpec
from job.storage.arrow_tables import IntArray
from job.storage.mapped_arrays import empty_matrix

# Texts encoded at once, as Python strings. Sorting this many by length leaves hardly any padding.
TEXTS_PER_BLOCK = 2**16
# BM25's scores on ranks other than 0.
NO_SCORES = Scores({}, np.empty(0, np.int64), np.empty((0, 0), np.int64))


def choose_dimensions(spec: EvaluationSpec, width: int) -> Dimensions:
    """Return the dimensions of the spec, or defaults below the model's width.

    Raises `SpecError` if one exceeds the width, or if no vectors fit `max_bytes_per_vector`.
    """
    dimensions = dimensions_of(spec, width)
    too_large = [d for d in spec.dimensions or () if d > width]
    if too_large:
        msg = (
            f"`evaluation.dimensions` contains {too_large[0]}, but the model has only {width} "
            "dimensions. Remove that value."
        )
        raise SpecError(msg)
    # Reject an impossible budget now, not after hours of training.
    smallest, precision = dimensions.all[-1], min(spec.precisions, key=lambda name: BITS[name])
    needed, budget = bytes_per_vector(smallest, precision), spec.max_bytes_per_vector
    if budget is not None and budget < needed:
        msg = (
            f"`evaluation.max_bytes_per_vector` is {budget}, but the smallest allowed vectors take "
            f"{needed} bytes ({smallest} dimensions as {precision}). Raise the limit, or add a "
            "smaller value to `evaluation.dimensions` or `evaluation.precisions`."
        )
        raise SpecError(msg)
    return dimensions


def encode_documents(model: Model, corpus: Corpus, batch_size: int) -> torch.Tensor:
    """Embed the corpus with the document prompt: (n_documents, width), float32."""
    return encode(model, corpus.texts, "document", batch_size)


def encode(model: Model, texts: pa.Array, role: Role, batch_size: int) -> torch.Tensor:
    """Embed texts, each with the prompt of its role: (n, width), float32, on the CPU.

    A collective call; only rank 0 gets the values, as in `encode_block`.
    """
    # Rank 0 may still be busy with work that only it does.
    process_group.barrier()
    shape = len(texts), model.width
    is_rank_zero = process_group.is_rank_zero()
    vectors = empty_matrix(*shape) if is_rank_zero else torch.empty(shape, device="meta")
    with embeddings_counted(model.encoder, len(texts), process_group.world_size()):
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            block = texts.slice(start, TEXTS_PER_BLOCK).to_pylist()
            vectors[start : start + TEXTS_PER_BLOCK].copy_(
                encode_block(model, block, role, batch_size)
            )
    return vectors


def encode_block(model: Model, texts: list[str], role: Role, batch_size: int) -> torch.Tensor:
    """Embed texts, each with the prompt of its role: (n, width), float32, on the model's device.

    A collective call; only rank 0 gets the vectors, other ranks get an empty `meta` tensor.
    """
    size = process_group.world_size()
    if size == 1:
        return encode_alone(model, texts, role, batch_size)
    # Neighboring texts often have similar lengths: deal them out to spread the work evenly.
    shard = encode_alone(model, texts[process_group.rank() :: size], role, batch_size)
    padded = shard.new_zeros(-(-len(texts) // size), model.width)
    padded[: len(shard)] = shard
    shards = process_group.all_gather(padded)
    if not process_group.is_rank_zero():
        return torch.empty(len(texts), model.width, device="meta")
    return torch.stack(shards, dim=1).flatten(end_dim=1)[: len(texts)]


def encode_alone(model: Model, texts: list[str], role: Role, batch_size: int) -> torch.Tensor:
    """Embed texts on this rank only, as `encode_block`; if memory runs out, in smaller passes."""
    if not texts:
        return torch.empty(0, model.width, device=model.encoder.device)
    cost = encoding_cost(model, role)

    def work(rows: int) -> torch.Tensor:
        tokens = None if cost.max_tokens is None else cost.max_tokens * rows // batch_size
        return embed_texts(model, texts, role, rows, replace(cost, max_tokens=tokens))

    return retry_on_oom(batch_size, work, "encode")


@dataclass(frozen=True)
class Vectors:
    """Embeddings of queries, (n_queries, width), and of a corpus, (n_documents, width)."""

    queries: torch.Tensor
    corpus: torch.Tensor
    # The device that computes the similarities.
    device: str = "cpu"


def embed(
    model: Model,
    queries: Queries,
    corpus: Corpus,
    batch_size: int,
    corpus_vectors: torch.Tensor | None = None,
) -> Vectors:
    """Encode queries and corpus; pass `corpus_vectors` to skip encoding the corpus."""
    if corpus_vectors is None:
        corpus_vectors = encode_documents(model, corpus, batch_size)
    query_vectors = encode(model, queries.texts, "query", batch_size)
    return Vectors(query_vectors, corpus_vectors, model.machine.device)


def score_vectors(
    vectors: Vectors,
    queries: Queries,
    dimensions: Collection[int],
    precisions: Collection[str] = (),
) -> dict[int, dict[str, Scores]]:
    """Score each dimension by float32 vectors, and by `precisions` with and without rescoring.

    Runs on rank 0 only; other ranks get no scores.
    """
    if not process_group.is_rank_zero():
        return {}
    found = rank(vectors.queries, vectors.corpus, dimensions, precisions, vectors.device)
    return {
        dimension: {name: compute_metrics(ranked, queries) for name, ranked in by_name.items()}
        for dimension, by_name in found.items()
    }


def score(
    model: Model,
    queries: Queries,
    corpus: Corpus,
    dimensions: Collection[int],
    batch_size: int,
    corpus_vectors: torch.Tensor | None = None,
) -> dict[int, Scores]:
    """Encode, then score with float32 vectors at each dimension; only rank 0 gets scores."""
    vectors = embed(model, queries, corpus, batch_size, corpus_vectors)
    return {d: found["float32"] for d, found in score_vectors(vectors, queries, dimensions).items()}


def score_bm25(queries: Queries, corpus: Corpus) -> Scores:
    if not process_group.is_rank_zero():
        return NO_SCORES
    ranked, found = rank_bm25(corpus.texts, queries.texts)
    return compute_metrics(ranked, queries, found)


@dataclass(frozen=True)
class SampledSearch:
    """A search over a sample of the corpus that contains all relevant documents.

    `positions` are the sample's positions in the whole corpus.
    """

    queries: Queries
    corpus: Corpus
    positions: IntArray


def sample_corpus(queries: Queries, corpus: Corpus, limit: int, seed: int) -> SampledSearch:
    """Sample up to `limit` documents; relevant ones always stay, even beyond the limit."""
    relevant = np.unique(queries.documents)
    irrelevant = np.setdiff1d(np.arange(len(corpus)), relevant)
    drawn = np.random.default_rng(seed).permutation(irrelevant)[: max(0, limit - len(relevant))]
    positions = np.sort(np.concatenate([relevant, drawn]))
    renumbered = replace(queries, documents=np.searchsorted(positions, queries.documents))
    return SampledSearch(renumbered, corpus.take(positions), positions)


@dataclass(frozen=True)
class Validation:
    """The search that scores checkpoints.

    `base` is the base model's nDCG@10 at the main dimension.
    """

    search: SampledSearch
    dimensions: Dimensions
    batch_size: int
    base: float

    def score(self, model: Model) -> dict[str, float]:
        """Return nDCG@10 by `metric_key` of each dimension, on every rank."""
        search = self.search
        scores = score(model, search.queries, search.corpus, self.dimensions.all, self.batch_size)
        return process_group.from_rank_zero(
            lambda: {metric_key(d): scores[d].mean(METRIC) for d in self.dimensions.all}
        )


def metric_key(dimension: int, metric: str = METRIC) -> str:
    """Return a metric's name as the article logs it, such as `dim_256_cosine_ndcg@10`."""
    return f"dim_{dimension}_cosine_{metric}"
