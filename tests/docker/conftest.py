"""`make test-docker` provides the image under test; containers are removed after each test."""

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from containers import Mount, containers_of, docker
from docker_desk import Desk
from hub_server import Hub

CONFIG = """\
version: 0.1
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture(scope="session")
def image():
    """The name of the image under test."""
    if "EMBEDTUNE_TEST_IMAGE" not in os.environ:
        pytest.skip("no image to test: `make test-docker` builds one")
    return os.environ["EMBEDTUNE_TEST_IMAGE"]


@pytest.fixture
def containers(image):
    """Starts containers, which are removed after the test."""
    with containers_of(image) as containers:
        yield containers


@pytest.fixture
def mount(containers, tmp_path):
    """Return a function that makes an /opt/ml folder with an owner; the owner is reset after it."""
    made = []

    def make(owner, **fields):
        made.append(Mount(tmp_path / f"ml{len(made)}", containers))
        made[-1].fill({name.replace("__", "."): value for name, value in fields.items()})
        made[-1].give(owner)
        return made[-1]

    yield make
    for each in made:
        each.give(f"{os.getuid()}:{os.getgid()}")


@dataclass(frozen=True)
class HubCache:
    """A cache with one model of a Hub that is no longer running."""

    folder: Path
    model: str
    commit: str

    def listing(self):
        return {path: path.lstat().st_mtime_ns for path in self.folder.rglob("*")}


@pytest.fixture
def hub_cache(tmp_path, tiny_encoder):
    """The tiny encoder, downloaded as a user would have it."""
    folder, model = tmp_path / "hub-cache", "me/tiny"
    code = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1])"
    with Hub() as hub:
        commit = hub.add("model", model, tiny_encoder)
        environment = hub.environment(tmp_path) | {"HF_HUB_CACHE": str(folder)}
        subprocess.run([sys.executable, "-c", code, model], env=environment, check=True)
    return HubCache(folder, model, commit)


@pytest.fixture
def desk(tmp_path, image, pairs_file, tiny_encoder):
    """Return a function that makes a `Desk`; its containers are removed after the test."""
    made = []

    def make(epochs=2, image=image, **job):
        job = {"pairs": pairs_file, "encoder": tiny_encoder} | job
        made.append(Desk(tmp_path / f"desk {len(made)}, mine", image, epochs=epochs, **job))
        return made[-1]

    yield make
    for each in made:
        if left := each.containers():
            docker("rm", "--force", *left)
        if left := each.networks():
            docker("network", "rm", *left)


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
def client(monkeypatch):
    """Put a client with BuildKit first in PATH: since version 23 it needs the plugin buildx."""
    for folder in os.environ["PATH"].split(os.pathsep):
        program = Path(folder, "docker")
        if not program.is_file():
            continue
        version = ["version", "--format", "{{.Client.Version}}"]
        found = subprocess.run([program, *version], capture_output=True, text=True, check=False)
        plugin = subprocess.run([program, "buildx", "version"], capture_output=True, check=False)
        if int(found.stdout.partition(".")[0]) < 23 or plugin.returncode == 0:
            monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
            return
    pytest.skip("no docker client has BuildKit; install buildx")
