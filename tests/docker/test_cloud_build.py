"""The template's buildspec on a real engine: a local CodeBuild builds, and pushes to a registry."""

import subprocess

import pytest
from click.testing import CliRunner
from code_build import builds
from containers import docker
from moto_stacks import stack_server

from launcher.aws import cloudformation, code_build
from launcher.cli import main

pytestmark = pytest.mark.docker

# Our own Dockerfile is built by `make test-docker`; pushing its image would take minutes.
DOCKERFILE = """\
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
COPY job /job
ARG EXTRAS
ARG REVISION
LABEL extras="${EXTRAS}" revision="${REVISION}"
"""


@pytest.fixture
def base(image, tmp_path):
    """A base image with one file."""
    del image
    (tmp_path / "file").write_text("content")
    archive = ["tar", "--create", "--directory", str(tmp_path), "file"]
    data = subprocess.run(archive, capture_output=True, check=True).stdout
    name = "embedtune-cloud-base:local"
    subprocess.run(["docker", "import", "-", name], input=data, capture_output=True, check=True)
    yield name
    docker("rmi", "--force", name)


@pytest.fixture
def build(client, base, registry, tmp_path, monkeypatch):
    """Return a function that builds a checkout on AWS."""
    del client
    monkeypatch.setitem(cloudformation.POLLS, "Delay", 0.01)
    monkeypatch.setattr(code_build, "PAUSE_SECONDS", 0.2)
    checkout = tmp_path / "checkout"
    (checkout / "job").mkdir(parents=True)
    (checkout / "job" / "a.py").write_text("1")
    (checkout / "secrets.env").write_text("PASSWORD=1")
    (checkout / ".dockerignore").write_text("*\n!job\n")
    (tmp_path / "builds").mkdir()

    def build(dockerfile):
        (checkout / "Dockerfile").write_text(dockerfile)
        command = ["image", "build", str(checkout), "--on", "aws", "--demo"]
        return CliRunner().invoke(main, [*command, "--build-arg", f"BASE_IMAGE={base}"])

    with stack_server() as environment, builds(tmp_path / "builds", registry=registry):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert CliRunner().invoke(main, ["infra", "deploy", "--yes"]).exit_code == 0
        yield build


def test_the_image_that_aws_builds_can_be_pulled_by_its_digest(build, registry):
    """It has the checkout's files without the ignored ones, and its labels."""
    done = build(DOCKERFILE)
    assert done.exit_code == 0, done.output
    address, _, digest = done.stdout.strip().partition("@")
    assert address.endswith(".dkr.ecr.eu-west-1.amazonaws.com/embedtune")
    pulled = f"{registry}/embedtune@{digest}"
    found = docker("pull", pulled)
    assert found.returncode == 0, found.stdout
    labels = docker("image", "inspect", "--format", "{{json .Config.Labels}}", pulled).stdout
    assert '"extras":"train,demo"' in labels
    assert '"revision":"unknown"' in labels
    container = docker("create", "--network", "none", pulled, "nothing").stdout.split()[-1]
    files = subprocess.run(["docker", "export", container], capture_output=True, check=True).stdout
    docker("rm", container)
    listed = subprocess.run(["tar", "--list"], input=files, capture_output=True, check=True)
    assert b"job/a.py" in listed.stdout
    assert b"secrets.env" not in listed.stdout
    docker("rmi", "--force", pulled)


def test_a_failing_docker_build_is_shown_and_pushes_nothing(build, registry):
    done = build(f"{DOCKERFILE}COPY missing /\n")
    assert done.exit_code == 16
    *lines, error = done.stderr.splitlines()
    assert any("missing" in line and "not found" in line for line in lines)
    assert "in the phase BUILD" in error
    assert docker("pull", f"{registry}/embedtune").returncode != 0
