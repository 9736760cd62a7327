"""JobSpec: what a job does, typed and bounded. `MachineOptions` (launcher) say where it runs."""

import json
import re
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from job.spec.data_section import Columns, DataFormat, DataSpec
from job.spec.generation_section import GenerationSpec
from job.spec.section import Section

# Other modules import every section from here.
__all__ = [
    "PRESETS",
    "Columns",
    "DataFormat",
    "DataSpec",
    "EvaluationSpec",
    "GenerationSpec",
    "JobSpec",
    "ModelSpec",
    "OutputSpec",
    "ResolvedTraining",
    "Section",
    "TrainingSpec",
]

Item = TypeVar("Item")
Size = Annotated[int, Field(ge=1, le=65_536)]


def _switch(given: object) -> object:
    # YAML reads an unquoted `on` as true.
    return {True: "on", False: "off"}[given] if isinstance(given, bool) else given


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]
# The kinds of `output.exports`; `job.exports.kinds` explains them.
ExportName = Literal[
    "onnx-float32", "onnx-int8", "openvino-float32", "openvino-float16", "openvino-int8"
]
# Whole passes stay whole numbers: `4` is not written back as `4.0`.
Passes = Annotated[int, Field(ge=0, le=1000)] | Annotated[float, Field(ge=0, le=1000)]


def require_distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(values)) < len(values):
        msg = "lists a value twice"
        raise ValueError(msg)
    return values


class ModelSpec(Section):
    base: str = "BAAI/bge-base-en-v1.5"
    """Base model: a Hub id, a local folder, an S3 folder or `model.tar.gz`, or `builtin:minilm`."""
    max_download_gb: float = Field(50.0, gt=0.0)
    """Gigabytes; a larger model is refused before the download."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model; `null` means `main`."""
    name: str | None = None
    """Name of the tuned model in its model card."""
    language: str | None = None
    """Language code of the data for the model card, such as `en`."""
    license: str | None = None
    """License of the tuned model in its model card; `null` copies the base model's."""
    query_prompt: str = "auto"
    """Text added before each query, such as an instruction for your task; `\\n` is a line break.
    `auto` uses the documented prompt of the model if it improves the base model on validation."""
    document_prompt: str = "auto"
    """Text added before each document; `auto` as in `model.query_prompt`."""
    max_length: Literal["auto"] | Annotated[int, Field(ge=8, le=131_072)] | None = "auto"
    """Tokens; longer texts are truncated. `null`: the model's own limit. `auto`: that limit up to
    512, of longer models what 99.5 % of the texts need, at least 512."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention implementation; `auto` is `sdpa` where the architecture has it, else `eager`, and
    `eager` for training with padding on a CPU."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format for training and encoding; `auto` picks the best that the hardware supports."""
    trust_remote_code: bool = False
    """Run Python code from the model repository. Enable it only if you trust the author."""

    @field_validator("attention", mode="before")
    @classmethod
    def _has_padding(cls, attention: object) -> object:
        if str(attention).startswith("flash_attention"):
            msg = (
                "training needs padded texts, which FlashAttention's package does not keep; `sdpa` "
                "has fused attention without that package"
            )
            raise ValueError(msg)
        return attention

    @field_validator("query_prompt", "document_prompt")
    @classmethod
    def _break_lines(cls, prompt: str) -> str:
        # A shell passes the two characters, which no model expects.
        return prompt.replace("\\n", "\n")


