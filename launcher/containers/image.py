"""The job's image: the command that builds it, its way into a registry, its layers."""

import json
import os
import re
import subprocess
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import click

from job.core.errors import BackendError, StorageError
from launcher.aws.account import ECR
from launcher.containers.engine import docker, explain

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
REVISION = "org.opencontainers.image.revision"


def build_arguments(folder: Path, *, cpu: bool, demo: bool) -> dict[str, str]:
    """Choose the Dockerfile's arguments; what the image was built from is read from git."""
    chosen = {"REVISION": revision(folder), "SOURCE": source(folder)}
    chosen |= {"TORCH_INDEX": CPU_INDEX} if cpu else {}
    return chosen | ({"EXTRAS": "train,demo"} if demo else {})


def build_command(
    folder: Path,
    tag: str,
    platform: str,
    arguments: dict[str, str],
    pip_conf: Path | None,
    network: str | None,
) -> list[str]:
    """Write the `docker build`; raises `StorageError` where there is nothing to build from."""
    if not (folder / "Dockerfile").is_file() or not (folder / "job").is_dir():
        msg = f"`{folder}` is no checkout of embedtune: it has no `Dockerfile` beside `job/`."
        raise StorageError(msg)
    command = ["docker", "build", "--platform", platform, "--tag", tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    command += ["--secret", f"id=pip,src={pip_conf}"] if pip_conf else []
    command += ["--network", network] if network else []
    return [*command, str(folder)]


def build_image(command: list[str]) -> None:
    """Run a build, whose progress goes to stderr."""
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    # To see why a build failed, its own lines are needed; the last ones are kept for advice.
    said: deque[str] = deque(maxlen=20)
    try:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as client:
            for line in client.stdout or ():
                click.echo(line, err=True, nl=False)
                said.append(line)
    except FileNotFoundError:
        msg = "`docker` is not installed here."
        raise BackendError(msg) from None
    if client.returncode:
        raise BackendError(explain("".join(said)))


def push_image(image: str, reference: str) -> str:
    """Push an image; returns `repository@sha256:…`."""
    registry, _, rest = reference.partition("/")
    if not rest:
        msg = f"`{reference}` names no registry; expected REGISTRY/REPOSITORY[:TAG]."
        raise BackendError(msg)
    repository, colon, tag = rest.partition(":")
    tag = tag if colon else look_at(image).revision
    if found := ECR.fullmatch(registry):
        _log_in_to_ecr(registry, account=found[1], region=found[2])
    target = f"{registry}/{repository}:{tag}"
    docker("tag", image, target)
    docker("push", target)
    shown = docker("image", "inspect", "--format", "{{json .RepoDigests}}", target)
    digests: list[str] = json.loads(shown)
    own = f"{registry}/{repository}@"
    return next(digest for digest in digests if digest.startswith(own))


def _log_in_to_ecr(registry: str, account: str, region: str) -> None:
    import base64

    from launcher.aws import sessions

    with sessions.explained(f"logging in to `{registry}`"):
        ecr = sessions.client(sessions.open_session(region=region), "ecr")
        given = ecr.get_authorization_token(registryIds=[account])["authorizationData"][0]
    user, _, password = base64.b64decode(given["authorizationToken"]).decode().partition(":")
    docker("login", "--username", user, "--password-stdin", registry, given=password)


@dataclass(frozen=True)
class Layer:
    bytes: int
    made_by: str


@dataclass(frozen=True)
class Image:
    """An image of this engine, its layers from the base upwards."""

    id: str
    platform: str
    bytes: int
    labels: dict[str, str]
    layers: list[Layer]

    @property
    def revision(self) -> str:
        """What it was built from, as a tag."""
        return self.labels.get(REVISION, "unknown")


def look_at(image: str) -> Image:
    found = json.loads(docker("image", "inspect", "--format", "{{json .}}", image))
    shown = docker(
        "history", "--no-trunc", "--human=false", "--format", "{{json .}}", image
    ).splitlines()
    history = [json.loads(line) for line in reversed(shown)]
    layers = [Layer(int(entry["Size"]), _step(entry["CreatedBy"])) for entry in history]
    platform = f"{found['Os']}/{found['Architecture']}"
    labels = found["Config"].get("Labels") or {}
    return Image(found["Id"], platform, found["Size"], labels, layers)


def _step(made_by: str) -> str:
    """Reduce what made a layer to one line: without the build's arguments and its shell."""
    text = re.sub(r"^(RUN )?(\|\d+ .*?)?/bin/sh -c (#\(nop\) )?", r"\1", made_by)
    return " ".join(text.removesuffix("# buildkit").split())


def revision(folder: Path) -> str:
    """Return the commit of a checkout, marked where files differ from it."""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("-changed" if _git(folder, "status", "--porcelain") else "")


def source(folder: Path) -> str:
    """Return where a checkout came from, without any password that its address holds."""
    address = _git(folder, "remote", "get-url", "origin")
    return re.sub(r"//[^/@]*@", "//", address) if re.match(r"\w+://|\w+@", address) else "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
