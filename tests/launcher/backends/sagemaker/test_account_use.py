"""What launches ask of an account: credentials once, quotas by code, machines kept and ended."""

import json
import re
import sys

import pytest
from sagemaker_rules import INDEXES
from sagemaker_server import Call

pytestmark = pytest.mark.exhaustive

ROLE = "arn:aws:iam::123456789012:role/launcher"
# AWS CLI User Guide, "Sourcing credentials with an external process".
PROCESS = """open({counter!r}, "a").write("x")
print({keys!r})
"""
STOPPABLE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(10)); "
    "print('ready', flush=True); time.sleep(600)"
)


def program(code):
    return ("--env", f"PROGRAM={code}")


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def test_launch_follow_and_stop_fetch_credentials_once(account, here, tmp_path):
    """By an assume-role profile whose source is a program; each command is a process."""
    counter, script = tmp_path / "calls", tmp_path / "program.py"
    keys = {"Version": 1, "AccessKeyId": "AKIASOURCE", "SecretAccessKey": "source"}
    script.write_text(PROCESS.format(counter=str(counter), keys=json.dumps(keys)))
    (tmp_path / "config").write_text(
        f"[profile work]\nrole_arn = {ROLE}\nsource_profile = source\nregion = us-east-1\n"
        f"[profile source]\ncredential_process = {sys.executable} {script}\n"
    )
    without_keys = dict.fromkeys(
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"), None
    )
    settings = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "HOME": str(tmp_path)}
    environment = without_keys | settings
    account.server.calls.clear()
    launched = account.launch(
        here, "roled", "--profile", "work", "--detach", *program(STOPPABLE), **environment
    )
    assert launched.code == 0, launched.err
    account.wait_for("roled", "ready")
    follower = account.start(here, "logs", "roled", "--follow", **environment)
    assert follower.stdout.readline().startswith("-- Starting")
    # Another folder has no launch record, so the profile is given.
    stopped = account.run(tmp_path, "stop", "roled", "--profile", "work", **environment)
    assert stopped.code == 0, stopped.err
    assert account.finish(follower).code == 11
    assert counter.read_text() == "x"
    assert account.server.calls.count(Call("sts", "AssumeRole")) == 1


# Prints the region of S3: with the launcher's variable, and without it.
REGIONS = (
    "import os; from job.storage.s3 import s3_client; print(s3_client().meta.region_name, "
    "os.environ.pop('AWS_DEFAULT_REGION'), 'AWS_REGION' in os.environ); "
    "print(s3_client().meta.region_name)"
)


def test_a_launch_asks_for_its_quota_once_and_a_job_knows_its_region(account, here):
    """Service Quotas API reference, "GetServiceQuota"; SageMaker's, "ListTrainingJobs".

    SageMaker documents no variable for a container's region (sagemaker-training-toolkit, issue
    207), so the launcher sends one; without it the job's ARN tells the region.
    """
    account.server.calls.clear()
    assert account.launch(here, "quota", "--detach", *program(REGIONS)).code == 0
    asked = [call for call in account.server.calls if call.service == "servicequotas"]
    assert asked == [Call("servicequotas", "GetServiceQuota")]
    account.server.wait("quota")
    assert account.lines("quota") == ["us-east-1 us-east-1 False", "us-east-1"]
    for number in range(11):
        account.server.jobs[f"quota-of-others-{number}"] = account.server.jobs["quota"]
    account.server.calls.clear()
    assert account.run(here.parent, "status", "quota").code == 0
    # In pages of a hundred, not of ten.
    assert account.server.calls.count(Call("sagemaker", "ListTrainingJobs")) == 1


def test_a_warm_pool_is_shown_and_ended(account, here):
    """SageMaker Developer Guide, "Use SageMaker AI managed warm pools"."""
    kept = ("--keep-alive", "1h", "--max-cost", "100")
    done = account.launch(here, "warm", *kept, *program("pass"))
    # The program leaves no report.
    assert "Then kept for at most 60 min: at most $1.5" in done.err
    status = account.run(here, "status", "warm").out
    to_end = "to end it: embedtune stop warm --pool"
    assert re.search(
        rf"(?m)^warm pool +Available, \d+ s billed, [\d.]+ USD; {to_end}$",
        status,
    )
    ended = account.run(here, "stop", "warm", "--pool")
    assert (ended.code, "The warm pool of warm has been ended" in ended.err) == (0, True)
    assert account.server.jobs["warm"].warm_pool["Status"] == "Terminated"
    assert re.search(
        r"(?m)^warm pool +Terminated, \d+ s billed", account.run(here, "status", "warm").out
    )
    pool = json.loads((here / "runs" / "warm" / "receipt.json").read_text())["warm_pool"]
    assert pool["status"] == "Terminated"
    assert pool["usd"] == round(1.515 * pool["billable_seconds"] / 3600, 4)
    again = account.run(here, "stop", "warm", "--pool")
    assert "keeps no machines. Warm pool: Terminated." in again.err
    account.server.calls.clear()
    account.run(here, "status", "warm")
    # What has been recorded is not asked again.
    assert Call("sagemaker", "DescribeTrainingJob") not in account.server.calls


def test_a_relaunch_names_the_machines_that_the_job_before_keeps(account, here):
    """They are billed, and `stop --pool` ends only those of the latest job."""
    kept = ("--keep-alive", "1h", "--max-cost", "100")
    assert account.launch(here, "rewarm", *kept, *program("raise SystemExit(10)")).code == 10
    again = account.launch(here, "rewarm", *program("pass"))
    assert account.server.jobs["rewarm-2"].ended
    assert "rewarm keeps its machines, at their price" in again.err
    assert "update-training-job --training-job-name rewarm --region us-east-1 --res" in again.err


def test_without_the_quota_no_machine_would_be_kept(account, here):
    """SageMaker Developer Guide, "Request a warm pool quota increase": it is 0 by default."""
    name = "ml.g5.2xlarge for training warm pool usage"
    account.server.quota[name] = 0
    refused = account.launch(here, "cold", "--keep-alive", "1h", *program("pass"))
    del account.server.quota[name]
    assert refused.code == 13
    assert f"warm pool: 0 for {name}; 1 needed; without it SageMaker keeps no" in refused.last_line


def test_an_image_with_provenance_is_refused_before_anything_is_uploaded(account, here):
    """Amazon ECR API reference, "ImageDetail"."""
    image = account.server.add_image("indexed", "1", INDEXES[0])
    keys = account.server.s3.keys("box")
    refused = account.launch(here, "indexed", "--image", image, *program("pass"))
    assert refused.code == 13
    assert "is a list of manifests" in refused.last_line
    assert "`embedtune image build`" in refused.last_line
    assert account.server.s3.keys("box") == keys
