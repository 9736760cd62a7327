"""The image under test comes from `make test-docker`; containers last as long as their test."""

import os

import pytest
from containers import Mount, containers_of


@pytest.fixture(scope="session")
def image():
    """Name of the image under test."""
    if "EMBEDTUNE_TEST_IMAGE" not in os.environ:
        pytest.skip("no image to test: `make test-docker` makes one")
    return os.environ["EMBEDTUNE_TEST_IMAGE"]


@pytest.fixture
def containers(image):
    """Start containers that do not outlive the test."""
    with containers_of(image) as containers:
        yield containers


@pytest.fixture
def mount(containers, tmp_path):
    """Make a folder for /opt/ml that belongs to `owner`; afterwards all in it is ours again."""
    made = []

    def make(owner, **fields):
        made.append(Mount(tmp_path / f"ml{len(made)}", containers))
        made[-1].fill({name.replace("__", "."): value for name, value in fields.items()})
        made[-1].give(owner)
        return made[-1]

    yield make
    for each in made:
        each.give(f"{os.getuid()}:{os.getgid()}")
