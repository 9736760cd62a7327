"""`embedtune image build --on aws` with a local CodeBuild that runs the template's buildspec."""

import json
import os
import signal
import threading
import time
import zipfile
from contextlib import suppress
from copy import deepcopy
from functools import cache
from io import BytesIO
from types import SimpleNamespace

import boto3
import pytest
from click.testing import CliRunner
from code_build import builds
from moto.codebuild.models import codebuild_backends
from moto_stacks import stack_server

from job.core.errors import BackendError
from launcher.aws import cloudformation, code_build
from launcher.aws.stack import Stack
from launcher.cli import main
from launcher.containers.cloud_image import plan_build

HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
REPOSITORY = f"{HOST}/embedtune"
DOCKERFILE = "ARG BASE_IMAGE=python:3.11-slim-bookworm\nFROM ${BASE_IMAGE}\n"


@pytest.fixture(scope="module")
def account():
    """An account with our stack; `account("s3")` returns a client."""
    with stack_server() as environment, pytest.MonkeyPatch.context() as patch:
        patch.setitem(cloudformation.POLLS, "Delay", 0.01)
        for name, value in environment.items():
            patch.setenv(name, value)
        assert embedtune("infra", "deploy", "--yes").exit_code == 0
        yield cache(lambda service: boto3.client(service, region_name="eu-west-1"))


@pytest.fixture
def service(account, tmp_path, monkeypatch):
    """A CodeBuild that finishes at once."""
    del account
    monkeypatch.setattr(code_build, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(code_build, "LAST_PAUSE_SECONDS", 0.05)
    (tmp_path / "builds").mkdir()
    with builds(tmp_path / "builds") as service:
        yield service


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "job").mkdir(parents=True)
    (folder / "job" / "a.py").write_text(f"a source of its own: {folder}")
    (folder / "secrets.env").write_text("PASSWORD=1")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / ".dockerignore").write_text("*\n!job\n")
    return folder