class TrainingSpec(Section):
    # `job.training.hyperparameters` resolves `auto` values and gives the reasons.
    epochs: Literal["auto"] | Passes = "auto"
    """Passes over the pairs, fractions allowed; `auto` depends on their number, 0 only scores."""
    # A larger batch has more negatives: a harder task. Gradient accumulation would add none.
    batch_size: Literal["auto"] | Annotated[int, Field(ge=2, le=65_536)] = "auto"
    """Pairs per step; the other pairs' documents are negatives. `auto`: 128, less for few pairs."""
    mini_batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """Rows embedded at once (gradient caching); lower it if memory runs out, the loss stays the
    same. `auto` fits the free memory, `null` is the whole batch."""
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0.0, le=1.0)] = "auto"
    """Peak learning rate; `auto` depends on the model's size. Lower it if training is unstable."""
    lora: Switch = "auto"
    """Train a low-rank adapter (LoRA) on frozen weights, merged into them at the end. `auto`: `on`
    if training all weights does not fit the memory, and for decoders above 500 M parameters."""
    lora_rank: int = Field(16, ge=1, le=1024)
    """Rank of the adapter; a higher one learns more and needs more memory."""
    lora_targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of the linear layers that get an adapter, such as `q_proj`; `null`: all of them."""
    gradient_checkpointing: Switch = "auto"
    """Compute activations again in the backward pass, to save memory at a third more time. `auto`:
    `on` if fewer than 8 pairs fit the memory otherwise."""
    # With so few steps dropout gained nothing and halved the speed on a CPU (job/LOG.md).
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.0
    """Dropout probability in training; `null` keeps the base model's own."""
    # Hard negatives at no cost: a point of nDCG@10 on one data set, none on another (job/LOG.md).
    hard_group_size: int = Field(8, ge=1, le=1024)
    """Batches are built from groups of this many pairs that the base model finds similar, which
    makes in-batch negatives harder. 1 builds random batches."""
    # With batches of nearest neighbors, three gained nothing that could be shown (job/LOG.md).
    mined_negatives: int = Field(0, ge=0, le=20)
    """Hard negatives per pair that the base model finds among the training documents; 3 take two to
    three times as long, and gain a little without batches of neighbors, else hardly anything."""
    negative_margin: float = Field(0.95, gt=0.0, le=1.0)
    """Candidates above this fraction of the positive's score are skipped as likely false
    negatives, in mining and in grouping batches."""
    # Vectors of 64 dimensions gained one to two points of nDCG@10 on two data sets (job/LOG.md).
    rotate: Switch = "auto"
    """Before training, rotate the vectors to the principal components of the training documents, by
    a dense layer: cosines at full width stay the same, shorter vectors keep more. Servers must read
    dense layers. `auto`: `on` if the base model's shorter vectors score higher on validation;
    never with LoRA or `evaluation.keep_index`."""
    warmup_ratio: float = Field(0.1, ge=0.0, le=0.9)
    """Share of the steps in which the learning rate rises to its peak."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    # Decay pulls an already good model towards zero; with so few steps it only hurts.
    weight_decay: float = Field(0.0, ge=0.0, le=1.0)
    """Weight decay of AdamW."""
    scale: float = Field(20.0, gt=0.0, le=1000.0)
    """Factor on the cosine similarities in the loss (1 / temperature)."""
    dimension_weights: tuple[Annotated[float, Field(gt=0.0)], ...] | None = None
    """Loss weight of each dimension, from the largest; `null` weights all equally."""
    evaluate_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    """Validate every epoch, or every N steps; the best weights so far are saved."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Write a checkpoint to resume from every N steps. `null`: whenever 5 minutes of work would be
    lost, or more rarely, so that writing takes at most 5 % of the run."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Trainer integrations that receive the training curves, such as `tensorboard`."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Random seed of the training."""
    deterministic: bool = False
    """Sum gradients in a fixed order on a GPU too, so that the same run gives the same weights; it
    takes longer."""
    seeds: int = Field(1, ge=1, le=20)
    """Number of trainings, with seeds from `training.seed` on. With several, better 3 or more, the
    report has the mean lift, with an interval that covers other trainings too; the model that is
    best on validation is stored."""
    refit: bool = False
    """If the test shows a gain, train once more in the same way on all pairs, those of validation
    and test too, and store that model. The scores are those of the model before, which is stored
    in `model_proven/`."""


class ResolvedTraining(TrainingSpec):
    """The training section with every `auto` resolved by `job.training.hyperparameters`."""

    epochs: Passes
    batch_size: int
    mini_batch_size: int | None
    learning_rate: float
    lora: Literal["on", "off"] = "off"
    gradient_checkpointing: Literal["on", "off"] = "off"


class EvaluationSpec(Section):
    dimensions: tuple[Size, ...] | None = Field(None, min_length=1)
    """Matryoshka dimensions to train and score. `null`: the model's width, and those of 2048, 1024,
    512, 256, 128 and 64 below it."""
    main_dimension: int = Field(128, ge=1)
    """Dimension that selects the checkpoint. If it is not in the list, the next smaller one is
    used."""
    protocol: Literal["grouped", "article", "both"] = "grouped"
    """`grouped` splits without leakage. `article` repeats the AWS article's method: random rows,
    relevance by row, no prompts. `both` is `grouped` and also scores its test rows by the
    article's rules."""
    folds: Literal[0] | Annotated[int, Field(ge=3, le=10)] = 0
    """Train so many times, each time tested on another part of the pairs, so that every pair is a
    test row once; 0: one training and one test. `model/` is then the average of these models, or,
    with `training.refit`, one more of all pairs."""
    retention: float = Field(0.99, gt=0.0, le=1.0)
    """Recommend the smallest vectors whose lower bound keeps this share of the nDCG@10 of float32
    vectors at full width."""
    worth: float = Field(0.01, gt=0.0, le=1.0)
    """The smallest difference of nDCG@10 that matters to you. If no gain or loss is significant,
    the report says whether the test excludes one of this size."""
    precisions: tuple[Literal["float32", "int8", "binary"], ...] = Field(
        ("float32", "int8", "binary"), min_length=1
    )
    """Vector precisions that may be recommended; float32 is always scored."""
    max_bytes_per_vector: int | None = Field(None, ge=1)
    """Bytes; larger vectors are not recommended."""
    min_ndcg: float | None = Field(None, gt=0.0, le=1.0)
    """Recommend the smallest vectors whose lower bound reaches this nDCG@10; replaces
    `retention`."""
    out_of_domain: str | None = None
    """Pairs of another domain to score both models on: did tuning hurt elsewhere? The sources of
    `data.source` work here, `builtin:aws-docs` included."""
    out_of_domain_limit: int = Field(500, ge=1)
    """Random sample size of `evaluation.out_of_domain`, in pairs."""
    keep_index: bool = False
    """Also search the base model's document vectors, by the tuned model's queries and by a linear
    adapter of the base model's: how much of the gain remains without encoding documents again."""
    permutations: int = Field(10_000, ge=100, le=1_000_000)
    """Random sign flips per permutation test; more give finer p-values."""
    # Checkpoints are few and differ by whole points: a small search ranks them like a large one.
    validation_corpus_limit: int = Field(1_000, ge=1)
    """Documents searched in validation; the test searches all of them."""
    batch_size: Size = 1_024
    """Most texts encoded at once; their tokens decide how many are. Lower it if memory runs
    out."""

    @field_validator("dimensions", "precisions")
    @classmethod
    def _are_distinct(cls, values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        return values and require_distinct(values)

    @field_validator("min_ndcg")
    @classmethod
    def _excludes_retention(cls, min_ndcg: float | None, info: ValidationInfo) -> float | None:
        # A resolved spec names every field, so the default does not count as set.
        default = cls.model_fields["retention"].default
        retention = info.data.get("retention", default)
        if min_ndcg is not None and retention != default:
            msg = f"conflicts with `evaluation.retention` ({retention:g}); set only one of them"
            raise ValueError(msg)
        return min_ndcg


class OutputSpec(Section):
    uri: str = Field("runs", min_length=1)
    """Where results go: a folder or `s3://bucket/prefix`. The run's name is appended."""
    kms_key: str | None = None
    """KMS key that encrypts results in S3; `null` uses the bucket's default encryption."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights in `model/`, which are scored as stored; `auto`: float32, above
    500 million parameters bfloat16. Static embeddings are always stored as float32."""
    truncate: bool = False
    """Let `model/` return the recommended dimension by default (`truncate_dim`), for
    sentence-transformers; servers need `dimensions` in each request. `false`: full width."""
    exports: tuple[ExportName, ...] = ()
    """Exports of the tuned model, each scored on the test set and timed on the CPU: `onnx-float32`,
    `onnx-int8`, `openvino-float32`, `openvino-float16`, `openvino-int8`."""
    hub: str | None = None
    """Hub repository (`owner/name`) to push the tuned model to."""
    hub_private: bool = True
    """Create the repository as private if it does not exist."""
    hub_strategy: Literal["end", "checkpoint"] = "end"
    """Push only at the `end`, or also each `checkpoint`, to the branch `NAME-checkpoints`, with
    several trainings `NAME-seed-43-checkpoints`, of all pairs `NAME-refit-checkpoints`."""
    hub_always: bool = False
    """Push the model even if the verdict is "not improved"."""

    @field_validator("exports")
    @classmethod
    def _are_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return require_distinct(names)

    @field_validator("uri")
    @classmethod
    def _strip_trailing_slash(cls, uri: str) -> str:
        # `runs/` and `runs` are the same folder: a run is found under either.
        stripped = uri.rstrip("/")
        return uri if stripped.endswith(":") else stripped or uri

    @field_validator("hub")
    @classmethod
    def _is_a_repository(cls, hub: str | None) -> str | None:
        if hub is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub):
            msg = "expected a repository, `owner/name`"
            raise ValueError(msg)
        return hub


