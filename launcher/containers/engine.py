"""The local Docker engine, called through the `docker` command.

The command rather than an SDK: it uses the user's contexts and logins, takes credentials by
variable name only, and users can paste what `--dry-run` prints.
"""

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from job.core.errors import BackendError

# Advice by a substring of Docker's error message; the first match wins.
NO_ENGINE = "The Docker engine does not respond: start it, or set `DOCKER_HOST`."
EXPLANATIONS = {
    "could not select device driver": "The engine cannot use GPUs: install the NVIDIA Container "
    "Toolkit and restart the engine, or launch with `--gpus none`.",
    "nvidia-container-cli": "The engine cannot reach a GPU: check `nvidia-smi` on this machine, or "
    "launch with `--gpus none`.",
    "is already in use by container": "The run is already in progress: `embedtune status`.",
    "network with name": "The run is already in progress: `embedtune status`.",
    "non-overlapping IPv4 address pool": "The engine has no addresses left for another network: "
    "`docker network prune`.",
    "No such image": "The image is not on this machine: build it with `make image`, or choose "
    "another with `--image`.",
    "Unable to find image": "The image is not on this machine and could not be pulled: log in to "
    "its registry, or choose another with `--image`.",
    "buildx component is missing": "This Docker client cannot build the image: install its plugin "
    "buildx.",
    "ermission denied while trying to connect": "This user has no permission to use the engine: "
    "join the group `docker`.",
    "Cannot connect to the Docker daemon": NO_ENGINE,
    "failed to connect to the docker API": NO_ENGINE,
}  # fmt: skip
NO_CONTAINER = ("No such container", "No such object")
# Files of the NVIDIA driver: on Linux, and on WSL.
DEVICES = ("/dev/nvidiactl", "/usr/lib/wsl/lib/nvidia-smi")


@dataclass(frozen=True)
class Engine:
    """Features of an engine."""

    has_gpus: bool = False
    is_rootless: bool = False
    # 0 if unknown.
    cores: int = 0


def inspect_engine() -> Engine:
    """Return the engine's features.

    If Docker does not respond, assume no features; the launch reports the error.
    """
    has_device = any(Path(device).exists() for device in DEVICES)
    try:
        found = json.loads(docker("info", "--format", "{{json .}}"))
    except (BackendError, ValueError):
        return Engine(has_device)
    return Engine(
        # Request a GPU even without the runtime: the engine's error says what is missing.
        has_device or "nvidia" in (found.get("Runtimes") or {}),
        any("rootless" in option for option in found.get("SecurityOptions") or ()),
        int(found.get("NCPU") or 0),
    )


@dataclass(frozen=True)
class State:
    """A container's state, as reported by the engine."""

    is_running: bool
    exit_code: int
    ran_out_of_memory: bool
    seconds: float
    image: str


def state_of(container: str) -> State | None:
    """Return a container's state, or None if it does not exist."""
    try:
        text = docker("inspect", "--type", "container", "--format", "{{json .}}", container)
    except BackendError as error:
        if any(known in str(error) for known in NO_CONTAINER):
            return None
        raise
    found: dict[str, Any] = json.loads(text)
    state = found["State"]
    started, ended = (datetime.fromisoformat(state[key]) for key in ("StartedAt", "FinishedAt"))
    return State(
        state["Running"],
        state["ExitCode"],
        state["OOMKilled"],
        max(0.0, (ended - started).total_seconds()),
        found["Image"],
    )


def docker(*arguments: str, stdin: str | None = None) -> str:
    """Run a `docker` command and return its stdout; raises `BackendError` with its message.

    Pass secrets as `stdin`: other users can read command lines.
    """
    argv = ["docker", *arguments]
    try:
        # A new session: Ctrl-C reaches only the launcher, which decides what to do.
        done = subprocess.run(
            argv, capture_output=True, text=True, input=stdin, check=False, start_new_session=True
        )
    except FileNotFoundError:
        msg = "`docker` is not installed; install Docker, or use `--backend process`."
        raise BackendError(msg) from None
    if done.returncode:
        raise BackendError(explain(done.stderr))
    return done.stdout


def explain(output: str) -> str:
    """Turn Docker's error output into one line with advice."""
    lines = [line for line in output.splitlines() if line.strip() and "--help" not in line]
    found = " ".join((lines[-1] if lines else "no reason given").split())[:400].rstrip(".")
    advice = next((f"{text} " for key, text in EXPLANATIONS.items() if key in output), "")
    return f"{advice}Docker reports: {found}{'' if found.endswith('?') else '.'}"
