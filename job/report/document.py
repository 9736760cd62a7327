"""report.json as types: built by `job.report.build`, read by every view and by the launcher.

Version 1: fields may be added, but are never renamed or removed, since other programs read them.
`embedtune schema --report` prints its JSON Schema.
"""

from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from job.core.errors import StorageError
from job.evaluation.keep_index import KeepIndex
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
    Recommendation,
    Scores,
    Stored,
    Swap,
)
from job.evaluation.scope import Scope
from job.exports.results import Exports, Speed
from job.generation.facts import Generation
from job.report.data_section import Data

# Re-exported for the launcher, which may not import `job.evaluation` and `job.exports`.
__all__ = ["METRIC", "Compared", "Exports", "Lift", "Quality", "Report", "Speed", "Stored"]


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
    # The language model that wrote the test questions; None if people did.
    test_by: str | None = None
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
    # nDCG@10 of the base model's shorter vectors on validation, as they are and rotated. None if
    # the model's vectors were not rotated.
    rotation: dict[str, float] | None = None
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
    recommendation: Recommendation
    pareto: list[ParetoPoint]
    scores: Scores
    comparison: dict[str, Precisions]
    fusion: Fusion
    error_analysis: ErrorAnalysis
    # Only with `evaluation.keep_index`.
    keep_index: KeepIndex | None = None
    out_of_domain: AuxiliaryTest | None
    article: AuxiliaryTest | None
    # The questions that a language model wrote, beside a test set of real ones.
    synthetic: AuxiliaryTest | None = None
    generation: Generation | None = None
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
    # Only with `training.refit` or `evaluation.folds`.
    stored: Stored | None = None
    # The tuned model in other formats, those that were measured together in one item.
    exports: list[Exports] = Field(default_factory=list)
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

    @property
    def trained_pairs(self) -> int:
        """The pairs that the model in `model/` was trained on."""
        return self.stored.pairs if self.stored else self.data.splits["train"]

    @property
    def has_seen_test(self) -> bool:
        """Whether the model in `model/` was trained on the test pairs, too."""
        return self.stored is not None and self.stored.kind != "tested"

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