def embedtune(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def build(checkout, *options, code=0):
    done = embedtune("image", "build", checkout, "--on", "aws", *options)
    assert done.exit_code == code, done.output
    return done


def test_the_image_is_built_pushed_and_named_by_the_digest_that_launch_uses(
    account, service, checkout
):
    """stdout is the name; stderr shows the cost first, then the phases and the build's log."""
    done = build(checkout, "--demo", "--cpu")
    images = account("ecr").describe_images(repositoryName="embedtune")["imageDetails"]
    (tag,) = [tag for image in images for tag in image["imageTags"]]
    assert done.stdout == f"{REPOSITORY}@{images[0]['imageDigest']}\n"
    bucket = account("s3").list_buckets()["Buckets"][0]["Name"]
    lines = done.stderr.splitlines()
    assert "$0.01 a minute" in lines[0]
    assert lines[1] == f"Uploading 3 files (0.0 MB) to s3://{bucket}/builds/{tag}.zip"
    assert "Ctrl-C stops it" in lines[2]
    assert "provisioning …" in lines
    shown = [line for line in lines if "#1 building" in line or "Phase complete" in line]
    assert [line.split()[-1] for line in shown] == ["SUCCEEDED", "SUCCEEDED", "building"] + [
        "SUCCEEDED"
    ] * 2

    data = account("s3").get_object(Bucket=bucket, Key=f"builds/{tag}.zip")["Body"].read()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.namelist() == [".dockerignore", "Dockerfile", "job/a.py"]

    login, built, pushed = service.docker_calls()[2:]
    assert login == ["login", "--username", "AWS", "--password-stdin", HOST]
    assert built[:4] == ["build", "--platform", "linux/amd64", "--tag"]
    assert built[4:5] + built[-1:] == [f"{REPOSITORY}:{tag}", "."]
    # One manifest of Docker's media types, without attestations.
    one = ["--provenance=false", "--sbom=false", "--output", "type=docker,oci-mediatypes=false"]
    assert built[5:9] == one
    assert pushed == ["push", f"{REPOSITORY}:{tag}"]
    assert (service.folder / "build-arguments").read_text().splitlines() == [
        # Amazon's copy of Docker's official image.
        "BASE_IMAGE=public.ecr.aws/docker/library/python:3.11-slim-bookworm",
        "TORCH_INDEX=https://download.pytorch.org/whl/cpu",
        "EXTRAS=train,demo",
        "CUDA_COMPAT=",
        "CUDA_COMPAT_SHA256=",
        "REVISION=unknown",
        "SOURCE=unknown",
    ]


@pytest.mark.exhaustive
def test_the_same_source_is_not_built_twice(account, service, checkout):
    """The tag depends on the source and on the build arguments."""
    first = build(checkout)
    again = build(checkout)
    assert again.stdout == first.stdout
    assert "exists; nothing was built" in again.stderr
    # It may not be the newest any more, which a launch would use.
    assert f"--image {first.stdout.strip()}" in again.stderr
    assert build(checkout, "--demo").stdout != first.stdout
    (checkout / "job" / "a.py").write_text("2")
    assert build(checkout).stdout != first.stdout
    (checkout / "secrets.env").write_text("PASSWORD=2")
    assert "nothing was built" in build(checkout).stderr
    assert len(service.builds) == 3
    named = build(checkout, "--tag", "v1")
    images = account("ecr").describe_images(
        repositoryName="embedtune", imageIds=[{"imageTag": "v1"}]
    )["imageDetails"]
    assert named.stdout == f"{REPOSITORY}@{images[0]['imageDigest']}\n"


def test_a_failing_build_shows_its_last_lines_and_exits_with_its_own_code(service, checkout):
    """The error names the phase, the command and the log; nothing is pushed."""
    service.build_error = "ERROR: No matching distribution found for torch\n"
    done = build(checkout, code=16)
    *lines, error = done.stderr.splitlines()
    assert "ERROR: No matching distribution found for torch" in lines
    assert done.stdout == ""
    (made,) = service.builds
    assert error.startswith(f"Error: The build {made} ended with FAILED: in the phase BUILD, ")
    assert "docker build --platform" in error
    assert "exit status 1" in error
    assert error.endswith(f"Its log: https://logs.example/{made}")
    assert [call[0] for call in service.docker_calls()] == ["version", "buildx", "login", "build"]


@pytest.mark.exhaustive
def test_a_build_that_exceeds_its_time_limit_fails(service, checkout):
    service.is_slow, service.timeout_seconds = True, 0.3
    assert "ended with TIMED_OUT: in the phase BUILD" in build(checkout, code=16).stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("change", "part"),
    [
        # Without it, the build's container has no Docker daemon.
        (lambda project: project["environment"].update(privilegedMode=False), "docker version"),
        (lambda project: project.update(serviceRole="arn:aws:iam::1:role/none"), "AccessDenied"),
    ],
    ids=["unprivileged", "other role"],
)
def test_a_changed_project_fails_with_the_reason(account, service, checkout, change, part):
    projects = codebuild_backends["123456789012"]["eu-west-1"].codebuild_projects
    (project,) = projects.values()
    original = deepcopy(project.project_metadata)
    with suppress(account("iam").exceptions.EntityAlreadyExistsException):
        account("iam").create_role(RoleName="none", AssumeRolePolicyDocument="{}")
    change(project.project_metadata)
    try:
        error = build(checkout, code=16).stderr.splitlines()[-1]
    finally:
        project.project_metadata = original
    assert part in error


