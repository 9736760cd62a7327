"""`embedtune image push` into a real registry on loopback."""

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
    """Debian's docker-registry, which is CNCF's own, empty."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("there is no `docker-registry` here; Debian has it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "registry", port=port))
    with subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            with socket.socket() as out_of_domain:
                if out_of_domain.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
def small(image, tmp_path):
    """An image of one file with our label: to push ours would take minutes."""
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


def test_it_prints_the_name_that_never_changes(registry, small):
    """Tagged with the revision, and found again by the digest alone."""
    done = push(small, f"{registry}/embedtune")
    assert done.returncode == 0, done.stderr
    pushed = done.stdout.strip()
    assert pushed.startswith(f"{registry}/embedtune@sha256:")
    for name in (pushed, f"{registry}/embedtune:{REVISION}"):
        docker("rmi", "--force", small, f"{registry}/embedtune:{REVISION}")
        pulled = docker("pull", name)
        assert pulled.returncode == 0, pulled.stdout


def test_a_registry_that_does_not_answer_is_one_line(small):
    done = push(small, "127.0.0.1:9/embedtune")
    assert done.returncode == 13
    assert done.stderr.startswith("Error: Docker says: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_image_that_is_not_there_is_one_line():
    done = push("embedtune-nobody-built", "127.0.0.1:9/embedtune")
    assert done.returncode == 13
    assert "No such image" in done.stderr
