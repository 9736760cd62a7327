"""JobSpec: what a job shall do, typed and bounded; where it runs is for MachineOptions to say."""

import json
import re
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=0.5)]
Size = Annotated[int, Field(ge=1, le=65_536)]
# Whole passes stay whole numbers: `4` is not written back as `4.0`.
Passes = Annotated[int, Field(ge=0, le=1000)] | Annotated[float, Field(ge=0, le=1000)]

# Fields that may name a path, and what file systems allow.
PATH_FIELDS = ("source", "validation", "test", "corpus", "base", "out_of_domain", "uri")
PATH_BYTES, NAME_BYTES = 4095, 255


def _unwrap_descriptions(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        if "description" in field:
            field["description"] = field["description"].replace("\n", " ")


class Section(BaseModel):
    # The text below a field is its description, in the README's table and in the JSON Schema.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=_unwrap_descriptions,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, given: object, info: ValidationInfo) -> object:
        """Refuse what would pass for something else: YAML's `no` is false, which counts as 0."""
        field = info.field_name or ""
        kind = cls.model_fields[field].annotation
        # A choice of words refuses what is none of them by itself, but `True` equals 1.
        is_choice = get_origin(kind) is Literal and given not in get_args(kind)
        for value in given if isinstance(given, list | tuple) else [given]:
            if isinstance(value, bool) and not (kind is bool or is_choice):
                msg = "a truth value is neither a number nor a text; put it in quotes if it is one"
                raise ValueError(msg)
            if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
                msg = "holds a zero byte, or what is not UTF-8"
                raise ValueError(msg)
        if field in PATH_FIELDS and given is not None:
            _check_path(str(given))
        return given


def _check_path(path: str) -> None:
    """Refuse early what every look at a disk would stumble over."""
    if not path:
        msg = "is empty"
        raise ValueError(msg)
    if len(path.encode()) > PATH_BYTES or max(map(len, path.encode().split(b"/"))) > NAME_BYTES:
        msg = f"a path may be {PATH_BYTES} bytes long, and each part of it {NAME_BYTES}"
        raise ValueError(msg)


class Columns(Section):
    anchor: str | None = None
    """Column of the questions; found by its name."""
    positive: str | None = None
    """Column of the contexts; found by its name."""
    negatives: tuple[str, ...] | None = None
    """Columns of hard negatives; found by their names (`negative`, …)."""
    group: str | None = None
    """Column to slice the report by, for instance a product or a language."""
    label: str | None = None
    """Column that says whether the context answers the question (0: a hard negative; grades above 0
    are relevant); found by its name. `none`: read no labels."""

    @field_validator("negatives", mode="before")
    @classmethod
    def _take_one_name(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given


# The layouts of `job.data.formats.registry`, in its order.
DataFormat = Literal[
    "auto", "rows", "lists", "beir", "autorag", "saved", "llamaindex", "squad", "splits", "pandas",
    "columns", "tevatron", "dpr", "instructions", "flagembedding", "sentence-transformers", "swift",
    "msmarco", "ragas", "nemo", "questions",
]  # fmt: skip


class DataSpec(Section):
    source: str | None = None
    """Pairs: a file, a folder, a BEIR folder, `s3://bucket/prefix`, a Hub data set (`owner/name`,
    `hf://datasets/owner/name@revision:split`) or `builtin:aws-docs`. The channel `data` wins."""
    subset: str | None = None
    """Configuration of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set; `a+b` joins two, also those of a folder's files."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    max_download_gb: float = Field(50.0, gt=0.0)
    """Larger data is refused before it is downloaded."""
    format: DataFormat = "auto"
    """Layout of the pairs; `auto`: recognized from the folder or the first rows."""
    encoding: str = "utf-8"
    """Encoding of text files (`cp1252`); UTF-16 with a byte order mark is read in any case."""
    columns: Columns = Columns()
    min_label: float | None = None
    """Rows whose label is lower become hard negatives; needed for similarities."""
    positive_labels: tuple[str, ...] | None = Field(None, min_length=1)
    """Labels that make a pair, if labels are classes; rows with others become hard negatives."""
    validation: str | None = None
    """Pairs to validate on, instead of a split."""
    test: str | None = None
    """Pairs to test on, instead of a split."""
    corpus: str | None = None
    """More documents to search among (`id`, `text`)."""
    limit: int | None = Field(None, ge=1)
    """Use only so many rows, drawn with `data.seed`."""
    validation_fraction: Fraction = 0.1
    """Share of the rows to validate on."""
    test_fraction: Fraction = 0.1
    """Share of the rows to test on."""
    near_duplicate_threshold: float | None = Field(0.8, gt=0.0, le=1.0)
    """Texts whose word shingles overlap so far (Jaccard) stay in one split; `null` compares
    normalized texts only."""
    large_groups: Literal["keep", "by_question"] = "keep"
    """Groups of rows that share texts stay in one split. `by_question` divides those of more than
    5 % of the rows by question; contexts that splits then share are counted."""
    min_characters: int = Field(3, ge=1, le=1000)
    """Shorter questions and contexts are dropped; a character of a language without spaces counts
    twice."""
    min_test_queries: int = Field(30, ge=1)
    """Fewer test queries than this are an error: they would prove nothing."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the sample and of the splits."""

    @field_validator("positive_labels", mode="before")
    @classmethod
    def _take_one_label(cls, given: object) -> object:
        return given if given is None or isinstance(given, list | tuple) else (given,)

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            # Encodings of bytes as bytes (`hex`) are known as well.
            "".encode(encoding)
        except (LookupError, ValueError):
            msg = f"there is no encoding `{encoding}`; known are `utf-8`, `cp1252`, `shift_jis`, …"
            raise ValueError(msg) from None
        return encoding


class ModelSpec(Section):
    base: str = "BAAI/bge-base-en-v1.5"
    """Model to start from: a Hub id, a local folder, one in S3 (or its `model.tar.gz`) or
    `builtin:minilm`."""
    max_download_gb: float = Field(50.0, gt=0.0)
    """A larger model is refused before it is downloaded."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    name: str | None = None
    """Name of the tuned model in its card."""
    language: str | None = None
    """Language of the data, for the card (`en`)."""
    license: str | None = None
    """Licence of the tuned model; the base model's when not given."""
    query_prompt: str = "auto"
    """Text put before each query. `auto`: the family's documented prompt, where it helps the base
    model on validation."""
    document_prompt: str = "auto"
    """The same for documents."""
    max_length: int | None = Field(None, ge=8, le=131_072)
    """Tokens a text is cut to; the model's own by default."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation; `auto`: `sdpa`, in training on CPUs `eager`."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of training and encoding; `auto` asks the hardware."""
    trust_remote_code: bool = False
    """Run Python code that the model repository brings. Off for a reason."""


class TrainingSpec(Section):
    # `auto` values are resolved in `job.training.hyperparameters`, which gives the reasons.
    epochs: Literal["auto"] | Passes = "auto"
    """Passes over the pairs, also a part of one; `auto` goes by their number, 0 only scores."""
    # Every other document of the batch is a negative, so the batch is the difficulty of the task.
    # Accumulation adds none, hence it is not offered.
    batch_size: Literal["auto"] | Annotated[int, Field(ge=2, le=65_536)] = "auto"
    """Pairs a step; the others' documents are negatives. `auto`: 128, less where pairs are few."""
    mini_batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """Rows embedded at once (gradient caching): less memory, the same loss. `auto`: as the memory
    needs, `null`: all."""
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0.0, le=1.0)] = "auto"
    """Peak learning rate; `auto` goes by the model's size."""
    # In so few steps dropout gained nothing, and made them half as fast on a CPU (job/LOG.md).
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.0
    """Dropout while training; `null`: what the model was trained with."""
    # Hard negatives for nothing: a point of nDCG@10 on one data set, none on another (job/LOG.md).
    hard_group_size: int = Field(8, ge=1, le=1024)
    """Batches are filled with so many pairs at a time that the base model easily mistakes for each
    other; 1: at random."""
    # Three gain about half a point of nDCG@10, for two to three times the training (job/LOG.md).
    mined_negatives: int = Field(0, ge=0, le=20)
    """Hard negatives mined for each pair, by the base model among the training documents."""
    negative_margin: float = Field(0.95, gt=0.0, le=1.0)
    """What scores above this share of a pair's own context is no hard negative, of its own mining
    or clustering: it may be an answer."""
    warmup_ratio: float = Field(0.1, ge=0.0, le=0.9)
    """Share of the steps that warm the learning rate up."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Learning rate after the warm-up."""
    # Decay pulls a model that is already good towards zero; with so few steps it only costs.
    weight_decay: float = Field(0.0, ge=0.0, le=1.0)
    """Weight decay of AdamW."""
    scale: float = Field(20.0, gt=0.0, le=1000.0)
    """Similarities are multiplied by it (1 / temperature)."""
    dimension_weights: tuple[Annotated[float, Field(gt=0.0)], ...] | None = None
    """Weight of each dimension in the loss; equal by default."""
    evaluate_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    """Validate and write a checkpoint each epoch or each N steps."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Write more checkpoints than validations: each N steps; `null`: so that an interruption costs
    5 minutes of work at most, and the writing 5 % of the run."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Trainer integrations that receive the curves."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the training."""


