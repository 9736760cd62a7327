"""report.json as types: built by `job.report.build`, read by every view and by the launcher.

Version 1: fields may be added, but are never renamed or removed, since other programs read them.
`embedtune schema --report` prints its JSON Schema.
"""

from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from job.core.errors import StorageError
from job.evaluation.results import (
    METRIC,
    AuxiliaryTest,
    Both,
    Compared,
    ErrorAnalysis,
    Fusion,
    Interval,
    Lift,
    NumberFormats,
    ParetoPoint,
    Part,
    Precisions,
    Quality,
    QueryGroups,
    Recommendation,
    Scores,
    Swap,
    Truncation,
)
from job.evaluation.scope import Overlap, Scope, TestGroups

# Re-exported for the launcher, which may not import `job.evaluation`.
__all__ = ["METRIC", "Compared", "Lift", "Quality", "Report"]


class Verdict(Part):
    """The result of two tests in a fixed order: "improved", then "deploy".

    `dimension`, `precision`, `lift`, `ci` and `p_value` are those of `Report.swap`. In older
    reports they are of float32 vectors at the main dimension, which decided the verdict.
    """

    # The tuned model is better than the base model at full width, as float32, and on validation.
    improved: bool
    # The recommended vectors, too, are better than the base model at full width.
    deploy: bool | None = None
    metric: str
    dimension: int
    precision: str | None = None
    # The dimension that selects checkpoints.
    main_dimension: int | None = None
    lift: float
    ci: Interval
    p_value: float
    # Tuned against base at full width, as float32.
    full_width: Lift | None = None
    minimum_detectable_effect: float
    sentence: str


class Headline(NamedTuple):
    """nDCG@10 before and after, and the lift with its interval.

    From the base model's float32 vectors at full width to the tuned model's at `dimension`.
    """

    before: float
    after: float
    lift: float
    ci: Interval
    dimension: str


class Input(Part):
    """An input and its fetched version; a local input has a `uri` only."""

    uri: str
    commit: str | None = None
    subset: str | None = None
    split: str | None = None
    version: str | None = None
    file: str | None = None
    files: int | None = None
    bytes: int | None = None


class Dropped(Part):
    rows: int
    # The first dropped rows, as `file:row`.
    first: list[str]


class Duplicates(Part):
    rows_sharing_a_context: int
    near_duplicate_pairs: int
    groups: int
    largest_group: int
    oversized_groups: int


class Leakage(Part):
    """Share of test contexts that also occur in training: measured, and under a random split."""

    test_contexts_in_train: float
    under_a_random_split: float
    removed_rows: int


class Labels(Part):
    column: str
    # Rows by label.
    counts: dict[str, int]
    relevant: int
    # Those that became hard negatives of their question, or were dropped.
    not_relevant: int
    no_label: int


class FoundInCorpus(Part):
    found: int
    contexts: int


class Data(Part):
    source: str
    # The layout that the source was read as.
    format: str = "rows"
    columns: dict[str, Any]
    rows: int
    used: int
    # Distinct questions of the rows used.
    questions: int | None = None
    # By reason.
    dropped: dict[str, Dropped]
    dropped_documents: dict[str, Dropped]
    # Rows that repeat a pair and brought it another negative.
    merged_rows: int = 0
    # Hard negatives of the rows used.
    negatives: int = 0
    labels: Labels | None = None
    # Distinct contexts that are documents of a given corpus.
    contexts_found_in_corpus: FoundInCorpus | None = None
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    splits: dict[str, int]
    duplicates: Duplicates
    leakage: Leakage
    overlap: Overlap | None = None
    test_groups: TestGroups | None = None
    queries: dict[str, int]
    # Whether nDCG uses relevance grades; otherwise every grade is 1.
    graded: bool = False
    corpus: int
    fingerprint: dict[str, str]
    truncation: Truncation


class ModelPrompts(Part):
    query: str
    document: str


class Prompts(Both[ModelPrompts]):
    sentence: str


class Resolved(Part):
    # What `auto` resolved to.
    value: Any
    reason: str


