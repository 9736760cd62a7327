"""A job's end, from its description in SageMaker: one exit code and one line."""

import pytest

from job.core.errors import BackendError, DataError, OutOfMemory, Stopped, StorageError, TimeLimit
from launcher.backends.sagemaker.job_outcome import OUT_OF_MEMORY, TIMEOUTS, ending


@pytest.mark.parametrize(
    ("status", "detail", "code", "line"),
    [
        ("Completed", "Completed", 0, ""),
        ("Stopped", "Stopped", Stopped.exit_code, "The job was stopped."),
        *(("Stopped", detail, TimeLimit.exit_code, TIMEOUTS[detail]) for detail in TIMEOUTS),
    ],
)
def test_an_end_without_a_failure_has_a_code_and_a_line(status, detail, code, line):
    assert ending({"TrainingJobStatus": status, "SecondaryStatus": detail}) == (code, line)


def failed(**reason):
    return ending({"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"} | reason)


@pytest.mark.parametrize(
    ("reason", "code", "line"),
    [
        ("No pairs, exit code: 3, it says., exit code: 4", 4, "No pairs, exit code: 3, it says."),
        ("one\ntwo, exit code: 8", 8, "one\ntwo"),
        (", exit code: 139", 139, "The container ended with exit code 139 without a reason."),
        (", exit code: 137", OutOfMemory.exit_code, OUT_OF_MEMORY),
    ],
)
@pytest.mark.parametrize("prefix", ["AlgorithmError", "ClientError"])
def test_the_containers_line_and_exit_code_are_passed_on(prefix, reason, code, line):
    assert failed(FailureReason=f"{prefix}: {reason}") == (code, line)


@pytest.mark.parametrize(
    ("reason", "error", "advice"),
    [
        ("CapacityError: Unable to provision.", BackendError, "`--instance-type`"),
        ("ClientError: Data download failed:No S3 objects found.", DataError, "`--data`"),
        ("ClientError: Data download failed: 403.", StorageError, "`embedtune infra deploy"),
        ("InternalServerError: Please try again.", BackendError, ""),
        (
            "ClientError: Please use an instance type with more memory, or reduce the size of job.",
            OutOfMemory,
            "`--instance-type`",
        ),
        ("ClientError: Artifact upload failed:ClientError: Out of Memory.", OutOfMemory, ""),
        # A reason of 1,024 characters, which has lost its end.
        ("AlgorithmError: Cannot pull the cart" + "." * 988, BackendError, "cut its exit code off"),
    ],
)
def test_sagemakers_own_reason_is_reported_with_advice(reason, error, advice):
    code, line = failed(FailureReason=reason)
    assert (code, advice in line) == (error.exit_code, True)
    assert line.endswith(f"SageMaker reports: {reason}")


def test_a_failure_without_a_reason_is_a_backend_error():
    assert failed() == (BackendError.exit_code, "SageMaker reports: no reason")
