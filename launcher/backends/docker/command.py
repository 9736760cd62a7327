"""A plan's `docker run`: mounts, labels, devices, and credentials by their names alone."""

import csv
import io
import os
from pathlib import Path

from job.storage.stores import S3
from job.storage.workspace import DEFAULT_ROOT
from launcher.backends.docker.hosts import CHANNELS, CHECKPOINTS, Host, container_name, threads
from launcher.containers.engine import Engine
from launcher.plan.plan import Plan

USUAL_IMAGE = "embedtune"
LABEL = "embedtune.run"
FOLDER_LABEL = "embedtune.folder"
# Home of whoever the container runs as, and where it finds what is mounted for reading.
HOME, MOUNTED = "/tmp", "/run/embedtune"  # noqa: S108  a path in the container
# Handed on by name: no value stands in a command line, or in what `--dry-run` prints.
AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
HUB_VARIABLES = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET")


def run_command(plan: Plan, engine: Engine, host: Host) -> list[str]:
    """Build the `docker run` that starts the job on a host."""
    machine = plan.machine
    image = machine.image or USUAL_IMAGE
    folder = plan.folder.absolute()
    argv = ["docker", "run", "--detach", "--init", "--name", host.container]
    argv += ["--label", f"{LABEL}={plan.name}", "--label", f"{FOLDER_LABEL}={folder}"]
    # A bare name is an image of this machine; a public registry may have another's by that name.
    argv += ["--pull", "missing" if "/" in image else "never"]
    # A rootless engine's root is the caller; any other engine's is the machine's.
    argv += ["--user", "0:0" if engine.is_rootless else f"{os.getuid()}:{os.getgid()}"]
    argv += ["--mount", _bind(host.workspace, DEFAULT_ROOT)]
    if not host.is_first:
        for folder_name, readonly in ((CHANNELS, True), (CHECKPOINTS, False)):
            source, target = plan.workspace / folder_name, DEFAULT_ROOT / folder_name
            argv += ["--mount", _bind(source, target, readonly=readonly)]
    if host.is_first and not plan.destination.uri.startswith(S3):
        # Where it lies here as well, so that the spec's `output.uri` means the same in there.
        argv += ["--mount", _bind(folder, folder), "--workdir", str(Path.cwd())]
    environment = plan.environment
    wants_gpu = machine.gpus == "all" or (machine.gpus == "auto" and engine.has_gpus)
    if wants_gpu and machine.device != "cpu":
        argv += ["--gpus", "all"]
    elif machine.gpus == "none" and machine.device == "auto":
        environment["EMBEDTUNE_DEVICE"] = "cpu"
    if machine.hosts > 1:
        environment["OMP_NUM_THREADS"] = str(threads(machine.hosts, engine.cores))
    for name, value in environment.items():
        argv += ["--env", f"{name}={value}"]
    argv += _aws() if plan.uses_s3 else []
    argv += _hub() if plan.uses_hub else []
    # Docker's own 64 MB are too few for data loader workers.
    argv += ["--shm-size", machine.shm_size or "1g"]
    argv += ["--memory", machine.memory] if machine.memory else []
    return [*argv, *_network(plan, host), image, "train"]


def _network(plan: Plan, host: Host) -> list[str]:
    if plan.machine.hosts == 1:
        return ["--network", plan.machine.network] if plan.machine.network else []
    known_as = ["--hostname", host.name, "--network-alias", host.name]
    return ["--network", container_name(plan.folder), *known_as]


def _bind(source: Path, target: Path | str, *, readonly: bool = False) -> str:
    """Write a mount in Docker's way: comma-separated values, in which a path may hold commas."""
    fields = ["type=bind", f"source={source.absolute()}", f"target={target}"]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields + ["readonly"] * readonly)
    return text.getvalue()


def _by_name(variables: tuple[str, ...]) -> list[str]:
    return [part for name in variables if name in os.environ for part in ("--env", name)]


def _aws() -> list[str]:
    """Hand on the caller's credentials: variables by name, else the files of profiles."""
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
    """Hand on the Hub's token, by name or as its file, and its cache for reading."""
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
