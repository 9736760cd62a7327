"""Find a run's training jobs, no matter where they were launched, and their files in S3."""

import re
from typing import Any

from job.storage.stores import S3Store, Store, open_store
from job.storage.workspace import MANIFEST
from launcher.aws import sessions
from launcher.backends.sagemaker.training_job import RUN_VARIABLE, SAGEMAKER_FOLDER
from launcher.runs.run import Run


def last_job(sagemaker: Any, run: str) -> tuple[dict[str, Any] | None, set[str]]:  # noqa: ANN401
    """Return the description of a run's latest job, if any, and all job names it may not reuse."""
    query = {"NameContains": run, "SortBy": "CreationTime", "SortOrder": "Descending"}
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
    output = found["OutputDataConfig"]["S3OutputPath"]
    return open_store(output.removesuffix(f"/{SAGEMAKER_FOLDER}"))


def spec_store(document: dict[str, Any], kms_key: str | None = None) -> Store:
    """Return the store with a job's spec, from the job's request or description."""
    channels = document["InputDataConfig"]
    (spec,) = (channel for channel in channels if channel["ChannelName"] == "spec")
    return open_store(spec["DataSource"]["S3DataSource"]["S3Uri"], kms_key)


def read_spec(found: dict[str, Any]) -> str | None:
    """Read a job's spec: the staged one, which expires after a while, or the one in the results."""
    return spec_store(found).read("job.json") or results_store(found).read("spec.json")


def copy_isolated_results(run: Run, job: str, kms_key: str | None) -> None:
    """Copy an isolated job's output from SageMaker's folder to the run's results, manifest last."""
    target = S3Store(run.store.uri, kms_key)
    stored = f"{run.store.uri}/{SAGEMAKER_FOLDER}/{job}/output"
    if target.modified_at(MANIFEST) is not None:
        return
    for folder, prefix in (("data", ""), ("model", "model/")):
        source = S3Store(f"{stored}/{folder}")
        names = [entry.name for entry in source.files() if entry.name != MANIFEST]
        target.copy(source, {name: prefix + name for name in names})
    target.copy(S3Store(f"{stored}/data"), {MANIFEST: MANIFEST})
