"""The image's build command and where it says it came from."""

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
    """For the cloud's machines whatever this one is; pip's settings only as a secret."""
    pip = tmp_path / "pip.conf"
    command = build_command(checkout, "mine", "linux/amd64", {"A": "b c"}, pip, "host")
    assert command == [
        *("docker", "build", "--platform", "linux/amd64", "--tag", "mine"),
        *("--build-arg", "A=b c", "--secret", f"id=pip,src={pip}", "--network", "host"),
        str(checkout),
    ]


def test_the_image_says_which_commit_it_was_built_from(checkout):
    """A tag of its own for each commit; marked where a file differs from it."""
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
        # A folder of the machine that builds tells nobody else anything.
        ("/home/me/embedtune", "unknown"),
    ],
)
def test_no_password_gets_into_the_label(checkout, address, source):
    git(checkout, "remote", "add", "origin", address)
    assert build_arguments(checkout, cpu=False, demo=False)["SOURCE"] == source


def test_the_choices_are_the_dockerfiles_arguments(checkout):
    chosen = build_arguments(checkout, cpu=True, demo=True)
    assert chosen["TORCH_INDEX"].endswith("/cpu")
    assert chosen["EXTRAS"] == "train,demo"


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["build", "."], 7, "is no checkout of embedtune"),
        (["build", ".", "--build-arg", "BASE"], 2, "expected NAME=VALUE"),
        (["push", "embedtune", "mine"], 13, "`mine` names no registry"),
    ],
)
def test_what_cannot_be_built_or_pushed_is_told(monkeypatch, tmp_path, arguments, code, part):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["image", *arguments])
    assert (done.exit_code, part in done.stderr) == (code, True)
