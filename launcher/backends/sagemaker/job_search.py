"""A run's training jobs in SageMaker, wherever they were launched, and what they left in S3."""

import re
from typing import Any

from job.storage.stores import S3Store, Store, open_store
from job.storage.workspace import MANIFEST
from launcher.aws import sessions
from launcher.backends.sagemaker.training_job import ARTEFACTS, RUN_VARIABLE
from launcher.runs.runs import Run


def last_job(sagemaker: Any, run: str) -> tuple[dict[str, Any] | None, set[str]]:  # noqa: ANN401
    """Describe a run's latest job, if it has one; name all jobs that are called like its own."""
    asked = {"NameContains": run, "SortBy": "CreationTime", "SortOrder": "Descending"}
    called = sessions.listed(sagemaker, "list_training_jobs", "TrainingJobSummaries", **asked)
    names = [job["TrainingJobName"] for job in called]
    like_it = [name for name in names if re.fullmatch(rf"{re.escape(run)}(-\d+)?", name)]
    jobs = (sagemaker.describe_training_job(TrainingJobName=name) for name in like_it)
    # A run may be called as another's second job is.
    own = (job for job in jobs if job.get("Environment", {}).get(RUN_VARIABLE) == run)
    return next(own, None), set(like_it)


def next_name(run: str, taken: set[str]) -> str:
    """Return the first of `RUN`, `RUN-2`, `RUN-3` … that is free."""
    names = (run, *(f"{run}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def results_of(found: dict[str, Any]) -> Store:
    """Return where a job's run has its results."""
    return open_store(found["OutputDataConfig"]["S3OutputPath"].removesuffix(f"/{ARTEFACTS}"))


def spec_place(document: dict[str, Any], kms_key: str | None = None) -> Store:
    """Return where a job's spec lies, from its request or its description."""
    given = document["InputDataConfig"]
    (spec,) = (channel for channel in given if channel["ChannelName"] == "spec")
    return open_store(spec["DataSource"]["S3DataSource"]["S3Uri"], kms_key)


def spec_of(found: dict[str, Any]) -> str | None:
    """Read a job's spec: as it was staged, which is cleared after a while, or as it was used."""
    return spec_place(found).read("job.json") or results_of(found).read("spec.json")


def bring_home(run: Run, job: str, kms_key: str | None) -> None:
    """Copy what SageMaker stored for an isolated job to where every run has it; manifest last."""
    target, stored = S3Store(run.place.uri, kms_key), f"{run.place.uri}/{ARTEFACTS}/{job}/output"
    if target.modified_at(MANIFEST) is not None:
        return
    for folder, prefix in (("data", ""), ("model", "model/")):
        source = S3Store(f"{stored}/{folder}")
        names = [entry.name for entry in source.files() if entry.name != MANIFEST]
        target.copy(source, {name: prefix + name for name in names})
    target.copy(S3Store(f"{stored}/data"), {MANIFEST: MANIFEST})
