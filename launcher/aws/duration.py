"""Estimate how long a job takes, from the sizes of local files; no file is parsed."""

from contextlib import suppress
from pathlib import Path

from launcher.aws.pricing import USUAL_BATCH, Estimate, estimate
from launcher.plan.plan import BUILTIN, Plan

# Formats with one row per line, and their bytes per token, quotes and field names included.
LINES = (".jsonl", ".csv", ".tsv")
BYTES_A_TOKEN = 4.5
# Approximate share of a row's tokens that belong to the context; the rest is the question.
CONTEXT_SHARE = 0.7
# What `auto` usually resolves to for a few thousand pairs.
USUAL_EPOCHS = 4.0
FLOAT32_BYTES = 4
CHUNK = 2**20


def forecast(plan: Plan) -> Estimate | None:
    """Estimate a job on its first instance type; None if data or model have no known size."""
    (rows, size), parameters = _rows_and_bytes(plan), _parameters(plan)
    if not rows or parameters is None:
        return None
    spec = plan.spec
    count = min(rows, spec.data.limit or rows)
    tokens = size / rows / BYTES_A_TOKEN
    held_out = spec.data.validation_fraction + spec.data.test_fraction
    trainings = spec.training.seeds
    if folds := spec.evaluation.folds:
        held_out, trainings = spec.data.validation_fraction + 1 / folds, folds
    share = trainings * (1 - held_out)
    # A refit trains on all rows, too.
    share += float(spec.training.refit)
    epochs, batch_size = spec.training.epochs, spec.training.batch_size
    return estimate(
        pairs=int(count * share),
        tokens_per_pair=tokens,
        corpus_documents=count,
        tokens_per_document=CONTEXT_SHARE * tokens,
        epochs=USUAL_EPOCHS if epochs == "auto" else epochs,
        parameters=parameters,
        instance_type=plan.machine.instance_types[0],
        instances=plan.machine.instances,
        batch_size=USUAL_BATCH if batch_size == "auto" else batch_size,
    )


def _rows_and_bytes(plan: Plan) -> tuple[int, int]:
    """Return (rows, bytes) of local data; zeros if it is remote or not one row per line."""
    path = plan.inputs.get("data")
    if path is None:
        return 0, 0
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    if any(each.suffix not in LINES for each in files):
        return 0, 0
    return sum(map(_lines, files)), sum(each.stat().st_size for each in files)


def _lines(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(part.count(b"\n") for part in iter(lambda: handle.read(CHUNK), b""))


def _parameters(plan: Plan) -> int | None:
    """Count a model's parameters: from local files, or from the Hub's metadata."""
    base = plan.spec.model.base
    if (folder := plan.inputs.get("model")) is not None:
        weights = folder.rglob("*.safetensors")
        return sum(path.stat().st_size for path in weights) // FLOAT32_BYTES or None
    if "model" in plan.inputs or base.startswith(("s3://", BUILTIN)):
        return None
    from huggingface_hub import HfApi

    # Only the estimate depends on this; the job itself reports a wrong model id.
    with suppress(Exception):
        found = HfApi().model_info(base, revision=plan.spec.model.revision, timeout=5)
        return found.safetensors.total if found.safetensors else None
    return None
