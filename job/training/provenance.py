"""Record the inputs of a run's checkpoints, and refuse to resume from them with other inputs."""

import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from job.core.errors import TrainingError
from job.spec.parse import differing_fields
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace, write_atomically

# Another version may compute differently or draw random numbers in another order.
PACKAGES = (
    *("embedtune", "accelerate", "numpy", "peft", "sentence-transformers", "torch", "transformers"),
)

Provenance = dict[str, Any]


def provenance_of(spec: JobSpec, data: Mapping[str, str], model: str, precision: str) -> Provenance:
    """Describe a run's inputs; `data` and `model` are digests of the files that are read."""
    return {
        "spec": spec.model_dump(mode="json", exclude={"output"}),
        "data": dict(data),
        "model": model,
        "precision": precision,
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }


def verify_checkpoints(workspace: Workspace, now: Provenance) -> None:
    """Raise `TrainingError` if the checkpoints were trained from other inputs.

    Without checkpoints, clear the caches and record the inputs of this run.
    """
    earlier = _read(workspace)
    if earlier == now:
        return
    if any(workspace.checkpoints.glob("checkpoint-*")):
        differences = "; ".join(_differences(earlier, now)) if earlier else "the record is missing"
        msg = f"The checkpoints in `{workspace.checkpoints}` were trained from other inputs: "
        msg += (
            f"{differences}. Use another `--name`, or delete that folder to train from the start."
        )
        raise TrainingError(msg)
    # Results cached before the first checkpoint belong to the earlier inputs.
    for cached in (workspace.baseline, workspace.nearest_neighbors, workspace.seconds):
        cached.unlink(missing_ok=True)
    workspace.checkpoints.mkdir(parents=True, exist_ok=True)
    write_atomically(workspace.provenance, json.dumps(now, indent=2) + "\n")


def _read(workspace: Workspace) -> Provenance | None:
    try:
        found: Provenance = json.loads(workspace.provenance.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differences(earlier: Provenance, now: Provenance) -> Iterator[str]:
    sections = {"the data": "data", "the base model": "model", "the precision": "precision"}
    compared = {name: (earlier.get(key), now[key]) for name, key in sections.items()}
    versions = earlier.get("versions", {})
    compared |= {name: (versions.get(name), here) for name, here in now["versions"].items()}
    for name, (before, after) in compared.items():
        if before != after:
            yield f"{name} was {_format(before)}, is {_format(after)}"
    if earlier.get("spec") != now["spec"]:
        try:
            there = JobSpec.model_validate(earlier.get("spec"))
        except ValueError:
            yield "the spec was written by another version"
            return
        here = JobSpec.model_validate(now["spec"])
        yield "changed in the spec: " + ", ".join(f"`{f}`" for f in differing_fields(there, here))


def _format(value: object) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
