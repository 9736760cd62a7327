"""`make test-docker` provides the image under test; containers are removed after each test."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from containers import Mount, containers_of, docker
from docker_desk import Desk
from hub_server import Hub


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
