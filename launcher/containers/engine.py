"""The local Docker engine, through its command line client.

The client rather than an SDK: it honours the user's contexts and log-ins, hands credentials on by
their names alone, and what `--dry-run` prints can be pasted.
"""

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from job.core.errors import BackendError

# What client and engine say, and what to do about it; the first that fits.
NO_ENGINE = "No Docker engine answers: start it, or set `DOCKER_HOST`."
EXPLANATIONS = {
    "could not select device driver": "The engine cannot hand out GPUs: install the NVIDIA "
    "Container Toolkit and restart the engine, or launch with `--gpus none`.",
    "nvidia-container-cli": "The engine cannot reach a GPU: check `nvidia-smi` on this machine, or "
    "launch with `--gpus none`.",
    "is already in use by container": "The run is under way already: `embedtune status`.",
    "already exists": "The run is under way already: `embedtune status`.",
    "non-overlapping IPv4 address pool": "The engine has no addresses left for one more network: "
    "`docker network prune`.",
    "No such image": "The image is not here: `make image` builds it, `--image` names another.",
    "Unable to find image": "The image is not here, and could not be fetched: log in to its "
    "registry, or name another with `--image`.",
    "buildx component is missing": "This client cannot build the image: install its plugin buildx.",
    "ermission denied while trying to connect": "This user may not use the engine: join the group "
    "`docker`.",
    "Cannot connect to the Docker daemon": NO_ENGINE,
    "failed to connect to the docker API": NO_ENGINE,
}  # fmt: skip
NO_CONTAINER = ("No such container", "No such object")
# Where the driver shows its GPUs: Linux, and Windows' Linux.
DEVICES = ("/dev/nvidiactl", "/usr/lib/wsl/lib/nvidia-smi")


@dataclass(frozen=True)
class Engine:
    """What an engine offers."""

    has_gpus: bool = False
    is_rootless: bool = False
    # Unknown where it is 0.
    cores: int = 0


def look() -> Engine:
    """Ask the engine; one that does not answer offers nothing, and will be told of later."""
    has_device = any(Path(device).exists() for device in DEVICES)
    try:
        found = json.loads(docker("info", "--format", "{{json .}}"))
    except (BackendError, ValueError):
        return Engine(has_device)
    return Engine(
        # A GPU without the runtime is asked for as well: the engine's refusal says what is missing.
        has_device or "nvidia" in (found.get("Runtimes") or {}),
        any("rootless" in option for option in found.get("SecurityOptions") or ()),
        int(found.get("NCPU") or 0),
    )


@dataclass(frozen=True)
class State:
    """A container's state, as the engine tells it."""

    is_running: bool
    exit_code: int
    ran_out_of_memory: bool
    seconds: float
    image: str


def state_of(container: str) -> State | None:
    """Return a container's state; nothing where there is no such container."""
    try:
        text = docker("inspect", "--type", "container", "--format", "{{json .}}", container)
    except BackendError as error:
        if any(known in str(error) for known in NO_CONTAINER):
            return None
        raise
    found: dict[str, Any] = json.loads(text)
    state = found["State"]
    begun, ended = (datetime.fromisoformat(state[key]) for key in ("StartedAt", "FinishedAt"))
    return State(
        state["Running"],
        state["ExitCode"],
        state["OOMKilled"],
        max(0.0, (ended - begun).total_seconds()),
        found["Image"],
    )


def docker(*arguments: str, given: str | None = None) -> str:
    """Run a command of the client; returns its stdout, raises `BackendError` with its reason.

    `given` is its stdin: for what must not stand in a command line.
    """
    argv = ["docker", *arguments]
    try:
        # Its own session: the terminal's Ctrl-C is for us, who then decide.
        done = subprocess.run(
            argv, capture_output=True, text=True, input=given, check=False, start_new_session=True
        )
    except FileNotFoundError:
        msg = "`docker` is not installed here; install Docker, or use `--backend process`."
        raise BackendError(msg) from None
    if done.returncode:
        raise BackendError(explain(done.stderr))
    return done.stdout


def explain(said: str) -> str:
    """Turn what client or engine said into one line with what to do."""
    lines = [line for line in said.splitlines() if line.strip() and "--help" not in line]
    found = " ".join((lines[-1] if lines else "no reason given").split())[:400].rstrip(".")
    advice = next((f"{text} " for key, text in EXPLANATIONS.items() if key in said), "")
    return f"{advice}Docker says: {found}{'' if found.endswith('?') else '.'}"