class ResolvedTraining(TrainingSpec):
    """The training's section without any `auto`, made by `job.training.hyperparameters`."""

    epochs: Passes
    batch_size: int
    mini_batch_size: int | None
    learning_rate: float


class EvaluationSpec(Section):
    dimensions: tuple[Size, ...] | None = Field(None, min_length=1)
    """Matryoshka dimensions; by default the model's width and 512, 256, 128 and 64 below it."""
    main_dimension: int = Field(128, ge=1)
    """Dimension that selects the checkpoint and carries the verdict (the nearest one below where
    the model lacks it)."""
    protocol: Literal["grouped", "article", "both"] = "grouped"
    """`grouped`: no leakage. `article`: random rows, relevance by row, no prompts. `both`:
    `grouped`, and the same test rows scored by the article's rules beside it."""
    retention: float = Field(0.99, gt=0.0, le=1.0)
    """The recommended vectors keep this share of the best float32 nDCG@10."""
    precisions: tuple[Literal["float32", "int8", "binary"], ...] = Field(
        ("float32", "int8", "binary"), min_length=1
    )
    """Precisions of vectors that may be recommended; float32 is scored in any case."""
    max_bytes_per_vector: int | None = Field(None, ge=1)
    """Larger vectors are not recommended."""
    min_ndcg: float | None = Field(None, gt=0.0, le=1.0)
    """The recommended vectors reach this nDCG@10, instead of a share of the best."""
    out_of_domain: str | None = None
    """Data of another domain that base and tuned model are scored on as well: did it forget? The
    same kinds of source as `data.source`; `builtin:aws-docs` is at hand."""
    out_of_domain_limit: int = Field(500, ge=1)
    """Pairs of these, drawn with `data.seed`."""
    permutations: int = Field(10_000, ge=100, le=1_000_000)
    """Sign flips behind the p-values."""
    # Checkpoints are few and differ by points: a small search ranks them as a large one does.
    validation_corpus_limit: int = Field(1_000, ge=1)
    """Documents searched when validating; the test searches all."""
    batch_size: Size = 64
    """Texts encoded at once."""

    @field_validator("dimensions", "precisions")
    @classmethod
    def _differ(cls, values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if values and len(set(values)) < len(values):
            msg = "names one twice"
            raise ValueError(msg)
        return values

    @field_validator("min_ndcg")
    @classmethod
    def _is_the_only_wish(cls, min_ndcg: float | None, info: ValidationInfo) -> float | None:
        # A resolved spec names every field, so the default is no wish.
        default = cls.model_fields["retention"].default
        retention = info.data.get("retention", default)
        if min_ndcg is not None and retention != default:
            msg = f"is another rule than `evaluation.retention` ({retention:g}); set one of them"
            raise ValueError(msg)
        return min_ndcg


class OutputSpec(Section):
    uri: str = Field("runs", min_length=1)
    """What receives the results: a folder, or `s3://bucket/prefix`."""
    kms_key: str | None = None
    """KMS key that encrypts results in S3; by default as the bucket says."""
    hub: str | None = None
    """Hub repository (`owner/name`) that receives the tuned model."""
    hub_private: bool = True
    """A repository that does not exist yet is made private."""
    hub_strategy: Literal["end", "checkpoint"] = "end"
    """`checkpoint` also pushes each checkpoint, to the branch `NAME-checkpoints`."""
    hub_always: bool = False
    """Push the model even if the verdict is that it was not improved."""

    @field_validator("uri")
    @classmethod
    def _without_a_last_slash(cls, uri: str) -> str:
        # `runs/` and `runs` are one place: a run is found again under either.
        shorter = uri.rstrip("/")
        return uri if shorter.endswith(":") else shorter or uri

    @field_validator("hub")
    @classmethod
    def _is_a_repository(cls, hub: str | None) -> str | None:
        if hub is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub):
            msg = "expected a repository, `owner/name`"
            raise ValueError(msg)
        return hub


# What a preset sets where the spec says nothing; `balanced` is the defaults. README: trade-offs.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Half a pass has no other checkpoint to choose than its last, so a small search is enough to
    # see whether that beats the base model. Small batches and large steps make the most of it.
    "quick": {
        "training": {"epochs": 0.5, "batch_size": 64, "learning_rate": 2e-4},
        "evaluation": {"validation_corpus_limit": 500},
    },
    "balanced": {},
    "best": {"training": {"mined_negatives": 3}},
}


class JobSpec(Section):
    version: Literal[1] = 1
    """Version of this format."""
    preset: Literal["quick", "balanced", "best"] = "balanced"
    """Values of the fields that are not given: `quick` takes minutes, `balanced` is the defaults,
    `best` does everything that pays."""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    output: OutputSpec = OutputSpec()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: object) -> object:
        """Put the preset's values beneath those given; what is wrong is left for others to say."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for section, values in PRESETS.get(str(given.get("preset")), {}).items():
            if isinstance(own := given.get(section, {}), dict):
                filled[section] = values | own
        return filled

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"
