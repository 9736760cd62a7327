"""One ruler for base and tuned model: encode once, score every dimension and precision."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from job.core.errors import SpecError
from job.data.dataset import Corpus, Queries
from job.distributed import process_group
from job.evaluation.bm25 import rank_bm25
from job.evaluation.metrics import METRIC, IntArray, Scores, compute_metrics
from job.evaluation.quantization import BITS, bytes_per_vector, rank
from job.model.encoder import Model
from job.runtime.oom import retry_on_oom
from job.spec.schema import EvaluationSpec
from job.storage.mapped_arrays import empty_matrix

DEFAULT_DIMENSIONS = (512, 256, 128, 64)
# Texts that are Python objects at once. Sorted by length among so many, hardly any padding is left.
TEXTS_PER_BLOCK = 2**16
# Of BM25, on other ranks than 0.
NO_SCORES = Scores({}, np.empty(0, np.int64), np.empty((0, 0), np.int64))


@dataclass(frozen=True)
class Dimensions:
    """Dimensions to score, large to small; `main` carries the verdict."""

    all: tuple[int, ...]
    main: int

    @property
    def full(self) -> int:
        return self.all[0]


def choose_dimensions(spec: EvaluationSpec, width: int) -> Dimensions:
    """Fit the wanted dimensions to the model's width."""
    wanted = spec.dimensions or (width, *(d for d in DEFAULT_DIMENSIONS if d < width))
    too_large = [d for d in wanted if d > width]
    if too_large:
        msg = f"`evaluation.dimensions` has {too_large[0]}; the model has {width}. Leave it out."
        raise SpecError(msg)
    ordered = tuple(sorted(wanted, reverse=True))
    # A budget that nothing fits is refused before hours are spent on finding that out.
    smallest, precision = ordered[-1], min(spec.precisions, key=lambda name: BITS[name])
    needed, budget = bytes_per_vector(smallest, precision), spec.max_bytes_per_vector
    if budget is not None and budget < needed:
        msg = (
            f"`evaluation.max_bytes_per_vector` is {budget}; the smallest vectors that may be "
            f"recommended take {needed} ({smallest} dimensions as {precision}). Raise it, or add "
            "a smaller one to `evaluation.dimensions` or `evaluation.precisions`."
        )
        raise SpecError(msg)
    return Dimensions(ordered, next((d for d in ordered if d <= spec.main_dimension), smallest))


def encode_documents(model: Model, corpus: Corpus, batch_size: int) -> torch.Tensor:
    """Embed the corpus with the document prompt: (n_documents, width), float32."""
    return encode(model, corpus.texts, model.prompts.document, batch_size)


def encode(model: Model, texts: pa.Array, prompt: str, batch_size: int) -> torch.Tensor:
    """Embed texts with a prompt before each: (n, width), float32, on the CPU.

    A collective call; only rank 0 gets the values, as in `encode_block`.
    """
    # Rank 0 may have worked alone for long.
    process_group.barrier()
    shape = len(texts), model.width
    is_rank_zero = process_group.is_rank_zero()
    vectors = empty_matrix(*shape) if is_rank_zero else torch.empty(shape, device="meta")
    for start in range(0, len(texts), TEXTS_PER_BLOCK):
        block = texts.slice(start, TEXTS_PER_BLOCK).to_pylist()
        found = encode_block(model, block, prompt, batch_size)
        vectors[start : start + TEXTS_PER_BLOCK].copy_(found)
    return vectors