class Training(Part):
    steps: int
    resumed_from_step: int
    # 0 means the base model.
    best_step: int
    hyperparameters: dict[str, Resolved]
    base_validation: float
    best_validation: float
    history: list[dict[str, int | float]]
    stopped_early: str | None
    # `rank`, `alpha`, `parameters`, and the lowest cosine of a text before and after merging.
    lora: dict[str, int | float] | None = None
    mini_batch_size: dict[str, int] | None
    tokens: dict[str, int | float | None] | None
    pairs: int
    seconds: float
    pairs_per_second: float | None
    # `host_bytes` and `device_bytes`.
    peak_memory: dict[str, int | None]
    remark: str


class Cost(Part):
    # None without a price: unknown, not free.
    usd: float | None
    basis: str


class Environment(Part):
    versions: dict[str, str]
    device: str
    precision: str
    reason: str
    formats: NumberFormats | None = None
    # Attention implementations by use: `encoding`, `training`.
    attention: dict[str, str] = Field(default_factory=dict)
    hosts: int
    processes: int


class Weights(Part):
    uri: str | None = None
    fingerprint: str


class Usage(Part):
    python: str
    # None if float32 vectors are recommended.
    quantized: str | None
    serve: str


class Finding(Part):
    finding: str
    do: str


class Report(Part):
    """The whole report. Mappings by dimension have strings as keys, large to small."""

    version: Literal[1]
    job_name: str
    finished: str
    verdict: Verdict
    # None in older reports.
    swap: Swap | None = None
    test_groups: QueryGroups | None = None
    recommendation: Recommendation
    pareto: list[ParetoPoint]
    scores: Scores
    comparison: dict[str, Precisions]
    fusion: Fusion
    error_analysis: ErrorAnalysis
    out_of_domain: AuxiliaryTest | None
    article: AuxiliaryTest | None
    # By role.
    inputs: dict[str, Input]
    data: Data
    prompts: Prompts
    training: Training
    # By stage.
    seconds: dict[str, float]
    cost: Cost
    environment: Environment
    models: Both[Weights]
    usage: Usage
    repeat: dict[str, str]
    # What the results hold for; None in reports of older versions.
    scope: Scope | None = None
    # The resolved spec, with the fields of the image that ran the job.
    spec: dict[str, Any]
    advice: list[Finding]

    @classmethod
    def read(cls, text: str | bytes, source: str) -> "Report":
        """Parse a report; raises `StorageError`, which names the first invalid field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            msg = f"`{source}` is damaged: {field}{': ' if field else ''}{first['msg']}."
            raise StorageError(msg) from None

    @property
    def main(self) -> str:
        """The main dimension as a key of mappings by dimension."""
        return str(self.verdict.main_dimension or self.verdict.dimension)

    @property
    def headline(self) -> Headline:
        """The numbers that the verdict is about: the swap, or full width if it shows no gain.

        In older reports, both models at the main dimension.
        """
        verdict, swap = self.verdict, self.swap
        if verdict.deploy and swap:
            return Headline(swap.base, swap.tuned, swap.lift, swap.ci, str(swap.dimension))
        dimension = self.full if verdict.full_width else self.main
        found = verdict.full_width or verdict
        scores = (self.ndcg("base", dimension), self.ndcg("tuned", dimension))
        return Headline(*scores, found.lift, found.ci, dimension)

    @property
    def full(self) -> str:
        """The largest dimension as a key of mappings by dimension."""
        return next(iter(self.comparison))

    @property
    def fetched(self) -> dict[str, Input]:
        """The inputs that were fetched at a known commit or version."""
        return {role: found for role, found in self.inputs.items() if found.commit or found.version}

    def remarks(self, dimension: str, precision: str) -> list[str]:
        point = (int(dimension), precision)
        chosen = (self.recommendation.dimension, self.recommendation.precision)
        remarks = ["recommended"] if chosen == point else []
        frontier = {(found.dimension, found.precision) for found in self.pareto}
        return remarks + (["frontier"] if point in frontier else [])

    def ndcg(
        self, model: Literal["base", "tuned"], dimension: str, precision: str = "float32"
    ) -> float:
        by_dimension = self.scores.base if model == "base" else self.scores.tuned
        return by_dimension[dimension][precision][METRIC]

    def to_json(self) -> str:
        # Omit unset fields: most fields of an input do not apply to it.
        return self.model_dump_json(indent=2, exclude_unset=True) + "\n"
