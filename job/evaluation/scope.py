"""What the results hold for: which questions, how many documents, which training."""

from pydantic import Field

from job.evaluation.results import Interval, Part, Segment


class AtSize(Part):
    """nDCG@10 of the recommended vectors and of full-width float32, among so many documents."""

    documents: int
    ndcg: float
    full_ndcg: float
    # `ndcg` / `full_ndcg`.
    share: float


class CorpusSizes(Part):
    """What the recommended vectors keep in smaller and smaller samples of the corpus."""

    dimension: int
    precision: str
    full_dimension: int
    # Small to large; the last is the whole corpus.
    measured: list[AtSize]
    # Change of the share with each doubling of the corpus, and its interval; None if there is
    # only one size.
    per_doubling: float | None
    ci: Interval | None


class OneSeed(Part):
    """A training with one seed: validation score, and nDCG@10 and lift on the test set."""

    seed: int
    validation: float
    ndcg: float
    lift: float


class SeedLifts(Part):
    """The mean lift of several trainings.

    `ci` covers other queries and other trainings: its standard error is that over queries and
    `seed_deviation` / √K together. `chosen` is the seed of the stored model.
    """

    seeds: list[OneSeed]
    chosen: int
    lift: float
    ci: Interval
    query_error: float
    seed_deviation: float
    degrees_of_freedom: float


class OneFold(Part):
    """The training of one fold: its best validation score, and nDCG@10 of its test queries.

    If no checkpoint beat the base model on validation, the base model was tested.
    """

    queries: int
    validation: float
    base: float
    tuned: float
    lift: float
    improved_on_validation: bool = True


class Scope(Part):
    """What the results hold for.

    `by_source` has the lifts of queries about sources seen and not seen in training, if there are
    both. These and those of `seeds` are of float32 vectors at `dimension`, the full width.
    """

    estimand: str
    dimension: int
    by_source: list[Segment]
    corpus: CorpusSizes | None
    corpus_sentence: str
    training: str
    # None if there was one training only.
    seeds: SeedLifts | None = None
    # Only with `evaluation.folds`.
    folds: list[OneFold] = Field(default_factory=list)


class Overlap(Part):
    """What the test queries share with the training rows: numbers of queries.

    None: near-duplicates are not searched, or the data does not name documents.
    """

    queries: int
    context: int
    near_context: int | None
    near_question: int | None
    document: int | None
    # Those with any of these, but for near-duplicates of the question.
    seen: int
    # Whether the test rows were given, not drawn from all rows.
    given: bool = False
    estimand: str
    sentence: str


class TestGroups(Part):
    """The groups of the test queries; queries of one group are not independent.

    `effective` is the number of equal groups that would give intervals as wide: n² / Σ n_g².
    """

    groups: int
    effective: float
    # Queries of the largest group.
    largest: int
