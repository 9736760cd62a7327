"""The smallest job on a real account: off by default, costs a few cents, takes about ten minutes.

    EMBEDTUNE_AWS_STACK=embedtune pytest -s -m aws tests/aws

Without the stack: EMBEDTUNE_AWS_ROLE (an ARN), EMBEDTUNE_AWS_IMAGE and EMBEDTUNE_AWS_OUTPUT
(s3://bucket/prefix). The image must contain the demo's model: `embedtune image build --cpu --demo`.
EMBEDTUNE_AWS_INSTANCE_TYPE defaults to ml.m5.xlarge. With ml.g5.2xlarge, a job of a minute first
prints the driver of AWS's machine, which AWS does not publish; the image for it is built without
`--cpu`. AWS_PROFILE and AWS_REGION choose account and region. The tests do not delete the results.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from job.core.drivers import IMAGE_CUDA, read_version, too_old
from launcher.aws.ecr import resolve_image
from launcher.aws.instances import gpu_memory
from launcher.aws.sessions import open_session
from launcher.backends.sagemaker.logs import CloudLog

pytestmark = pytest.mark.aws

JOB = ["--data", "builtin:aws-docs", "--model", "builtin:minilm", "--preset", "quick",
       "--set", "data.limit=400"]  # fmt: skip
KIND = os.environ.get("EMBEDTUNE_AWS_INSTANCE_TYPE", "ml.m5.xlarge")
WITHOUT_STACK = ("role", "image", "output")


@pytest.fixture(scope="session", autouse=True)
def nobodys_account():
    """Override the fixture that hides the account: these tests use a real one."""


@pytest.fixture(scope="session")
def account_options():
    """Launch options for the account: its stack, or what replaces the stack."""
    given = {
        name: os.environ.get(f"EMBEDTUNE_AWS_{name.upper()}") for name in ("stack", *WITHOUT_STACK)
    }
    if not any(given.values()):
        pytest.skip("no account to test on: set EMBEDTUNE_AWS_STACK (see tests/aws/test_smoke.py)")
    if not given["stack"] and not all(given[name] for name in WITHOUT_STACK):
        pytest.fail("without EMBEDTUNE_AWS_STACK set EMBEDTUNE_AWS_ROLE, _IMAGE and _OUTPUT")
    return [part for name, value in given.items() if value for part in (f"--{name}", value)]


def embedtune(folder, *arguments):
    """Run a command; `pytest -s` shows its stderr as it is written."""
    command = [sys.executable, "-P", "-m", "launcher.cli", *arguments]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)


# Prints the driver that the kernel has loaded, and what CUDA's tools say.
SHOW_DRIVER = "cat /proc/driver/nvidia/version; nvidia-smi || true"


@pytest.mark.skipif(gpu_memory(KIND) is None, reason="EMBEDTUNE_AWS_INSTANCE_TYPE has no GPU")
def test_the_driver_is_new_enough(account_options, tmp_path, capsys):
    """The image starts with another program, in an otherwise unchanged request."""
    name = f"driver-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    machine = ["--backend", "sagemaker", "--instance-type", KIND, "--max-runtime", "10m"]
    dry = embedtune(
        tmp_path, "launch", *JOB, *machine, *account_options, "--name", name, "--dry-run"
    )
    assert dry.returncode == 0
    found = json.loads(dry.stdout)["request"]
    request, session = found["create_training_job"], open_session(region=found["region"])
    algorithm = request["AlgorithmSpecification"]
    algorithm["TrainingImage"] = resolve_image(session, algorithm["TrainingImage"])
    del algorithm["MetricDefinitions"], request["InputDataConfig"], request["CheckpointConfig"]
    algorithm |= {"ContainerEntrypoint": ["/bin/sh"], "ContainerArguments": ["-c", SHOW_DRIVER]}
    sagemaker = session.client("sagemaker")
    sagemaker.create_training_job(**request)
    waiter = sagemaker.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName=name, WaiterConfig={"Delay": 15, "MaxAttempts": 80})
    text = "\n".join(CloudLog(session.client("logs"), name).new_lines())
    with capsys.disabled():
        print(f"\n{name} on {KIND}:\n{text}")
    version = read_version(text)
    assert version, "the machine has no driver, or its version is written in another way"
    assert not too_old(version, IMAGE_CUDA)


def test_the_smallest_job_runs_and_reports_its_cost(account_options, tmp_path, capsys):
    """It is launched, followed to its end, reported from two folders, and billed."""
    name = f"smoke-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    # The maximum runtime limits the cost, so no confirmation is needed.
    machine = ["--backend", "sagemaker", "--instance-type", KIND, "--max-runtime", "30m", "--yes"]
    launched = embedtune(tmp_path, "launch", *JOB, *machine, *account_options, "--name", name)
    assert launched.returncode == 0

    folder = tmp_path / "runs" / name
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    assert report["training"]["steps"] > 0
    assert report["scores"].keys() == {"bm25", "base", "tuned"}
    receipt = json.loads((folder / "receipt.json").read_text("utf-8"))
    assert (receipt["job"], receipt["status"], receipt["exit_code"]) == (name, "Completed", 0)
    assert receipt["billable_seconds"] > 0
    (tmp_path / "elsewhere").mkdir()
    assert embedtune(tmp_path / "elsewhere", "report", name).stdout == launched.stdout
    with capsys.disabled():
        cost = "unknown" if receipt["usd"] is None else f"${receipt['usd']}"
        details = f"{receipt['billable_seconds']} s billed on {KIND}, {receipt['price_basis']}"
        print(f"\n{name}: {cost} ({details})")
