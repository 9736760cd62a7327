"""The image's build command, and its labels of revision and source."""

import subprocess

import pytest
from click.testing import CliRunner

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


def test_the_whole_build_command(checkout, tmp_path):
    """The platform is the cloud's; pip's settings are passed as a build secret."""
    pip = tmp_path / "pip.conf"
    command = build_command(checkout, "mine", "linux/amd64", {"A": "b c"}, pip, "host")
    assert command == [
        *("docker", "build", "--platform", "linux/amd64", "--tag", "mine"),
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
