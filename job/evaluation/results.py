"""The scores in report.json: base against tuned, smaller vectors, single queries."""

from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

METRIC = "ndcg@10"
CONFIDENCE = 0.95
# By metric name, such as `ndcg@10` or `recall@100`.
Metrics = dict[str, float]
# The bounds of a confidence interval at that level.
Interval = tuple[float, float]
T = TypeVar("T")


class Part(BaseModel):
    # Fields that a later image adds are ignored, so an older launcher reads newer reports.
    model_config = ConfigDict(
        frozen=True, extra="ignore", validate_by_name=True, serialize_by_alias=True
    )


class Both(Part, Generic[T]):
    """A value of the base model and of the tuned model."""

    base: T
    tuned: T


class Scores(Both[dict[str, dict[str, Metrics]]]):
    """All metrics: of both models by dimension and precision, and of BM25."""

    bm25: Metrics


class Lift(Part):
    """A paired difference of mean nDCG@10 over queries, with its two-sided p-value."""

    lift: float
    ci: Interval
    p_value: float
    wins: int
    ties: int
    losses: int
    # `ci`, widened as if one more group of queries had moved between rank 1 and rank 2. If hardly
    # any query changed, `ci` is too narrow to exclude a gain or a loss; these bounds are not.
    wide_ci: Interval | None = None

    @property
    def is_gain(self) -> bool:
        return self.ci[0] > 0 and self.p_value < 1 - CONFIDENCE

    @property
    def is_loss(self) -> bool:
        """Whether the new scores are worse; the only definition of "worse"."""
        return self.ci[1] < 0 and self.p_value < 1 - CONFIDENCE

    @property
    def bounds(self) -> Interval:
        """The interval that may exclude a gain or a loss; older reports have only `ci`."""
        return self.wide_ci or self.ci


class Share(Part):
    """A share of the test queries, with its interval."""

    queries: int
    share: float
    ci: Interval


class Retention(Part):
    """The share of the reference's nDCG@10 that vectors keep.

    The reference is the tuned model's float32 vectors at full width; older reports used the
    best float32 vectors. `ci` is for these vectors alone; `at_least` is a lower 95 % bound that
    allows for the choice among all vectors of the report.
    """

    share: float
    ci: Interval
    at_least: float | None = None


class Quality(Part):
    """Quality and size of the tuned model's vectors at one dimension and precision."""

    retention: Retention
    score_ci: Interval
    bytes_per_vector: int
    # The simultaneous lower bound of nDCG@10, like `Retention.at_least`.
    score_at_least: float | None = None


class Compared(Quality, Lift):
    """Tuned against base, with float32 vectors of one dimension."""

    # The tuned model against the base model at its full dimension.
    against_full_base: Lift
    against_bm25: Lift


