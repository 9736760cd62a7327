"""The image's build command, and its labels of revision and source."""

import base64
import subprocess

import boto3
import pytest
from botocore.stub import Stubber
from click.testing import CliRunner

from launcher.aws import sessions
from launcher.aws.stack import Stack
from launcher.cli import main
from launcher.containers.image import build_arguments, build_command


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository that looks like ours."""
    (tmp_path / "job").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "first")
    return tmp_path


@pytest.fixture
def install_docker(tmp_path, monkeypatch):
    """Return a function that installs a shell script as `docker`."""

    def install(script):
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")

    return install


# Docker Docs, "Build attestations" and "Image and registry exporters".
ONE_MANIFEST = (
    *("--provenance=false", "--sbom=false"),
    *("--output", "type=docker,oci-mediatypes=false"),
)


@pytest.mark.parametrize(("script", "options"), [("exit 0", ONE_MANIFEST), ("exit 1", ())])
def test_the_whole_build_command(checkout, tmp_path, install_docker, script, options):
    """The platform is the cloud's; pip's settings are passed as a build secret.

    buildx is told to make one manifest of Docker's media type; Docker's own builder always does.
    """
    install_docker(script)
    pip = tmp_path / "pip.conf"
    command = build_command(checkout, "mine", "linux/amd64", {"A": "b c"}, pip, "host")
    assert command == [
        *("docker", "build", "--platform", "linux/amd64", "--tag", "mine", *options),
        *("--build-arg", "A=b c", "--secret", f"id=pip,src={pip}", "--network", "host"),
        str(checkout),
    ]


def test_the_image_is_labelled_with_its_commit(checkout):
    """The label is marked if a file differs from the commit."""
    clean = build_arguments(checkout, cpu=False, demo=False)
    assert clean == {"REVISION": clean["REVISION"], "SOURCE": "unknown"}
    assert len(clean["REVISION"]) == 12
    (checkout / "Dockerfile").write_text("FROM other\n")
    assert build_arguments(checkout, cpu=False, demo=False)["REVISION"].endswith("-changed")


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("https://me:secret@git.example/a/b.git", "https://git.example/a/b.git"),
        ("git@git.example:a/b.git", "git@git.example:a/b.git"),
        # A local folder means nothing to others.
        ("/home/me/embedtune", "unknown"),
    ],
)
def test_the_source_label_has_no_password(checkout, address, source):
    git(checkout, "remote", "add", "origin", address)
    assert build_arguments(checkout, cpu=False, demo=False)["SOURCE"] == source


def test_the_options_become_build_arguments(checkout):
    arguments = build_arguments(checkout, cpu=True, demo=True)
    assert arguments["TORCH_INDEX"].endswith("/cpu")
    assert arguments["EXTRAS"] == "train,demo"


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["build", "."], 7, "is not a checkout of embedtune"),
        (["build", ".", "--build-arg", "BASE"], 2, "expected NAME=VALUE"),
        (["push", "embedtune", "mine"], 13, "`mine` names no registry"),
    ],
)
def test_an_invalid_build_or_push_is_one_line(monkeypatch, tmp_path, arguments, code, part):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["image", *arguments])
    assert (done.exit_code, part in done.stderr) == (code, True)


# Amazon ECR User Guide, "Preventing image tags from being overwritten in Amazon ECR".
IMMUTABLE = (
    "tag invalid: The image tag '1' already exists in the 'embedtune' repository and cannot be "
    "overwritten because the repository is immutable."
)
# A registry that has the tag already, and one that takes the image.
PUSH = """case "$1" in
push) echo "3f4a: Pushed"; {end} ;;
image) echo '["localhost:5000/embedtune@sha256:1"]' ;;
esac"""


@pytest.mark.parametrize(
    ("end", "code", "out", "part"),
    [
        (":", 0, "localhost:5000/embedtune@sha256:1\n", ""),
        (
            f'echo "{IMMUTABLE}" >&2; exit 1',
            13,
            "",
            "tags are immutable. To run that one: `--image",
        ),
        ("echo denied >&2; exit 1", 13, "", "Docker reports: denied."),
    ],
)
def test_a_push_shows_its_progress_and_why_it_failed(
    install_docker, capfd, monkeypatch, end, code, out, part
):
    """A tag that exists is not called a run that is under way."""
    install_docker(PUSH.format(end=end))
    done = CliRunner().invoke(main, ["image", "push", "embedtune", "localhost:5000/embedtune:1"])
    assert (done.exit_code, done.stdout, part in done.stderr) == (code, out, True)
    assert "already in progress" not in done.stderr
    # Docker writes to the real stderr.
    assert "3f4a: Pushed" in capfd.readouterr().err


def test_a_push_logs_in_with_the_given_profile(install_docker, monkeypatch, tmp_path):
    """The default repository is that of the profile's stack."""
    registry = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    token = base64.b64encode(b"AWS:secret").decode()
    ecr = boto3.client("ecr", "eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    stubber = Stubber(ecr)
    answer = {"authorizationData": [{"authorizationToken": token}]}
    stubber.add_response("get_authorization_token", answer, {"registryIds": ["123456789012"]})
    stubber.activate()
    opened = []
    monkeypatch.setattr(sessions, "open_session", lambda *given: opened.append(given))
    monkeypatch.setattr(sessions, "client", lambda *_: ecr)
    stack = Stack("eu-west-1", "role", f"{registry}/embedtune")
    monkeypatch.setattr("launcher.aws.stack.require_stack", lambda *_: stack)
    log = tmp_path / "log"
    inspected = f'["{registry}/embedtune@sha256:1"]'
    labels = (
        '{"Config": {"Labels": {}}, "Os": "linux", "Architecture": "amd64", "Id": "1", "Size": 1}'
    )
    install_docker(
        f'echo "$@ $(cat)" >> {log}\ncase "$*" in *RepoDigests*) echo \'{inspected}\' ;; '
        f"image*) echo '{labels}' ;; esac"
    )
    options = ["--profile", "work", "--region", "eu-west-1"]
    done = CliRunner().invoke(main, ["image", "push", *options])
    assert (done.exit_code, done.stdout) == (0, f"{registry}/embedtune@sha256:1\n"), done.output
    assert opened == [("work", "eu-west-1")] * 2
    assert f"login --username AWS --password-stdin {registry} secret" in log.read_text()
