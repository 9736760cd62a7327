"""JobSpec: what a job shall do, typed and bounded; where it runs is for MachineOptions to say."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from job.errors import SpecError

Fraction = Annotated[float, Field(ge=0.0, le=0.5)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Columns(Section):
    anchor: str | None = Field(None, description="Column of the questions; found by its name.")
    positive: str | None = Field(None, description="Column of the contexts; found by its name.")
    negatives: tuple[str, ...] | None = Field(
        None, description="Columns of hard negatives; found by their names (`negative`, …)."
    )


class DataSpec(Section):
    source: str | None = Field(
        None,
        description="Pairs: a file, a folder, a BEIR folder, a Hub data set id or "
        "`builtin:aws-docs`. The channel `data` wins over it.",
    )
    subset: str | None = Field(None, description="Configuration of a Hub data set.")
    split: str = Field("train", description="Split of a Hub data set.")
    columns: Columns = Columns()
    validation: str | None = Field(None, description="Pairs to validate on, instead of a split.")
    test: str | None = Field(None, description="Pairs to test on, instead of a split.")
    corpus: str | None = Field(None, description="More documents to search among (`id`, `text`).")
    limit: int | None = Field(
        None, ge=1, description="Use only so many rows, drawn with `data.seed`."
    )
    validation_fraction: Fraction = Field(0.1, description="Share of the rows to validate on.")
    test_fraction: Fraction = Field(0.1, description="Share of the rows to test on.")
    near_duplicate_threshold: float | None = Field(
        0.8,
        gt=0.0,
        le=1.0,
        description="Texts whose word shingles overlap so far (Jaccard) stay in one split; "
        "`null` compares normalized texts only.",
    )
    min_characters: int = Field(
        3, ge=1, le=1000, description="Shorter questions and contexts are dropped."
    )
    min_test_queries: int = Field(
        30, ge=1, description="Fewer test queries than this are an error: they would prove nothing."
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of the sample and of the splits.")


class ModelSpec(Section):
    base: str = Field(
        "BAAI/bge-base-en-v1.5",
        description="Model to start from: a Hub id, a local folder or `builtin:minilm`.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    name: str | None = Field(None, description="Name of the tuned model in its card.")
    language: str | None = Field(None, description="Language of the data, for the card (`en`).")
    license: str | None = Field(
        None, description="Licence of the tuned model; the base model's when not given."
    )
    query_prompt: str = Field(
        "auto",
        description="Text put before each query. `auto`: the family's documented prompt, "
        "where it helps the base model on validation.",
    )
    document_prompt: str = Field("auto", description="The same for documents.")
    max_length: int | None = Field(
        None, ge=8, le=131_072, description="Tokens a text is cut to; the model's own by default."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="Attention implementation."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Arithmetic of training and encoding; `auto` asks the hardware."
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that the model repository brings. Off for a reason."
    )


class TrainingSpec(Section):
    # Four epochs as in the article; each sees every pair once.
    epochs: int = Field(4, ge=0, le=1000, description="Passes over the pairs; 0 only scores.")
    # Every other document of the batch is a negative, so the batch is the difficulty of the task.
    # Accumulation adds none, hence it is not offered.
    batch_size: int = Field(
        128, ge=2, le=65_536, description="Pairs a step; the others' documents are negatives."
    )
    mini_batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows embedded at once (gradient caching): less memory, the same loss.",
    )
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        "auto", description="Peak learning rate; `auto` goes by the model's size."
    )
    warmup_ratio: float = Field(
        0.1, ge=0.0, le=0.9, description="Share of the steps that warm the learning rate up."
    )
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="Learning rate after the warm-up."
    )
    # Decay pulls a model that is already good towards zero; with so few steps it only costs.
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="Weight decay of AdamW.")
    scale: float = Field(
        20.0, gt=0.0, le=1000.0, description="Similarities are multiplied by it (1 / temperature)."
    )
    dimension_weights: tuple[Annotated[float, Field(gt=0.0)], ...] | None = Field(
        None, description="Weight of each dimension in the loss; equal by default."
    )
    evaluate_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="Validate and write a checkpoint each epoch or each N steps."
    )
    report_to: tuple[str, ...] = Field(
        ("tensorboard",), description="Trainer integrations that receive the curves."
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of the training.")


class EvaluationSpec(Section):
    dimensions: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] | None = Field(
        None,
        min_length=1,
        description="Matryoshka dimensions; by default the model's width and each of "
        "512, 256, 128, 64 below it.",
    )
    main_dimension: int = Field(
        128,
        ge=1,
        description="Dimension that selects the checkpoint and carries the verdict "
        "(the nearest one below where the model lacks it).",
    )
    protocol: Literal["grouped", "article"] = Field(
        "grouped",
        description="`grouped`: no leakage. `article`: random rows, relevance by row, no prompts.",
    )
    retention: float = Field(
        0.99,
        gt=0.0,
        le=1.0,
        description="The recommended dimension keeps this share of the full one's nDCG@10.",
    )
    permutations: int = Field(
        10_000, ge=100, le=1_000_000, description="Sign flips behind the p-values."
    )
    validation_corpus_limit: int = Field(
        5_000, ge=1, description="Documents searched when validating; the test searches all."
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="Texts encoded at once.")

    @model_validator(mode="after")
    def _dimensions_differ(self) -> Self:
        if self.dimensions and len(set(self.dimensions)) < len(self.dimensions):
            msg = f"`evaluation.dimensions` names one twice: {list(self.dimensions)}"
            raise ValueError(msg)
        return self


class OutputSpec(Section):
    uri: str = Field("runs", min_length=1, description="Folder that receives the results.")


class JobSpec(Section):
    version: Literal[1] = Field(1, description="Version of this format.")
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    output: OutputSpec = OutputSpec()

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def build_spec(
    document: Mapping[str, Any], assignments: Mapping[str, str] | None = None
) -> JobSpec:
    """Merge a document with dotted assignments (`training.epochs` → `"3"`), which win.

    Raises `SpecError` that names each wrong field, and the nearest right one.
    """
    merged = _as_json(document)
    for key, text in (assignments or {}).items():
        _assign(merged, key, _parse_value(key, text))
    try:
        return JobSpec.model_validate(merged)
    except ValidationError as error:
        raise SpecError("; ".join(_explain(dict(e)) for e in error.errors()[:3])) from None


def _as_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a document; sections without any field (all commented out) are left to their defaults.

    YAML knows dates, sets and cycles, which no field takes.
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(document))
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"The spec holds what is neither text, number nor list: {error}. Put it in quotes."
        raise SpecError(msg) from None
    return _without_empty_sections(copy, JobSpec)


def _without_empty_sections(document: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    sections = _sections(model)
    return {
        key: _without_empty_sections(value, sections[key])
        if key in sections and isinstance(value, dict)
        else value
        for key, value in document.items()
        if value is not None or key not in sections
    }


def _sections(model: type[BaseModel]) -> dict[str, type[Section]]:
    return {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _section_names(model: type[BaseModel] = JobSpec, prefix: str = "") -> Iterable[str]:
    for name, section in _sections(model).items():
        yield f"{prefix}{name}"
        yield from _section_names(section, f"{prefix}{name}.")


def parse_assignments(texts: Iterable[str]) -> dict[str, str]:
    """Split `section.field=value` texts."""
    assignments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            msg = f"`--set {text}` has no `=`; expected `--set section.field=value`."
            raise SpecError(msg)
        assignments[key.strip()] = value
    return assignments


def read_document(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a spec's file; `name`, or else its path, stands in errors."""
    name = name or str(path)
    try:
        return parse_document(path.read_text("utf-8"), name)
    except UnicodeDecodeError as error:
        msg = f"`{name}` is not UTF-8: byte 0x{error.object[error.start]:02x}. Save it as UTF-8."
        raise SpecError(msg) from None
    except OSError as error:
        msg = f"`{name}` cannot be read: {error.strerror}."
        raise SpecError(msg) from None


