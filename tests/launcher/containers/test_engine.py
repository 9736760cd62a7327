"""What Docker says, and what we make of it."""

import sys

import pytest

from job.core.errors import BackendError
from launcher.containers.engine import docker, explain, inspect_engine

# As printed by clients 20.10 and 28.2 (shared facts; engine 20.10.24).
SAID = {
    'docker: Error response from daemon: could not select device driver "" with capabilities: '
    "[[gpu]].": "install the NVIDIA Container Toolkit",
    "docker: Error response from daemon: No such image: embedtune:latest.\n\n"
    "Run 'docker run --help' for more information": "`make image` builds it",
    "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?": "start it",
    "ERROR: BuildKit is enabled but the buildx component is missing or broken.": "plugin buildx",
    "docker: Got permission denied while trying to connect to the Docker daemon socket": "join the",
}


@pytest.mark.parametrize("said", SAID)
def test_a_refusal_is_one_line_with_what_to_do(said):
    line = explain(said)
    assert SAID[said] in line
    assert "\n" not in line
    assert "--help" not in line
    assert line.endswith((".", "?"))
    assert not line.endswith(("..", "?."))


def test_what_nobody_foresaw_is_passed_on():
    assert explain("a\n\nsomething odd\n") == "Docker says: something odd."
    assert explain("") == "Docker says: no reason given."


def test_a_machine_without_docker_is_told_so(monkeypatch, tmp_path):
    """No traceback, another way to go; to look at it finds nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="`docker` is not installed here"):
        docker("version")
    assert not inspect_engine().is_rootless


def test_a_password_goes_over_stdin(monkeypatch, tmp_path):
    """What is given is not in the command line of the client."""
    client = tmp_path / "docker"
    client.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:], sys.stdin.read())\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert docker("login", "--password-stdin", stdin="secret") == (
        "['login', '--password-stdin'] secret\n"
    )


def test_a_client_that_fails_ends_in_its_last_line(monkeypatch, tmp_path):
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho first >&2\necho last >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(BackendError, match=r"^Docker says: last\.$"):
        docker("anything")
