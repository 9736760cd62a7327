"""An image may bring NVIDIA's forward-compatibility package; a made-up one has its layout."""

import hashlib
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from containers import docker

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
CONTROL = """\
Package: cuda-compat-13-0
Version: 580.65.06-1
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Description: made up
"""


@pytest.fixture
def package(tmp_path):
    """Serve the package; yield its address and its SHA-256."""
    files = tmp_path / "package"
    libraries = files / "usr/local/cuda-13.0/compat"
    libraries.mkdir(parents=True)
    (libraries / "libcuda.so.580.65.06").write_text("library")
    (libraries / "libcuda.so.1").symlink_to("libcuda.so.580.65.06")
    (files / "DEBIAN").mkdir()
    (files / "DEBIAN/control").write_text(CONTROL)
    made = tmp_path / "served" / "compat.deb"
    made.parent.mkdir()
    command = ["dpkg-deb", "--root-owner-group", "--build", str(files), str(made)]
    subprocess.run(command, capture_output=True, check=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(made.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/compat.deb"
        yield address, hashlib.sha256(made.read_bytes()).hexdigest()
        server.shutdown()


@pytest.fixture
def build(client, image, tmp_path, monkeypatch):
    """Return a function that builds the stage with the package, on top of the image under test."""
    del client
    # Older clients have it, but do not use it by themselves.
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    name = "embedtune-compat-test:local"

    def build(address, digest):
        arguments = {"BASE_IMAGE": image, "CUDA_COMPAT": address, "CUDA_COMPAT_SHA256": digest}
        options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command = ("build", "--network=host", "--progress=plain", f"--tag={name}", *options)
        command += ("--target=compat", f"--file={ROOT}/Dockerfile", str(tmp_path / "served"))
        return name, docker(*command)

    yield build
    docker("rmi", "--force", name)


def test_the_package_lies_where_the_entrypoint_looks_for_it(package, build):
    """The image copies this folder to /opt."""
    name, built = build(*package)
    assert built.returncode == 0, built.stdout
    command = ("run", "--rm", "--network=none", "--entrypoint=readlink", name)
    found = docker(*command, "/compat/cuda-compat/libcuda.so.1")
    assert found.stdout == "libcuda.so.580.65.06\n"


def test_a_package_with_another_digest_is_refused(package, build):
    address, digest = package
    built = build(address, digest[::-1])[1]
    assert built.returncode != 0
    assert "compat.deb: FAILED" in built.stdout
