"""The exports in report.json and in each `export.json`: their scores, speed and size."""

from pydantic import Field

from job.evaluation.results import Lift, Part


class Speed(Part):
    """Milliseconds of one query, and documents a second in batches; with tokenization."""

    p50_ms: float
    p95_ms: float
    documents_per_second: float


class Compared(Part):
    """An export against the original, by the same vectors; scores are nDCG@10."""

    dimension: int
    precision: str
    original: float
    export: float
    lift: Lift
    # A lower 95 % bound of the share of the original's nDCG@10 that the export keeps.
    at_least: float


class Original(Part):
    """The stored model in PyTorch, in float32."""

    bytes: int
    speed: Speed
    # nDCG@10 by dimension and precision of the vectors.
    scores: dict[str, dict[str, float]]


class Export(Part):
    name: str
    # Of its folder, without `export.json`.
    bytes: int
    sha256: str
    speed: Speed
    # The lowest cosine of a text's vectors by the export and by the original.
    cosine: float
    scores: dict[str, dict[str, float]]
    # The vectors of full width as float32, and the recommended ones.
    compared: list[Compared]
    # Whether all bounds reach `evaluation.retention`.
    keeps: bool
    sentence: str


class Exports(Part):
    """Exports that were measured together, on one machine."""

    machine: str
    threads: int
    queries: int
    # The documents that were searched, of `corpus`.
    documents: int
    corpus: int
    # The fingerprint of the model's weights.
    model: str
    versions: dict[str, str]
    original: Original
    exports: list[Export] = Field(default_factory=list)
