"""The local CodeBuild behaves like AWS's, as its user guide says."""

import io
import json
import time
import zipfile
from functools import cache

import boto3
import pytest
from code_build import builds
from moto_stacks import stack_server

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::box/builds/*"},
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": "arn:aws:logs:eu-west-1:123456789012:log-group:/builds:*",
        },
    ],
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with stack_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with builds(tmp_path_factory.mktemp("builds")) as service:
            yield service


@pytest.fixture(scope="module")
def run(service):
    """Return a function that runs a buildspec; it returns the build's end and its log."""
    del service
    client = cache(boto3.Session("test", "test", region_name="eu-west-1").client)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        entry = zipfile.ZipInfo("run.sh")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, "echo ran")
    place = {"LocationConstraint": "eu-west-1"}
    client("s3").create_bucket(Bucket="box", CreateBucketConfiguration=place)
    for key in ("builds/source.zip", "other/source.zip"):
        client("s3").put_object(Bucket="box", Key=key, Body=data.getvalue())
    client("logs").create_log_group(logGroupName="/builds")
    iam = client("iam")
    role = iam.create_role(RoleName="builder", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.put_role_policy(RoleName="builder", PolicyName="p", PolicyDocument=json.dumps(POLICY))

    def run(phases, location="box/builds/source.zip", variables=()):
        phases = {name: {"commands": commands} for name, commands in phases.items()}
        codebuild = client("codebuild")
        codebuild.create_project(
            name=f"project-{time.time_ns()}",
            source={
                "type": "S3",
                "location": "box/builds/none.zip",
                "buildspec": json.dumps({"version": 0.2, "phases": phases}),
            },
            artifacts={"type": "NO_ARTIFACTS"},
            environment={
                "type": "LINUX_CONTAINER",
                "image": "aws/codebuild/amazonlinux-x86_64-standard:5.0",
                "computeType": "BUILD_GENERAL1_SMALL",
                "environmentVariables": [{"name": "OWN", "value": "project"}],
            },
            serviceRole=role,
            timeoutInMinutes=5,
            logsConfig={"cloudWatchLogs": {"status": "ENABLED", "groupName": "/builds"}},
        )
        project = codebuild.list_projects()["projects"][-1]
        started = codebuild.start_build(
            projectName=project,
            sourceLocationOverride=location,
            environmentVariablesOverride=list(variables),
        )["build"]
        while True:
            (found,) = codebuild.batch_get_builds(ids=[started["id"]])["builds"]
            if found["buildComplete"]:
                break
            time.sleep(0.02)
        time.sleep(0.3)
        stream = found["logs"].get("streamName")
        events = client("logs").get_log_events(logGroupName="/builds", logStreamName=stream)
        lines = [event["message"].rstrip() for event in events["events"]]
        return found, [line for line in lines if not line.startswith("[Container]")]

    return run


@pytest.mark.parametrize(
    ("failing", "lines"),
    [
        (None, ["pre_build", "build", "post_build"]),
        ("pre_build", []),
        ("build", ["pre_build", "post_build"]),
        ("post_build", ["pre_build", "build"]),
    ],
)
def test_post_build_runs_after_a_failed_build_but_not_after_a_failed_pre_build(run, failing, lines):
    """User guide, "Build phase transitions"."""
    phases = {
        name: ["exit 3" if name == failing else f"echo {name}"]
        for name in ("pre_build", "build", "post_build")
    }
    found, log = run(phases)
    assert log == lines
    assert found["buildStatus"] == ("FAILED" if failing else "SUCCEEDED")
    failed = [p["phaseType"] for p in found["phases"] if p.get("phaseStatus") == "FAILED"]
    assert failed == ([failing.upper()] if failing else [])


def test_a_failed_command_ends_its_phase_and_is_named(run):
    found, log = run({"build": ["echo one", "false", "echo two"]})
    assert log == ["one"]
    (phase,) = [p for p in found["phases"] if p.get("phaseStatus") == "FAILED"]
    message = "COMMAND_EXECUTION_ERROR: Error while executing command: false. Reason: exit status 1"
    assert phase["contexts"][0]["message"] == message


def test_variables_live_for_the_whole_build_and_are_those_of_the_request(run):
    """The harsher reading of `environmentVariablesOverride`: the project's own are gone."""
    commands = {"pre_build": ["export LATER=yes"], "build": ["echo ${OWN-gone} $GIVEN $LATER"]}
    given = {"name": "GIVEN", "value": "request", "type": "PLAINTEXT"}
    _, log = run(commands, variables=[given])
    assert log == ["gone request yes"]


def test_files_of_the_source_lose_their_permissions(run):
    found, log = run({"build": ["./run.sh || sh run.sh"]})
    assert found["buildStatus"] == "SUCCEEDED"
    assert log[-1] == "ran"
    assert any("ermission denied" in line for line in log)


@pytest.mark.parametrize(
    ("location", "reason"),
    [("box/other/source.zip", "AccessDenied"), ("box/builds/missing.zip", "NoSuchKey")],
)
def test_the_source_must_exist_and_be_readable_for_the_role(run, location, reason):
    found, _ = run({"build": ["echo build"]}, location)
    (phase,) = [p for p in found["phases"] if p.get("phaseStatus") == "FAILED"]
    assert phase["phaseType"] == "DOWNLOAD_SOURCE"
    assert reason in phase["contexts"][0]["message"]
