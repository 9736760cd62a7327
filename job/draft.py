"""`init`: a commented job file for given pairs, with what was recognized in them.

Needs no torch.
"""

import json
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import yaml

from job.core.errors import ModelError, StorageError
from job.core.formatting import counted, escape_to_one_line
from job.core.memory import WIDTH_FIELDS, count_parameters
from job.data.dataset import Dataset, inspect_dataset, require_enough
from job.evaluation.dimensions import dimensions_of
from job.inputs import fetch_data, fetch_model
from job.spec.schema import PRESETS, DataFormat, JobSpec, ModelSpec
from job.storage.workspace import Workspace
from job.training.auto_values import choose_for_pairs, learning_rate

# Layouts whose columns have the owner's names; others name their own.
NAMED_COLUMNS = ("rows", "saved", "splits", "pandas", "columns")
WIDTH = 100
DIMENSIONS = "The width of the model, and those of 2048, 1024, 512, 256, 128 and 64 below it."
Sections = dict[str, dict[str, Any]]


def draft_job_file(spec: JobSpec) -> str:
    """Look at the data as `check` does, and return a job file for it; raise what a job would."""
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        channels = {role: found.path for role, found in fetch_data(spec, workspace, {}).items()}
        dataset = inspect_dataset(spec.data, channels, spec.evaluation.protocol)
        require_enough(dataset, spec.data)
        width, parameters = _look_at_model(spec.model, workspace)
    return "\n".join(_lines(spec, dataset, width, parameters)) + "\n"


def _lines(
    spec: JobSpec, dataset: Dataset, width: int | None, parameters: int | None
) -> Iterator[str]:
    given = _given(spec)
    facts = dataset.facts
    yield "# A job for embedtune: `embedtune launch FILE`. `embedtune schema` lists all fields."
    splits = ", ".join(f"{name} {size}" for name, size in facts["splits"].items())
    negatives = f"; {counted(facts['negatives'], 'hard negative')}" if facts["negatives"] else ""
    rows = f"{facts['rows']} rows, {facts['used']} usable ({splits})"
    yield from _comment(f"For {facts['source']}: {rows}{negatives}.")
    yield f"version: {spec.version}"
    yield "# Defaults of the fields that are not given: `quick`, `balanced` or `best`."
    yield f"preset: {spec.preset}"
    yield ""
    yield from _data(spec, facts, given.pop("data"))
    yield ""
    yield "model:"
    yield from _fields({"base": spec.model.base} | given.pop("model", {}))
    yield ""
    yield from _training(spec, len(dataset.train), parameters, given.pop("training", {}))
    yield ""
    yield from _evaluation(spec, width, given.pop("evaluation", {}))
    for section, fields in given.items():
        yield from ("", f"{section}:")
        yield from _fields(fields)


def _given(spec: JobSpec) -> Sections:
    """Return the fields that were set, by section; the preset sets its own again."""
    found = spec.model_dump(mode="json", exclude_unset=True, exclude={"version", "preset"})
    for section, values in PRESETS[spec.preset].items():
        for name, value in values.items():
            if found.get(section, {}).get(name) == value:
                del found[section][name]
    return {section: fields for section, fields in found.items() if fields}


