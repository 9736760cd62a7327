"""How a training job ended: its exit code, why in one line, and on which machines."""

import re
from typing import Any

from job.core.errors import BackendError, DataError, OutOfMemory, Stopped, StorageError, TimeLimit

ENDED = ("Completed", "Failed", "Stopped")
KILLED = 137
# A job's own failure, as SageMaker tells it; the code is the container's.
OWN_FAILURE = re.compile(r"AlgorithmError: (.*), exit code: (\d+)", re.DOTALL)
OUT_OF_MEMORY = (
    "The job was killed (exit code 137), most likely for want of memory: set "
    "`training.mini_batch_size`, or take a larger `--instance-type`."
)
AGAIN = "Launch the run's name again to go on from its checkpoint"
TIMES = {
    "MaxRuntimeExceeded": f"The job's time was up. {AGAIN}, with a longer `--max-runtime` if need "
    "be.",
    "MaxWaitTimeExceeded": "The job's time, the wait for spot machines included, was up. "
    f"{AGAIN}, without `--spot` or with a longer `--max-wait`.",
}
# What SageMaker says, what that is, and what to do about it; the first that fits.
CAUSES = (
    ("No S3 objects found", DataError,
     "There is nothing where the data should be: check `--data`."),
    ("Data download failed", StorageError,
     "The role may not read the data: `embedtune infra deploy --data-bucket` lets it."),
    ("CapacityError", BackendError,
     "No such machine is free: launch the name again later, or give several `--instance-type`."),
    ("ResourceLimitExceeded", BackendError,
     "The quota is too small: `embedtune doctor` says how to raise it."),
    ("Cannot pull", BackendError,
     "SageMaker could not fetch the image: `embedtune image push`."),
    ("no basic auth credentials", BackendError,
     "The role may not read the image's repository: `embedtune image push` fills its own."),
    ("sts:AssumeRole", BackendError,
     "SageMaker may not act as this role: `embedtune doctor --backend sagemaker`."),
    ("", BackendError, ""),
)  # fmt: skip


def ending(found: dict[str, Any]) -> tuple[int, str]:
    """Read the exit code back from the description of a job that has ended, and say why."""
    status, detail = found["TrainingJobStatus"], found["SecondaryStatus"]
    if status == "Completed":
        return 0, ""
    if detail in TIMES:
        return TimeLimit.exit_code, TIMES[detail]
    if status == "Stopped":
        return Stopped.exit_code, "The job was stopped."
    reason = found.get("FailureReason", "no reason")
    if own := OWN_FAILURE.search(reason):
        code, line = int(own[2]), own[1].strip()
        if code == KILLED:
            return OutOfMemory.exit_code, OUT_OF_MEMORY
        return code, line or f"The container ended with exit code {code} and gave no reason."
    error, advice = next((error, advice) for text, error, advice in CAUSES if text in reason)
    return error.exit_code, f"{advice} SageMaker says: {reason}".strip()


def machines(found: dict[str, Any]) -> tuple[str, int]:
    """Return the type and the number of a job's machines; no type before one was chosen."""
    resources = found["ResourceConfig"]
    kind = resources.get("SelectedInstanceType") or resources.get("InstanceType", "")
    count = resources.get("SelectedInstanceCount") or resources.get("InstanceCount", 1)
    return kind, count