# The interrupt may come while a connection is opened, which nobody closes then.
@pytest.mark.filterwarnings(
    "ignore:unclosed <socket", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_ctrl_c_stops_the_build(service, checkout):
    """It waits for the end, and exits like a stopped run."""
    service.is_slow = True

    def interrupt():
        while not any(b.phases[-1]["phaseType"] == "BUILD" for b in service.builds.values()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=interrupt)
    killer.start()
    done = build(checkout, code=11)
    killer.join()
    assert "Stopping the build …" in done.stderr.splitlines()
    (made,) = service.builds.values()
    assert done.stderr.splitlines()[-1] == f"Error: The build {made.id} was stopped."
    assert made.status == "STOPPED"


def test_a_second_ctrl_c_says_how_to_stop_the_build(monkeypatch):
    """It exits at once, and does not claim that the build was stopped."""
    session = boto3.Session("test", "test", region_name="eu-west-1")
    build = code_build._Build(session, "project:1")
    monkeypatch.setattr(build, "_client", SimpleNamespace(stop_build=lambda **_: None))

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "follow", interrupt)
    with pytest.raises(BackendError) as raised:
        build.stop(print)
    stop = "`aws codebuild stop-build --id project:1 --region eu-west-1`"
    assert str(raised.value) == f"Interrupted. The build may continue; to stop it: {stop}."


@pytest.mark.exhaustive
def test_lost_credentials_leave_the_build_running_and_say_how_to_stop_it(
    service, checkout, monkeypatch
):
    lost = "The credentials have expired."

    def lose(*_):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        raise BackendError(lost)

    monkeypatch.setattr(code_build._Build, "_show_new", lose)
    error = build(checkout, code=13).stderr.splitlines()[-1]
    (made,) = service.builds
    stop = f"`aws codebuild stop-build --id {made} --region eu-west-1`"
    assert error.endswith(f"The build continues; to stop it: {stop}.")


@pytest.mark.exhaustive
def test_an_account_without_quota_gets_its_name(service, checkout):
    service.has_quota = False
    error = build(checkout, code=13).stderr.splitlines()[-1]
    assert "Cannot have more than 0 builds in queue" in error
    assert "`Concurrently running builds for Linux/Medium environment`" in error


def test_a_dry_run_prints_the_request_and_uploads_nothing(account, service, checkout):
    document = json.loads(build(checkout, "--dry-run", "--tag", "t").stdout)
    bucket = account("s3").list_buckets()["Buckets"][0]["Name"]
    (project,) = account("codebuild").list_projects()["projects"]
    variables = document["start_build"].pop("environmentVariablesOverride")
    assert document == {
        "upload": {"to": f"s3://{bucket}/builds/t.zip", "files": 3},
        "image": f"{REPOSITORY}:t",
        "start_build": {
            "projectName": project,
            "sourceLocationOverride": f"{bucket}/builds/t.zip",
        },
    }
    assert {each["name"] for each in variables} == {
        *("BASE_IMAGE", "CUDA_COMPAT", "CUDA_COMPAT_SHA256", "EXTRAS", "IMAGE_TAG"),
        *("REPOSITORY_URI", "REVISION", "SOURCE", "TORCH_INDEX"),
    }
    assert account("s3").list_objects_v2(Bucket=bucket, Prefix="builds/t.")["KeyCount"] == 0
    assert service.builds == {}


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (("--platform", "linux/arm64"), 2, "`--on aws` does not accept `--platform`"),
        (("--build-arg", "OTHER=1"), 3, "`--build-arg OTHER`: expected one of BASE_IMAGE"),
        (("--tag", "me/mine:1"), 3, "`--tag me/mine:1`: expected letters"),
        (("--stack", "other"), 13, "There is no stack `other`"),
    ],
)
def test_a_wrong_option_is_one_line_and_builds_nothing(service, checkout, options, code, part):
    assert part in build(checkout, *options, code=code).stderr.splitlines()[-1]
    assert service.builds == {}


def test_an_older_stack_is_to_be_updated_first(checkout):
    stack = Stack("eu-west-1", "role", REPOSITORY, bucket="box")
    with pytest.raises(BackendError, match="`embedtune infra deploy` updates it"):
        plan_build(stack, checkout, {"REVISION": "1"}, None)