def _data(spec: JobSpec, facts: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    yield "data:"
    source, columns = given.pop("source"), given.pop("columns", {})
    yield from _fields({"source": source})
    layout = facts["format"]
    found = {role: value for role, value in facts["columns"].items() if value}
    # What is named must be in every set of pairs; other sets may have other columns.
    other = next((name for name in ("validation", "test") if getattr(spec.data, name)), None)
    if other or source.startswith("builtin:"):
        shown = ", ".join(f"{role} {_value(value)}" for role, value in found.items())
        why = f", not set as `{other}` may have others" if other else ""
        yield from _comment(f"Recognized{why}: format {layout}, {shown}.", 2)
    else:
        if "format" not in given:
            yield "  # As recognized."
            given = {"format": layout if layout in get_args(DataFormat) else "auto"} | given
        columns = (found if layout in NAMED_COLUMNS else {}) | columns
    yield from _fields({"format": given.pop("format")} if "format" in given else {})
    if columns:
        yield "  columns:"
        yield from _fields(columns, 4)
    yield from _fields(given)
    for note in facts["notes"]:
        yield from _comment(f"Decided: {note}", 2)
    for warning in facts["warnings"]:
        yield from _comment(f"WARNING: {warning}", 2)


def _training(
    spec: JobSpec, pairs: int, parameters: int | None, given: dict[str, Any]
) -> Iterator[str]:
    values, reasons = choose_for_pairs(spec.training, pairs)
    sentences = {name: f"{value}: {reasons[name]}." for name, value in values.items()}
    if spec.training.learning_rate == "auto" and parameters is None:
        sentences["learning_rate"] = (
            "Depends on the model's size; its weights are not on this machine."
        )
    elif spec.training.learning_rate == "auto" and parameters:
        rate, reason = learning_rate(parameters)
        sentences["learning_rate"] = f"{rate:g}: {reason}."
    if spec.training.mini_batch_size == "auto":
        sentences["mini_batch_size"] = "Depends on the free memory of the machine."
    yield "training:"
    if sentences:
        yield "  # The job resolves `auto`; what it comes to for this data:"
    for name, why in sentences.items():
        yield f"  {name}: auto  # {why}"
    yield from _fields({name: value for name, value in given.items() if name not in sentences})
    if not sentences and not given:
        yield "  # All values come from the preset."


def _evaluation(spec: JobSpec, width: int | None, given: dict[str, Any]) -> Iterator[str]:
    yield "evaluation:"
    if width is None and not spec.evaluation.dimensions:
        why = "the model's configuration is not on this machine, so the job decides"
        yield from _comment(f"{DIMENSIONS[:-1]}; {why}.", 2)
        yield "  dimensions: null"
        main = spec.evaluation.main_dimension
    else:
        dimensions = dimensions_of(spec.evaluation, width or 0)
        if not spec.evaluation.dimensions:
            yield f"  # {DIMENSIONS}"
        yield f"  dimensions: {_value(list(dimensions.all))}"
        main = dimensions.main
    yield "  # The dimension that selects the checkpoint."
    yield f"  main_dimension: {main}"
    written = ("dimensions", "main_dimension")
    yield from _fields({name: value for name, value in given.items() if name not in written})


def _comment(text: str, indent: int = 0) -> Iterator[str]:
    prefix = " " * indent + "# "
    yield from textwrap.wrap(
        escape_to_one_line(text),
        WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fields(fields: dict[str, Any], indent: int = 2) -> Iterator[str]:
    for name, value in fields.items():
        yield f"{' ' * indent}{name}: {_value(value)}"


def _value(value: object) -> str:
    """Write a value as YAML, in one line."""
    listed = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=math.inf)
    return str(listed).strip().removeprefix("[").removesuffix("]")


def _look_at_model(spec: ModelSpec, workspace: Workspace) -> tuple[int | None, int | None]:
    """Return the width of the model's vectors and its number of parameters; None if unknown."""
    try:
        # Fetch the settings, but no weights.
        folder = fetch_model(spec, workspace, {}, only="*.json").path
        return _width(folder), count_parameters(folder)
    except (ModelError, StorageError, OSError, ValueError):
        return None, None


def _width(folder: Path) -> int | None:
    """Read the width from the last dense layer, or from the configuration of the transformer."""
    if dense := sorted(folder.glob("*_Dense/config.json")):
        return _positive(_read(dense[-1]).get("out_features"))
    config = folder / "config.json"
    found = _read(config) if config.is_file() else {}
    return next((width for key in WIDTH_FIELDS if (width := _positive(found.get(key)))), None)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    return found if isinstance(found, dict) else {}
