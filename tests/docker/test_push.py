"""`embedtune image push` to a real registry on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from containers import docker

pytestmark = pytest.mark.docker

CONFIG = """\
version: 0.1
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
REVISION = "0123456789ab"


@pytest.fixture
def registry(tmp_path):
    """An empty docker-registry (CNCF's, packaged by Debian)."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("`docker-registry` is not installed; Debian has a package")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "registry", port=port))
    with subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
        process.terminate()


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
    """The image is tagged with its revision, and can be pulled by the digest."""
    done = push(small, f"{registry}/embedtune")
    assert done.returncode == 0, done.stderr
    pushed = done.stdout.strip()
    assert pushed.startswith(f"{registry}/embedtune@sha256:")
    for name in (pushed, f"{registry}/embedtune:{REVISION}"):
        docker("rmi", "--force", small, f"{registry}/embedtune:{REVISION}")
        pulled = docker("pull", name)
        assert pulled.returncode == 0, pulled.stdout


def test_an_unreachable_registry_is_one_line(small):
    done = push(small, "127.0.0.1:9/embedtune")
    assert done.returncode == 13
    assert done.stderr.startswith("Error: Docker reports: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_image_is_one_line():
    done = push("embedtune-nobody-built", "127.0.0.1:9/embedtune")
    assert done.returncode == 13
    assert "No such image" in done.stderr