class Precisions(Part):
    """Results by precision; base and tuned are compared with float32 vectors only."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Quality]

    float32: Compared

    def items(self) -> Iterator[tuple[str, Quality]]:
        yield "float32", self.float32
        yield from self.__pydantic_extra__.items()


class Swap(Lift):
    """The swap that the report recommends.

    The lift is that of the recommended vectors of the tuned model against the base model's float32
    vectors at full width.
    """

    dimension: int
    precision: str
    full_dimension: int
    # nDCG@10 of the base model's vectors and of the recommended ones.
    base: float
    tuned: float
    # Queries with a lower nDCG@10 than before.
    worse: Share
    against_bm25: Lift


class ParetoPoint(Part):
    dimension: int
    precision: str
    bytes_per_vector: int
    ndcg: float = Field(alias=METRIC)
    retention: Retention


class Recommendation(Part):
    """The vectors to deploy.

    `rule` is `retention` or `min_ndcg` (the smallest vectors whose simultaneous lower bound meets
    that target of the spec), or `best` (no bound does, so the vectors with the highest bound).
    """

    dimension: int
    precision: str
    stored_as: str
    bytes_per_vector: int
    # By number of documents; vectors only, without ids, index graphs and texts.
    index_bytes: dict[str, int]
    rule: str
    reason: str
    sentence: str


class FusedLift(Lift):
    # The tuned model fused with BM25 minus the tuned model alone.
    against_alone: Lift


class Fusion(Part):
    """Both models fused with BM25 by reciprocal rank, by dimension."""

    k: int
    depth: int
    scores: Both[dict[str, Metrics]]
    comparison: dict[str, FusedLift]
    # The recommended vectors, fused, against the base model's vectors at full width, fused.
    swap: FusedLift | None = None
    # nDCG@10 of both.
    swap_scores: Both[float] | None = None
    sentence: str


class Agreement(Part):
    """How alike a model ranks documents as the tested model, for the test queries.

    By float32 vectors of full width.
    """

    queries: int
    # Share of the queries with the same first document.
    same_first: float
    # Mean share of the first ten documents that both have; and of the base model's with the tested.
    shared_of_ten: float
    base_shared_of_ten: float


class Stored(Part):
    """Which model `model/` holds, in a run that asks for one of all pairs.

    `tested`: the one that was tested. `refit`: another one, trained on all pairs. `average`: the
    average of the models of the folds. `fold`: the model of one fold. The last three have seen test
    queries.
    """

    kind: Literal["tested", "refit", "average", "fold"]
    # That `model/` was trained on.
    pairs: int
    # Of the training on all pairs; 0 if there was none.
    steps: int
    # Of a model of all pairs with the tested one; None if there is none, or its training failed.
    agreement: Agreement | None
    # Of the tested model's weights; None if there was one for each fold.
    tested_fingerprint: str | None
    sentence: str


class AuxiliaryTest(Part):
    """An additional test of both models, by dimension."""

    source: str
    queries: int
    corpus: int
    # Usable rows that were skipped because one of their texts occurs in the job's data.
    left_out: int
    scores: Both[dict[str, Metrics]]
    comparison: dict[str, Lift]
    # The dimension of the sentence: that of the recommended vectors.
    dimension: int | None = None
    sentence: str


class Example(Part):
    """A query before and after tuning; ranks of its best relevant document, None beyond 100."""

    query_id: str
    query: str
    answer: str
    rank_base: int | None
    rank_tuned: int | None
    ndcg_base: float
    ndcg_tuned: float
    # The document that the tuned model ranks first, if it is irrelevant.
    instead: str | None


class Segment(Part):
    """A segment of the queries: what it is grouped by, its name, and nDCG@10 of both models."""

    by: str
    name: str
    queries: int
    base: float
    tuned: float
    lift: float
    ci: Interval


class Heterogeneity(Part):
    """Whether the lifts of the segments of one kind differ by more than chance."""

    by: str
    segments: int
    p_value: float


class Hub(Part):
    """A document that the tuned model ranks in the top 10 of many queries it does not answer."""

    document_id: str
    text: str
    wrong_hits: int
    wrong_hits_base: int


class ErrorAnalysis(Part):
    """Gains and losses of single queries and segments by the recommended swap.

    In older reports: by the tuned model at the main dimension.
    """

    gained: list[Example]
    lost: list[Example]
    # Neither model nor BM25 finds a relevant document in the top 100.
    suspected_label_errors: list[Example]
    segments: list[Segment]
    hubs: list[Hub]
    # The number of all such queries; `suspected_label_errors` lists only the first ones.
    not_found: int
    # Queries for which neither model ranks an answer first; and those of them for which the tuned
    # model ranks a near-duplicate of an answer first.
    both_failed: int | None = None
    near_duplicate_first: int | None = None
    heterogeneity: list[Heterogeneity] = Field(default_factory=list)
    # What the segments show, and what they do not.
    sentence: str | None = None


class TruncatedTexts(Part):
    """Of `texts` tokenized texts the model truncates `cut`; the longest has `longest` tokens."""

    texts: int
    cut: int
    longest: int


class Truncation(Part):
    max_tokens: int
    queries: TruncatedTexts
    documents: TruncatedTexts


class NumberFormats(Part):
    """Number formats of the base model's files, and of everything that was computed and stored."""

    published: str
    # Of the weights in memory, in training and scoring.
    weights: str
    # Inside the transformers; vectors are computed from them in float32.
    activations: str
    vectors: str = "float32"
    # Of the weights in `model/`.
    stored: str
