"""The smallest job on a real account: off by default, costs a few cents, takes about ten minutes.

    EMBEDTUNE_AWS_STACK=embedtune pytest -s -m aws tests/aws

Without the stack: EMBEDTUNE_AWS_ROLE (an ARN), EMBEDTUNE_AWS_IMAGE and EMBEDTUNE_AWS_OUTPUT
(s3://bucket/prefix). The image must contain the demo's model: `embedtune image build --cpu --demo`.
EMBEDTUNE_AWS_INSTANCE_TYPE defaults to ml.m5.xlarge; AWS_PROFILE and AWS_REGION choose account and
region. The test does not delete the results.
"""

import json
import os
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.aws

JOB = ["--data", "builtin:aws-docs", "--model", "builtin:minilm", "--preset", "quick",
       "--set", "data.limit=400"]  # fmt: skip
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


def test_the_smallest_job_runs_and_reports_its_cost(account_options, tmp_path, capsys):
    """It is launched, followed to its end, reported from two folders, and billed."""
    name = f"smoke-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    kind = os.environ.get("EMBEDTUNE_AWS_INSTANCE_TYPE", "ml.m5.xlarge")
    # The maximum runtime limits the cost, so no confirmation is needed.
    machine = ["--backend", "sagemaker", "--instance-type", kind, "--max-runtime", "30m", "--yes"]
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
        details = f"{receipt['billable_seconds']} s billed on {kind}, {receipt['price_basis']}"
        print(f"\n{name}: {cost} ({details})")
