"""Docker's errors, and the advice that we add."""

import sys

import pytest

from job.core.errors import BackendError
from launcher.containers.engine import docker, explain, inspect_engine

# As printed by clients 20.10 and 28.2 (shared facts; engine 20.10.24).
MESSAGES = {
    'docker: Error response from daemon: could not select device driver "" with capabilities: '
    "[[gpu]].": "install the NVIDIA Container Toolkit",
    "docker: Error response from daemon: No such image: embedtune:latest.\n\n"
    "Run 'docker run --help' for more information": "build it with `make image`",
    "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?": "start it",
    "ERROR: BuildKit is enabled but the buildx component is missing or broken.": "plugin buildx",
    "docker: Got permission denied while trying to connect to the Docker daemon socket": "join the",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_docker_error_is_one_line_with_advice(message):
    line = explain(message)
    assert MESSAGES[message] in line
    assert "\n" not in line
    assert "--help" not in line
    assert line.endswith((".", "?"))
    assert not line.endswith(("..", "?."))


def test_an_unknown_error_is_passed_on():
    assert explain("a\n\nsomething odd\n") == "Docker reports: something odd."
    assert explain("") == "Docker reports: no reason given."


def test_a_missing_docker_is_one_line_with_another_way(monkeypatch, tmp_path):
    """Inspecting the engine then finds no features."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"`docker` is not installed.*`--backend process`"):
        docker("version")
    assert not inspect_engine().is_rootless


def test_a_password_goes_through_stdin(monkeypatch, tmp_path):
    """The command line does not contain it."""
    client = tmp_path / "docker"
    client.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:], sys.stdin.read())\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert docker("login", "--password-stdin", stdin="secret") == (
        "['login', '--password-stdin'] secret\n"
    )


def test_the_last_line_of_a_failed_command_is_the_reason(monkeypatch, tmp_path):
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho first >&2\necho last >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(BackendError, match=r"^Docker reports: last\.$"):
        docker("anything")
