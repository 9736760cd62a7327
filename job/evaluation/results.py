"""What report.json says of scores: base against tuned, smaller vectors, single queries."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

METRIC = "ndcg@10"
CONFIDENCE = 0.95
# By metric, as `ndcg@10` or `recall@100`.
Metrics = dict[str, float]
# The ends of an interval of that confidence.
Interval = tuple[float, float]
T = TypeVar("T")


class Part(BaseModel):
    # What a later image adds is left out, not refused.
    model_config = ConfigDict(
        frozen=True, extra="ignore", validate_by_name=True, serialize_by_alias=True
    )


class Both(Part, Generic[T]):
    """Of the base model and of the tuned one."""

    base: T
    tuned: T


class Scores(Both[dict[str, dict[str, Metrics]]]):
    """Each metric of both models by dimension and precision, and of BM25."""

    bm25: Metrics


class Lift(Part):
    """A paired difference of nDCG@10 over queries, with its two-sided p-value."""

    lift: float
    ci: Interval
    p_value: float
    wins: int
    ties: int
    losses: int

    @property
    def is_gain(self) -> bool:
        return self.ci[0] > 0 and self.p_value < 1 - CONFIDENCE

    @property
    def is_loss(self) -> bool:
        return self.ci[1] < 0 and self.p_value < 1 - CONFIDENCE


class Retention(Part):
    """Share of the best float32 vectors' nDCG@10 that smaller ones keep."""

    share: float
    ci: Interval


class Quality(Part):
    """What the tuned model's vectors of one dimension and precision give and take."""

    retention: Retention
    score_ci: Interval
    bytes_per_vector: int


class Compared(Quality, Lift):
    """Tuned against base by float32 vectors of one dimension."""

    # Against the base model at its full dimension.
    against_full_base: Lift
    against_bm25: Lift


class Precisions(Part):
    """By precision; models are compared by float32 vectors only."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Quality]

    float32: Compared

    def items(self) -> Iterator[tuple[str, Quality]]:
        yield "float32", self.float32
        yield from self.__pydantic_extra__.items()


class ParetoPoint(Part):
    dimension: int
    precision: str
    bytes_per_vector: int
    ndcg: float = Field(alias=METRIC)
    retention: Retention


class Recommendation(Part):
    """The vectors to deploy.

    Rules: `retention` and `min_ndcg` (the smallest that provably keep or reach what the spec
    wants), or `best` (nothing does, so the best of what may be used).
    """

    dimension: int
    precision: str
    stored_as: str
    bytes_per_vector: int
    # By number of documents; vectors only: ids, graphs and texts come on top.
    index_bytes: dict[str, int]
    rule: str
    reason: str
    sentence: str


class FusedLift(Lift):
    # Fused minus alone, of the tuned model.
    against_alone: Lift


class Fusion(Part):
    """Both models fused with BM25 by reciprocal rank, by dimension."""

    k: int
    depth: int
    scores: Both[dict[str, Metrics]]
    comparison: dict[str, FusedLift]
    sentence: str


class AuxiliaryTest(Part):
    """Another test of both models, by dimension."""

    source: str
    queries: int
    corpus: int
    # Usable rows that were not taken, as a text of theirs is in the job's own data.
    left_out: int
    scores: Both[dict[str, Metrics]]
    comparison: dict[str, Lift]
    sentence: str


class Example(Part):
    """A query before and after; a rank is that of its best relevant document, None beyond 100."""

    query_id: str
    query: str
    answer: str
    rank_base: int | None
    rank_tuned: int | None
    ndcg_base: float
    ndcg_tuned: float
    # What the tuned model puts first, where that does not answer.
    instead: str | None


class Segment(Part):
    """Queries of one kind: what tells the kind, its name, and nDCG@10 of both models."""

    by: str
    name: str
    queries: int
    base: float
    tuned: float
    lift: float
    ci: Interval


class Hub(Part):
    """A document that the tuned model puts among the first ten of queries it does not answer."""

    document_id: str
    text: str
    wrong_hits: int
    wrong_hits_base: int


class ErrorAnalysis(Part):
    """Where the tuned model gained and lost, at the main dimension."""

    gained: list[Example]
    lost: list[Example]
    # Suspected label errors: neither model, nor BM25, finds an answer among the first hundred.
    suspected_label_errors: list[Example]
    segments: list[Segment]
    hubs: list[Hub]
    # All of those of which `suspects` are the first.
    not_found: int


class TruncatedTexts(Part):
    """`texts` were looked at, `cut` of them are longer than the model reads; in tokens."""

    texts: int
    cut: int
    longest: int


class Truncation(Part):
    max_tokens: int
    queries: TruncatedTexts
    documents: TruncatedTexts
