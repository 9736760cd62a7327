"""Find a run's training jobs, no matter where they were launched, and their files in S3."""

import json
import re
from typing import Any

from job.storage.stores import S3Store, Store, open_store
from job.storage.workspace import MANIFEST
from launcher.aws import sessions
from launcher.backends.sagemaker.training_job import (
    RESULTS_VARIABLE,
    RUN_VARIABLE,
    SAGEMAKER_FOLDER,
)
from launcher.runs.run import Run

# Where SageMaker stores /opt/ml/output/data below a job's `output/`, uncompressed: its
# documentation does not say. The model is in `model/`.
DATA_FOLDERS = ("data/", "")
# SageMaker lists ten jobs a page by default.
MAXIMUM_A_PAGE = 100


def last_job(sagemaker: Any, run: str) -> tuple[dict[str, Any] | None, set[str]]:  # noqa: ANN401
    """Return the description of a run's latest job, if any, and all job names it may not reuse."""
    query: dict[str, Any] = {
        "NameContains": run,
        "SortBy": "CreationTime",
        "SortOrder": "Descending",
    }
    query["PaginationConfig"] = {"PageSize": MAXIMUM_A_PAGE}
    found = sessions.paginate(sagemaker, "list_training_jobs", "TrainingJobSummaries", **query)
    names = [job["TrainingJobName"] for job in found]
    taken = [name for name in names if re.fullmatch(rf"{re.escape(run)}(-\d+)?", name)]
    jobs = (sagemaker.describe_training_job(TrainingJobName=name) for name in taken)
    # The run `x-2` and the second job of the run `x` have the same name.
    own = (job for job in jobs if job.get("Environment", {}).get(RUN_VARIABLE) == run)
    return next(own, None), set(taken)


def next_name(run: str, taken: set[str]) -> str:
    """Return the first of `RUN`, `RUN-2`, `RUN-3` … that is free."""
    names = (run, *(f"{run}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def results_store(found: dict[str, Any]) -> Store:
    """Return the store with the results of a job's run."""
    # Jobs of older versions lack the variable.
    older = found["OutputDataConfig"]["S3OutputPath"].removesuffix(f"/{SAGEMAKER_FOLDER}")
    return open_store(found.get("Environment", {}).get(RESULTS_VARIABLE, older))


def spec_store(document: dict[str, Any], kms_key: str | None = None) -> Store:
    """Return the store with a job's spec, from the job's request or description."""
    channels = document["InputDataConfig"]
    (spec,) = (channel for channel in channels if channel["ChannelName"] == "spec")
    return open_store(spec["DataSource"]["S3DataSource"]["S3Uri"], kms_key)


def read_spec(found: dict[str, Any]) -> str | None:
    """Read a job's spec: the staged one, which expires after a while, or the one in the results."""
    return spec_store(found).read("job.json") or results_store(found).read("spec.json")


def collect_results(run: Run, found: dict[str, Any]) -> bool:
    """Copy what SageMaker uploaded to the results of a run that could not publish them itself.

    Returns whether there was anything complete to copy. The manifest is copied last, and only if
    all of its files were uploaded.
    """
    target = S3Store(run.store.uri, found["OutputDataConfig"].get("KmsKeyId"))
    if target.modified_at(MANIFEST) is not None:
        return True
    stored = uploaded_store(found)
    names = {entry.name for entry in stored.files()}
    folder = next((each for each in DATA_FOLDERS if each + MANIFEST in names), None)
    if folder is None:
        return False
    copies = {name: name.removeprefix(folder) for name in names - {folder + MANIFEST}}
    target.copy(stored, copies)
    is_complete = set(json.loads(stored.read(folder + MANIFEST) or "{}")) <= {*copies.values()}
    if is_complete:
        target.copy(stored, {folder + MANIFEST: MANIFEST})
    return is_complete


def uploaded_store(found: dict[str, Any]) -> S3Store:
    """Return the store with what SageMaker uploaded of a job's output folders."""
    path = found["OutputDataConfig"]["S3OutputPath"].rstrip("/")
    return S3Store(f"{path}/{found['TrainingJobName']}/output")
