"""A linear adapter of query vectors: part of a gain for users who cannot encode their documents.

Documents keep the base model's vectors. The adapter is a square matrix, trained on the pairs that
the model is tuned on, with the same loss; the number of passes is chosen on validation.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from job.data.dataset import Dataset, Queries
from job.evaluation.baseline import Baseline
from job.evaluation.evaluate import SampledSearch, Vectors, encode, encode_documents, score_vectors
from job.evaluation.exact_search import Transform
from job.evaluation.keep_index import ADAPTER, TUNED_QUERIES, KeepIndex, compare_kept, conclude
from job.evaluation.metrics import METRIC, Scores
from job.evaluation.results import Lift
from job.evaluation.significance import GroupedQueries
from job.model.encoder import Model
from job.spec.schema import JobSpec

# Passes over the pairs, at most; each is scored on validation, and the best is kept.
MAX_PASSES = 20
# More updates than that, in all passes together, changed nothing in what we measured.
MAX_UPDATES = 4_000
BATCH = 128
LEARNING_RATE = 1e-3
# Subtracted from the scores of pairs that are no negatives, which then have no weight.
ALIKE = 1e4


@dataclass(frozen=True)
class Adapter:
    """`matrix`, (width, width), follows query vectors: `query @ matrix`, then length 1."""

    matrix: torch.Tensor
    passes: int
    # nDCG@10 before and after.
    validation: tuple[float, float]

    def apply(self, queries: torch.Tensor) -> torch.Tensor:
        return _units(queries @ self.matrix)


@dataclass(frozen=True)
class BaseVectors:
    """The base model's vectors of all queries and of the corpus; only rank 0 has values."""

    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    corpus: torch.Tensor

    def cut(self, dimension: int) -> "BaseVectors":
        found = (self.train, self.validation, self.test, self.corpus)
        return BaseVectors(*(vectors[:, :dimension] for vectors in found))


def embed_with_base(model: Model, dataset: Dataset, base: Baseline, batch_size: int) -> BaseVectors:
    """Encode by the base model, with the prompts of its scores. A collective call."""
    anchors = dataset.train.table["anchor"].combine_chunks()
    train = encode(model, anchors, "query", batch_size)
    validation = encode(model, dataset.validation.texts, "query", batch_size)
    vectors = base.vectors
    if vectors is None:
        # The scores come from an earlier start, which did not save the vectors.
        corpus = encode_documents(model, dataset.corpus, batch_size)
        vectors = Vectors(encode(model, dataset.test.texts, "query", batch_size), corpus)
    return BaseVectors(train, validation, vectors.queries, vectors.corpus)


def measure_kept_index(
    vectors: BaseVectors,
    tuned_queries: torch.Tensor,
    scores: tuple[Scores, Scores],
    dataset: Dataset,
    search: SampledSearch,
    spec: JobSpec,
    full_width: Lift,
) -> tuple[KeepIndex, Adapter]:
    """Search the base model's document vectors by the tuned model's queries, and by an adapter.

    `vectors` have the largest dimension of the report; `scores` are those of base and tuned model
    with such float32 vectors, `full_width` their comparison. `search` selects the adapter.
    """
    by_group = GroupedQueries(dataset.test.groups, spec.evaluation.permutations, spec.data.seed)
    adapter = train_adapter(vectors, dataset, search, spec)
    kinds = {TUNED_QUERIES: tuned_queries, ADAPTER: adapter.apply(_units(vectors.test))}
    width = vectors.corpus.shape[1]
    found = {name: _score(queries, vectors.corpus, dataset.test) for name, queries in kinds.items()}
    improved = full_width.is_gain
    rows = compare_kept(*scores, found, by_group, improved=improved)
    return KeepIndex(
        dimension=width,
        base=scores[0].mean(METRIC),
        tuned=scores[1].mean(METRIC),
        rows=rows,
        pairs=len(dataset.train),
        passes=adapter.passes,
        validation=adapter.validation,
        sentence=conclude(scores[0].mean(METRIC), rows, spec.evaluation.worth, improved=improved),
    ), adapter


def train_adapter(
    vectors: BaseVectors, dataset: Dataset, search: SampledSearch, spec: JobSpec
) -> Adapter:
    """Train from the identity; keep the pass that is best on validation, if any improves it."""
    documents = vectors.corpus[torch.from_numpy(search.positions)]
    queries = _units(vectors.validation)

    def validated(matrix: torch.Tensor) -> float:
        return _score(_units(queries @ matrix), documents, search.queries).mean(METRIC)

    identity = torch.eye(vectors.corpus.shape[1])
    before = validated(identity)
    best = Adapter(identity, 0, (before, before))
    weights = identity.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], LEARNING_RATE)
    random = np.random.default_rng(spec.training.seed)
    steps = math.ceil(len(dataset.train) / BATCH)
    for number in range(1, max(1, min(MAX_PASSES, MAX_UPDATES // steps)) + 1):
        for rows in np.array_split(random.permutation(len(dataset.train)), steps):
            _update(weights, optimizer, vectors, dataset, torch.from_numpy(rows), spec)
        found = weights.detach().clone()
        if (after := validated(found)) > best.validation[1]:
            best = Adapter(found, number, (before, after))
    return best


def _update(
    weights: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    vectors: BaseVectors,
    dataset: Dataset,
    rows: torch.Tensor,
    spec: JobSpec,
) -> None:
    """Take a step of the loss of in-batch negatives."""
    numbers = torch.from_numpy(dataset.train.documents)[rows]
    questions = torch.from_numpy(dataset.train.questions)[rows]
    queries = _units(_units(vectors.train[rows]) @ weights)
    scores = spec.training.scale * queries @ _units(vectors.corpus[numbers]).T
    # The same document in another row is no negative, and neither is another answer.
    same = (numbers[:, None] == numbers) | (questions[:, None] == questions)
    same.fill_diagonal_(fill_value=False)
    loss = cross_entropy(scores - ALIKE * same, torch.arange(len(rows)))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _score(queries: torch.Tensor, corpus: torch.Tensor, relevant: Queries) -> Scores:
    width = corpus.shape[1]
    return score_vectors(Vectors(queries, corpus), relevant, [width])[width]["float32"]


def _units(vectors: torch.Tensor) -> torch.Tensor:
    return Transform().apply(vectors)
