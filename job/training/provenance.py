"""Record the inputs of a run's checkpoints, and refuse to resume from them with other inputs."""

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from job.core.errors import DataError, TrainingError
from job.distributed import process_group
from job.model.save import fingerprint
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


def require_same_inputs(data: Mapping[str, str], model: Path) -> None:
    """Raise `DataError` on every rank unless all hosts read the same data and model.

    `data` are the fingerprints of the splits.
    """
    if process_group.host_count() == 1:
        return
    fingerprints = None
    if process_group.local_rank() == 0:
        fingerprints = {"data": dict(data), "model": fingerprint(model)}
    first, *others = filter(None, process_group.all_gather_objects(fingerprints))
    for host, found in enumerate(others, start=2):
        if found != first:
            what = "base model" if found["data"] == first["data"] else "data"
            msg = (
                f"The {what} of host {host} (of {process_group.host_count()}) differs from that of "
                "host 1. Give every host all files of each channel (`FullyReplicated`)."
            )
            raise DataError(msg)


def verify_checkpoints(workspace: Workspace, now: Provenance) -> None:
    """Raise `TrainingError` if the checkpoints were trained from other inputs.

    Without checkpoints, clear the caches and record the inputs of this run.
    """
    earlier = _read(workspace)
    if earlier == now:
        return
    if workspace.has_checkpoints:
        differences = "; ".join(_differences(earlier, now)) if earlier else "the record is missing"
        msg = f"The checkpoints in `{workspace.checkpoints}` were trained from other inputs: "
        msg += (
            f"{differences}. Use another `--name`, or delete that folder to train from the start."
        )
        raise TrainingError(msg)
    # Results cached before the first checkpoint belong to the earlier inputs.
    for cached in (workspace.baseline, workspace.nearest_neighbors, workspace.seconds):
        cached.unlink(missing_ok=True)
    for folder in workspace.training_folders():
        shutil.rmtree(folder)
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
        yield _spec_difference(earlier.get("spec"), now["spec"])


def _spec_difference(earlier: Any, now: Any) -> str:  # noqa: ANN401  JSON
    try:
        fields = differing_fields(JobSpec.model_validate(earlier), JobSpec.model_validate(now))
    except ValueError:
        fields = []
    # Another version may have other fields, all of them at their defaults.
    if not fields:
        return "the spec was written by another version"
    return "changed in the spec: " + ", ".join(f"`{field}`" for field in fields)


def _format(value: object) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