def encode_block(model: Model, texts: list[str], prompt: str, batch_size: int) -> torch.Tensor:
    """Embed texts with a prompt before each: (n, width), float32, on the model's device.

    A collective call; rank 0 alone gets the vectors, the others a tensor without values (`meta`).
    """
    size = process_group.world_size()
    if size == 1:
        return _encode(model, texts, prompt, batch_size)
    # Neighbours, often of one length, go to different ranks.
    own = _encode(model, texts[process_group.rank() :: size], prompt, batch_size)
    padded = own.new_zeros(-(-len(texts) // size), model.width)
    padded[: len(own)] = own
    shares = process_group.all_gather(padded)
    if not process_group.is_rank_zero():
        return torch.empty(len(texts), model.width, device="meta")
    return torch.stack(shares, dim=1).flatten(end_dim=1)[: len(texts)]


def _encode(model: Model, texts: list[str], prompt: str, batch_size: int) -> torch.Tensor:
    def vectors(rows: int) -> torch.Tensor:
        with torch.inference_mode(), model.machine.autocast():
            found: torch.Tensor = model.encoder.encode(
                texts,
                prompt=prompt,
                batch_size=rows,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        return found.float()

    if not texts:
        return torch.empty(0, model.width, device=model.encoder.device)
    return retry_on_oom(batch_size, vectors, "encode")


@dataclass(frozen=True)
class Vectors:
    """What a model makes of queries, (n_queries, width), and a corpus, (n_documents, width)."""

    queries: torch.Tensor
    corpus: torch.Tensor
    # Where they are compared.
    device: str = "cpu"


def embed(
    model: Model,
    queries: Queries,
    corpus: Corpus,
    batch_size: int,
    corpus_vectors: torch.Tensor | None = None,
) -> Vectors:
    """Encode all that a search needs; `corpus_vectors` saves encoding the corpus again."""
    if corpus_vectors is None:
        corpus_vectors = encode_documents(model, corpus, batch_size)
    query_vectors = encode(model, queries.texts, model.prompts.query, batch_size)
    return Vectors(query_vectors, corpus_vectors, model.machine.device)


def score_vectors(
    vectors: Vectors,
    queries: Queries,
    dimensions: Collection[int],
    precisions: Collection[str] = (),
) -> dict[int, dict[str, Scores]]:
    """Score a search by each dimension and precision: float32, the others and them rescored.

    Rank 0 does that alone; the others get no scores.
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
    """Score a model's retrieval by float32 vectors at each dimension: on rank 0 alone."""
    vectors = embed(model, queries, corpus, batch_size, corpus_vectors)
    return {d: found["float32"] for d, found in score_vectors(vectors, queries, dimensions).items()}


def score_bm25(queries: Queries, corpus: Corpus) -> Scores:
    if not process_group.is_rank_zero():
        return NO_SCORES
    ranked, found = rank_bm25(corpus.texts, queries.texts)
    return compute_metrics(ranked, queries, found)


@dataclass(frozen=True)
class SampledSearch:
    """A smaller search: some documents (`positions` in the whole corpus) with all the answers."""

    queries: Queries
    corpus: Corpus
    positions: IntArray


def sample_corpus(queries: Queries, corpus: Corpus, limit: int, seed: int) -> SampledSearch:
    """Draw `limit` documents to search among; the relevant ones always stay."""
    relevant = np.unique(queries.documents)
    others = np.setdiff1d(np.arange(len(corpus)), relevant)
    drawn = np.random.default_rng(seed).permutation(others)[: max(0, limit - len(relevant))]
    positions = np.sort(np.concatenate([relevant, drawn]))
    moved = replace(queries, documents=np.searchsorted(positions, queries.documents))
    return SampledSearch(moved, corpus.take(positions), positions)


@dataclass(frozen=True)
class Validation:
    """What checkpoints are judged on; `base` is the base model's nDCG@10 at the main dimension."""

    search: SampledSearch
    dimensions: Dimensions
    batch_size: int
    base: float

    def score(self, model: Model) -> dict[str, float]:
        """Return nDCG@10 under the article's key of each dimension, on every rank."""
        search = self.search
        scores = score(model, search.queries, search.corpus, self.dimensions.all, self.batch_size)
        return process_group.from_rank_zero(
            lambda: {metric_key(d): scores[d].mean(METRIC) for d in self.dimensions.all}
        )


def metric_key(dimension: int, metric: str = METRIC) -> str:
    """Name a metric as the article does."""
    return f"dim_{dimension}_cosine_{metric}"
