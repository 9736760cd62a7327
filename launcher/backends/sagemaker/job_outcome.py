"""How a training job ended: its exit code, the reason in one line, and its machines."""

import re
from typing import Any

from job.core.errors import BackendError, DataError, OutOfMemory, Stopped, StorageError, TimeLimit

ENDED = ("Completed", "Failed", "Stopped")
KILLED = 137
# SageMaker's `FailureReason` if the container itself failed, with the container's exit code.
CONTAINER_FAILURE = re.compile(r"(?:Algorithm|Client)Error: (.*), exit code: (\d+)", re.DOTALL)
OUT_OF_MEMORY = (
    "The job was killed (exit code 137), most likely because it ran out of memory: set "
    "`training.mini_batch_size`, or choose a larger `--instance-type`."
)
RELAUNCH = "Relaunch the run to resume from its last checkpoint"
TIMEOUTS = {
    "MaxRuntimeExceeded": "The job reached its maximum runtime. "
    f"{RELAUNCH}, with a longer `--max-runtime` if necessary.",
    "MaxWaitTimeExceeded": "The job reached its maximum time, waiting for spot machines included. "
    f"{RELAUNCH}, without `--spot` or with a longer `--max-wait`.",
}
# A substring of SageMaker's reason, the error and the advice; the first match wins.
CAUSES = (
    ("AlgorithmError", BackendError,
     "The container failed, and SageMaker cut its exit code off after a long reason: see its log."),
    ("No S3 objects found", DataError,
     "There is no data at the given URI: check `--data`."),
    ("Data download failed", StorageError,
     "The role may not read the data: grant access with `embedtune infra deploy --data-bucket`."),
    ("instance type with more memory", OutOfMemory, OUT_OF_MEMORY),
    ("Out of Memory", OutOfMemory, OUT_OF_MEMORY),
    ("CapacityError", BackendError,
     "No such instance is available: relaunch later, or give several `--instance-type`."),
    ("ResourceLimitExceeded", BackendError,
     "The quota is too small: `embedtune doctor` shows how to raise it."),
    ("Cannot pull", BackendError,
     "SageMaker could not pull the image: push it with `embedtune image push`."),
    ("no basic auth credentials", BackendError,
     "The role may not read the image's repository: `embedtune image push` to the stack's."),
    ("sts:AssumeRole", BackendError,
     "SageMaker may not assume this role: check `embedtune doctor --backend sagemaker`."),
    ("", BackendError, ""),
)  # fmt: skip


def ending(found: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code and the reason, from the description of a job that has ended."""
    status, detail = found["TrainingJobStatus"], found["SecondaryStatus"]
    if status == "Completed":
        return 0, ""
    if detail in TIMEOUTS:
        return TimeLimit.exit_code, TIMEOUTS[detail]
    if status == "Stopped":
        return Stopped.exit_code, "The job was stopped."
    reason = found.get("FailureReason", "no reason")
    if own := CONTAINER_FAILURE.search(reason):
        code, line = int(own[2]), own[1].strip()
        if code == KILLED:
            return OutOfMemory.exit_code, OUT_OF_MEMORY
        return code, line or f"The container ended with exit code {code} without a reason."
    error, advice = next((error, advice) for text, error, advice in CAUSES if text in reason)
    return error.exit_code, f"{advice} SageMaker reports: {reason}".strip()


def machines(found: dict[str, Any]) -> tuple[str, int]:
    """Return a job's instance type and count; the type is empty until SageMaker has chosen one."""
    resources = found["ResourceConfig"]
    kind = resources.get("SelectedInstanceType") or resources.get("InstanceType", "")
    count = resources.get("SelectedInstanceCount") or resources.get("InstanceCount", 1)
    return kind, count
