"""How a job ended, out of what SageMaker says of it: one exit code and one line."""

import pytest

from job.errors import BackendError, DataError, OutOfMemory, Stopped, StorageError, TimeLimit
from launcher.ending import AGAIN, OUT_OF_MEMORY, ending, machines


def ended(status, detail=None, reason=None):
    found = {"TrainingJobStatus": status, "SecondaryStatus": detail or status}
    return found | ({"FailureReason": reason} if reason else {})


@pytest.mark.parametrize(
    ("found", "code", "line"),
    [
        (ended("Completed"), 0, ""),
        (ended("Stopped"), Stopped.exit_code, "The job was stopped."),
        (
            ended("Stopped", "MaxRuntimeExceeded"),
            TimeLimit.exit_code,
            f"The job's time was up. {AGAIN}, with a longer `--max-runtime` if need be.",
        ),
        (
            ended("Stopped", "MaxWaitTimeExceeded"),
            TimeLimit.exit_code,
            (
                "The job's time, the wait for spot machines included, was up. "
                f"{AGAIN}, without `--spot` or with a longer `--max-wait`."
            ),
        ),
        # The container's own line and code, whatever the line holds.
        (
            ended(
                "Failed", reason="AlgorithmError: No pairs, exit code: 3, it says., exit code: 4"
            ),
            4,
            "No pairs, exit code: 3, it says.",
        ),
        (
            ended("Failed", reason="AlgorithmError: one\ntwo, exit code: 8"),
            8,
            "one\ntwo",
        ),
        (
            ended("Failed", reason="AlgorithmError: , exit code: 139"),
            139,
            "The container ended with exit code 139 and gave no reason.",
        ),
        (
            ended("Failed", reason="AlgorithmError: , exit code: 137"),
            OutOfMemory.exit_code,
            OUT_OF_MEMORY,
        ),
        # What SageMaker itself found, with advice where there is some.
        (
            ended("Failed", reason="CapacityError: Unable to provision."),
            BackendError.exit_code,
            (
                "No such machine is free: launch the name again later, or give several "
                "`--instance-type`. SageMaker says: CapacityError: Unable to provision."
            ),
        ),
        (
            ended("Failed", reason="ClientError: Data download failed:No S3 objects found."),
            DataError.exit_code,
            (
                "There is nothing where the data should be: check `--data`. SageMaker says: "
                "ClientError: Data "
                "download failed:No S3 objects found."
            ),
        ),
        (
            ended("Failed", reason="ClientError: Data download failed: 403 Forbidden."),
            StorageError.exit_code,
            (
                "The role may not read the data: `embedtune infra deploy --data-bucket` lets it. "
                "SageMaker says: ClientError: Data download failed: 403 Forbidden."
            ),
        ),
        (
            ended("Failed", reason="InternalServerError: Please try again."),
            BackendError.exit_code,
            "SageMaker says: InternalServerError: Please try again.",
        ),
        (ended("Failed"), BackendError.exit_code, "SageMaker says: no reason"),
    ],
)
def test_a_job_that_has_ended_has_a_code_and_a_line(found, code, line):
    assert ending(found) == (code, line)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"InstanceType": "ml.g5.2xlarge", "InstanceCount": 2}, ("ml.g5.2xlarge", 2)),
        # Of several types one is chosen, if any is free.
        ({"InstancePreferences": []}, ("", 1)),
        (
            {
                "InstancePreferences": [],
                "SelectedInstanceType": "ml.g5.4xlarge",
                "SelectedInstanceCount": 3,
            },
            ("ml.g5.4xlarge", 3),
        ),
    ],
)
def test_the_machines_are_those_that_were_used(resources, expected):
    assert machines({"ResourceConfig": resources}) == expected