# Values of fields that the spec does not set. job/README.md shows the trade-offs.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Half an epoch has only one checkpoint, so a small search suffices to see whether it beats the
    # base model. Small batches and a high learning rate make the most of the few steps, in which
    # batches of nearest neighbors are no better than random ones, and cost a search (job/LOG.md).
    "quick": {
        "training": {
            "epochs": 0.5,
            "batch_size": 64,
            "learning_rate": 2e-4,
            "hard_group_size": 1,
        },
        "evaluation": {"validation_corpus_limit": 500},
    },
    "balanced": {},
    # The average of five models was better on outside rows than one model, and than a model of all
    # pairs; three mined negatives gained nothing more (job/LOG.md).
    "best": {"evaluation": {"folds": 5}},
}


# Fields that `evaluation.folds` excludes, with the only value that it allows, and why.
WITHOUT_FOLDS: tuple[tuple[str, object, str], ...] = (
    ("data.test", None, "folds test every pair once"),
    ("training.seeds", 1, "folds are several trainings already"),
    ("evaluation.keep_index", False, "it compares the vectors of one tested model"),
    ("evaluation.protocol", "grouped", "the article has one random test set"),
)


class JobSpec(Section):
    version: Literal[1] = 1
    """Version of the job file format."""
    preset: Literal["quick", "balanced", "best"] = "balanced"
    """Values of fields you do not set: `quick` takes minutes, `balanced` is the defaults, `best`
    trains five times, tests every pair once, and averages the models."""
    data: DataSpec = DataSpec()
    generation: GenerationSpec = GenerationSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    output: OutputSpec = OutputSpec()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: object) -> object:
        """Fill in the preset's values; leave invalid input to the field validators."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for section, values in PRESETS.get(str(given.get("preset")), {}).items():
            if isinstance(own := given.get(section, {}), dict):
                filled[section] = values | own
        return filled

    @model_validator(mode="after")
    def _rotation_fits_the_rest(self) -> "JobSpec":
        if self.training.rotate == "on" and self.evaluation.keep_index:
            msg = "`training.rotate=on` excludes `evaluation.keep_index`: the base model's "
            raise ValueError(msg + "document vectors are not rotated")
        return self

    @model_validator(mode="after")
    def _folds_fit_the_rest(self) -> "JobSpec":
        for name, allowed, why in WITHOUT_FOLDS if self.evaluation.folds else ():
            if (found := attrgetter(name)(self)) != allowed:
                msg = f"`evaluation.folds` excludes `{name}={found}`: {why}"
                if self.preset == "best":
                    msg += ". The preset `best` sets it: add `evaluation.folds=0`"
                raise ValueError(msg)
        return self

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"
