"""`embedtune image push` to a real registry on loopback."""

import os
import subprocess
import sys

import pytest
from containers import docker

pytestmark = pytest.mark.docker

REVISION = "0123456789ab"


@pytest.fixture
def small(image, tmp_path):
    """An image with one file and our label; pushing the real image would take minutes."""
    del image
    (tmp_path / "file").write_text("content")
    archive = subprocess.run(
        ["tar", "--create", "--directory", str(tmp_path), "file"], capture_output=True, check=True
    ).stdout
    name = "embedtune-push-test:local"
    label = f"LABEL org.opencontainers.image.revision={REVISION}"
    made = ["docker", "import", "--change", label, "-", name]
    subprocess.run(made, input=archive, capture_output=True, check=True)
    yield name
    docker("rmi", "--force", docker("images", "--quiet", name).stdout.strip())


def push(*arguments):
    command = [sys.executable, "-P", "-m", "launcher.cli", "image", "push", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def test_push_prints_the_images_digest(registry, small):
    """The image is tagged with its revision, and can be pulled by the digest; progress is shown."""
    done = push(small, f"{registry}/embedtune")
    assert done.returncode == 0, done.stderr
    assert "Pushed" in done.stderr
    pushed = done.stdout.strip()
    assert pushed.startswith(f"{registry}/embedtune@sha256:")
    for name in (pushed, f"{registry}/embedtune:{REVISION}"):
        docker("rmi", "--force", small, f"{registry}/embedtune:{REVISION}")
        pulled = docker("pull", name)
        assert pulled.returncode == 0, pulled.stdout


def test_an_unreachable_registry_is_one_error(small):
    done = push(small, "127.0.0.1:9/embedtune")
    assert done.returncode == 13
    # After Docker's own progress.
    *_, last = done.stderr.splitlines()
    assert last.startswith("Error: Docker reports: ")
    assert done.stderr.count("Error: ") == 1


def test_a_missing_image_is_one_line():
    done = push("embedtune-nobody-built", "127.0.0.1:9/embedtune")
    assert done.returncode == 13
    assert "No such image" in done.stderr
