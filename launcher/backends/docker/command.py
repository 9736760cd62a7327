"""Build a plan's `docker run`: mounts, labels, devices, and credentials by variable name."""

import csv
import io
import os
from pathlib import Path

from job.storage.stores import S3
from job.storage.workspace import DEFAULT_ROOT
from launcher.backends.docker.hosts import (
    CHANNELS,
    CHECKPOINTS,
    Host,
    container_name,
    threads_per_host,
)
from launcher.containers.engine import Engine
from launcher.plan.plan import Plan

USUAL_IMAGE = "embedtune"
LABEL = "embedtune.run"
FOLDER_LABEL = "embedtune.folder"
# In the container: the user's home folder, and the folder of read-only mounts.
HOME, MOUNTED = "/tmp", "/run/embedtune"  # noqa: S108  a path in the container
# Passed by name only, so command lines and `--dry-run` show no values.
AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_BEARER_TOKEN_BEDROCK", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
)  # fmt: skip
LLM_VARIABLES = ("EMBEDTUNE_LLM_KEY",)
HUB_VARIABLES = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET")


def run_command(plan: Plan, engine: Engine, host: Host) -> list[str]:
    """Build the `docker run` that starts the job on a host."""
    machine = plan.machine
    image = machine.image or USUAL_IMAGE
    folder = plan.folder.absolute()
    argv = ["docker", "run", "--detach", "--init", "--name", host.container]
    argv += ["--label", f"{LABEL}={plan.name}", "--label", f"{FOLDER_LABEL}={folder}"]
    # A bare name means a local image: a public registry may have a stranger's image of that name.
    argv += ["--pull", "missing" if "/" in image else "never"]
    # In a rootless engine, root is the calling user; in others it is the machine's root.
    argv += ["--user", "0:0" if engine.is_rootless else f"{os.getuid()}:{os.getgid()}"]
    argv += ["--mount", _bind(host.workspace, DEFAULT_ROOT)]
    if not host.is_first:
        for folder_name, readonly in ((CHANNELS, True), (CHECKPOINTS, False)):
            source, target = plan.workspace / folder_name, DEFAULT_ROOT / folder_name
            argv += ["--mount", _bind(source, target, readonly=readonly)]
    if host.is_first and not plan.destination.uri.startswith(S3):
        # Mounted at the same path, so that `output.uri` is valid inside and outside.
        argv += ["--mount", _bind(folder, folder), "--workdir", str(Path.cwd())]
    environment = plan.environment
    wants_gpu = machine.gpus == "all" or (machine.gpus == "auto" and engine.has_gpus)
    if wants_gpu and machine.device != "cpu":
        argv += ["--gpus", "all"]
    elif machine.gpus == "none" and machine.device == "auto":
        environment["EMBEDTUNE_DEVICE"] = "cpu"
    if machine.hosts > 1:
        environment["OMP_NUM_THREADS"] = str(threads_per_host(machine.hosts, engine.cores))
    for name, value in environment.items():
        argv += ["--env", f"{name}={value}"]
    argv += _aws() if plan.uses_aws else []
    argv += _hub() if plan.uses_hub else []
    argv += _by_name(LLM_VARIABLES) if plan.spec.data.documents else []
    # Docker's default of 64 MB is too small for data loader workers.
    argv += ["--shm-size", machine.shm_size or "1g"]
    argv += ["--memory", machine.memory] if machine.memory else []
    return [*argv, *_network(plan, host), image, "train"]


def _network(plan: Plan, host: Host) -> list[str]:
    if plan.machine.hosts == 1:
        return ["--network", plan.machine.network] if plan.machine.network else []
    names = ["--hostname", host.name, "--network-alias", host.name]
    return ["--network", container_name(plan.folder), *names]


def _bind(source: Path, target: Path | str, *, readonly: bool = False) -> str:
    """Format a mount for `--mount`: one CSV line, since paths may contain commas."""
    fields = ["type=bind", f"source={source.absolute()}", f"target={target}"]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields + ["readonly"] * readonly)
    return text.getvalue()


def _by_name(variables: tuple[str, ...]) -> list[str]:
    return [part for name in variables if name in os.environ for part in ("--env", name)]


def _aws() -> list[str]:
    """Pass the caller's AWS credentials: variables by name; without a key, the profile files."""
    options = _by_name(AWS_VARIABLES)
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return options
    home = Path.home() / ".aws"
    files = {
        "credentials": Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")),
        "config": Path(os.environ.get("AWS_CONFIG_FILE", home / "config")),
        "sso": home / "sso",
    }
    for name, path in files.items():
        if path.exists():
            options += ["--mount", _bind(path, f"{HOME}/.aws/{name}", readonly=True)]
    return options


def _hub() -> list[str]:
    """Pass the Hub's token, by name or as a file, and mount the Hub's cache read-only."""
    from huggingface_hub import constants

    options = _by_name(HUB_VARIABLES)
    token, cache = Path(constants.HF_TOKEN_PATH), Path(constants.HF_HUB_CACHE)
    if "HF_TOKEN" not in os.environ and token.is_file():
        options += ["--mount", _bind(token, f"{MOUNTED}/token", readonly=True)]
        options += ["--env", f"HF_TOKEN_PATH={MOUNTED}/token"]
    if cache.is_dir():
        options += ["--mount", _bind(cache, f"{MOUNTED}/hub", readonly=True)]
        options += ["--env", f"EMBEDTUNE_HUB_CACHE={MOUNTED}/hub"]
    return options
