"""The smallest job on a real account: off by default, costs a few cents, takes some ten minutes.

    EMBEDTUNE_AWS_STACK=embedtune pytest -s -m aws tests/aws

Without the stack: EMBEDTUNE_AWS_ROLE (an ARN), EMBEDTUNE_AWS_IMAGE and EMBEDTUNE_AWS_OUTPUT
(s3://bucket/prefix). The image has the demo's model (`embedtune image build --cpu --demo`).
EMBEDTUNE_AWS_INSTANCE_TYPE is ml.m5.xlarge where nothing else is said; account and region are
those of AWS_PROFILE and AWS_REGION. The results stay in the output.
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
    """Here alone the account is wanted."""


@pytest.fixture(scope="session")
def place():
    """Options that lead to the account: its stack, or all that a stack would tell."""
    given = {
        name: os.environ.get(f"EMBEDTUNE_AWS_{name.upper()}") for name in ("stack", *WITHOUT_STACK)
    }
    if not any(given.values()):
        pytest.skip("no account to test on: set EMBEDTUNE_AWS_STACK (see tests/aws/test_smoke.py)")
    if not given["stack"] and not all(given[name] for name in WITHOUT_STACK):
        pytest.fail("without EMBEDTUNE_AWS_STACK set EMBEDTUNE_AWS_ROLE, _IMAGE and _OUTPUT")
    return [part for name, value in given.items() if value for part in (f"--{name}", value)]


def embedtune(folder, *arguments):
    """Run a command; with `pytest -s` what it says on stderr is seen as it comes."""
    command = [sys.executable, "-P", "-m", "launcher.cli", *arguments]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)


def test_the_smallest_job_runs_and_tells_what_it_cost(place, tmp_path, capsys):
    """Launched, followed to its end, reported here and from another folder, billed."""
    name = f"smoke-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    kind = os.environ.get("EMBEDTUNE_AWS_INSTANCE_TYPE", "ml.m5.xlarge")
    # Half an hour bounds the cost, so nothing needs to be asked.
    machine = ["--backend", "sagemaker", "--instance-type", kind, "--max-runtime", "30m", "--yes"]
    launched = embedtune(tmp_path, "launch", *JOB, *machine, *place, "--name", name)
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
        told = f"{receipt['billable_seconds']} s billed on {kind}, {receipt['price_basis']}"
        print(f"\n{name}: {cost} ({told})")
