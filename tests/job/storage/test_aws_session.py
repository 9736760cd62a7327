"""One session for each profile and region: a process logs in once, and so do its successors."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from remote import served_s3

from job.core.errors import StorageError
from job.storage import aws_session
from job.storage.aws_session import shared_session
from job.storage.s3 import s3_client
from job.storage.stores import open_store
from launcher.aws.sessions import client, open_session

ROLE = "arn:aws:iam::123456789012:role/launcher"
# AWS CLI User Guide, "Sourcing credentials with an external process": the keys are printed as JSON.
PROCESS = """import sys
open({counter!r}, "a").write("x")
print({keys!r})
"""
KEYS = {"Version": 1, "AccessKeyId": "AKIASOURCE", "SecretAccessKey": "source"}


@pytest.fixture(scope="module")
def server():
    with served_s3("box") as server:
        yield server


@pytest.fixture
def role_profile(server, tmp_path, monkeypatch):
    """Profiles `work` (a role) and `source` (a program); returns the file that counts its calls."""
    counter = tmp_path / "calls"
    program = tmp_path / "program.py"
    program.write_text(PROCESS.format(counter=str(counter), keys=json.dumps(KEYS)))
    (tmp_path / "config").write_text(
        f"[profile work]\nrole_arn = {ROLE}\nsource_profile = source\nregion = us-east-1\n"
        f"[profile source]\ncredential_process = {sys.executable} {program}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    return counter


def test_later_commands_log_in_no_more(role_profile, tmp_path, monkeypatch):
    """AWS CLI User Guide, "Use an IAM role in the AWS CLI": temporary credentials are cached."""
    for _ in range(3):
        # Each command is a process, which has no sessions yet.
        monkeypatch.setattr(aws_session, "_sessions", {})
        sts = client(open_session("work"), "sts")
        assert ":assumed-role/launcher/" in sts.get_caller_identity()["Arn"]
        open_store("s3://box").files()
        client(open_session("work", "us-east-1"), "s3").list_buckets()
    assert role_profile.read_text() == "x"
    (cached,) = (tmp_path / ".aws" / "cli" / "cache").iterdir()
    assert cached.stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_written_is_no_error(role_profile, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "config"))
    assert shared_session("work").get_credentials().get_frozen_credentials().access_key
    assert role_profile.read_text() == "x"


def test_sessions_of_one_profile_and_region_are_one(role_profile, monkeypatch):
    """However they are named: by an argument, by a variable, or by the profile itself."""
    session = shared_session()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(shared_session, ["work"] * 8)) == {session}
    assert shared_session("work", "us-east-1") is session
    ours = s3_client()
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert (shared_session(), s3_client()) == (session, ours)
    assert shared_session(region="eu-west-1") is not session
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("AWS_PROFILE")
    assert shared_session() is not session


def test_keys_in_the_environment_win_over_a_profile_named_there(role_profile, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    assert shared_session().get_credentials().access_key == "AKIAOTHER"
    assert shared_session("work").get_credentials().access_key.startswith("ASIA")


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        # SageMaker Developer Guide, "Environment variables used by training containers".
        ({"TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:1:training-job/a"}, "eu-west-1"),
        ({"TRAINING_JOB_ARN": "arn:aws-cn:sagemaker:cn-north-1:1:training-job/a"}, "cn-north-1"),
        ({"AWS_REGION": "ca-central-1"}, "ca-central-1"),
        ({"AWS_DEFAULT_REGION": "us-gov-west-1", "TRAINING_JOB_ARN": "?"}, "us-gov-west-1"),
    ],
)
def test_the_jobs_region_is_that_of_its_arn_or_of_a_variable(
    server, variables, region, monkeypatch
):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "TRAINING_JOB_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert s3_client().meta.region_name == region
    assert s3_client().meta.partition == shared_session().get_partition_for_region(region)


def test_a_missing_profile_is_one_line(server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "gone")
    with pytest.raises(StorageError, match=r"profile \(gone\) could not be found"):
        open_store("s3://box").files()