def parse_document(text: str, name: str) -> dict[str, Any]:
    """Read a spec from YAML or JSON; `name` says in errors where the text came from."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        msg = f"`{name}` is not valid YAML{where}: {problem}."
        raise SpecError(msg) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        msg = f"`{name}` holds a {type(document).__name__}; expected sections such as `data:`."
        raise SpecError(msg)
    return document


def differing_fields(a: JobSpec, b: JobSpec) -> list[str]:
    """Name the dotted fields whose values differ."""
    left, right = _flatten(a.model_dump(mode="json")), _flatten(b.model_dump(mode="json"))
    return [key for key in left | right if left.get(key) != right.get(key)]


def field_rows() -> list[tuple[str, str, str]]:
    """List every field as (dotted name, default, description), in the spec's order."""
    return list(_rows(JobSpec, ""))


def _rows(section: type[BaseModel], prefix: str) -> Iterable[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _rows(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(field.default), field.description or ""


def _flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _assign(document: dict[str, Any], key: str, value: object) -> None:
    *sections, field = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            msg = f"`{key}` cannot be set: `{section}` holds {document!r}, not fields."
            raise SpecError(msg)
    document[field] = value


def _parse_value(key: str, text: str) -> object:
    # What looks like a number, a truth value or a mapping is a text in a field of text: a prompt
    # ends in `: `, a language is called `no`. Quotes and `null` mean what they do in YAML.
    if key in _text_fields() and text[:1] not in ("'", '"') and text not in ("", "~", "null"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        msg = f"`{key}`: the value {text!r} is not valid YAML; put it in quotes."
        raise SpecError(msg) from None


def _text_fields(model: type[BaseModel] = JobSpec, prefix: str = "") -> set[str]:
    own = {
        f"{prefix}{name}"
        for name, field in model.model_fields.items()
        if field.annotation in (str, str | None)
    }
    return own.union(*(_text_fields(s, f"{prefix}{name}.") for name, s in _sections(model).items()))


def _explain(error: dict[str, Any]) -> str:
    # The location of a union's member ends in the member's name, which means nothing to a user.
    known = {name for name, *_ in field_rows()} | set(_section_names())
    parts = [str(part) for part in error["loc"]]
    while parts and ".".join(parts) not in known and error["type"] != "extra_forbidden":
        parts.pop()
    key = ".".join(parts) or "the spec"
    if error["type"] == "extra_forbidden":
        return f"`{key}` is not a field of the spec. {_nearest(key)}".rstrip()
    found = repr(error["input"])
    return f"`{key}`: {error['msg'].removeprefix('Value error, ')} (found {found[:80]})"


def _nearest(key: str) -> str:
    known = [*_section_names(), *(name for name, *_ in field_rows())]
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    leaf = key.rsplit(".", 1)[-1]
    near = (
        [by_leaf[leaf]]
        if leaf in by_leaf
        else difflib.get_close_matches(key, known, 1)
        or [by_leaf[name] for name in difflib.get_close_matches(leaf, by_leaf, 1)]
    )
    return f"Did you mean `{near[0]}`?" if near else "`embedtune schema` lists the fields."
