"""The job's image: build it, push it to a registry, list its layers."""

import json
import os
import re
import subprocess
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import click

from job.core.errors import BackendError, StorageError
from launcher.aws.ecr import ECR
from launcher.containers.engine import docker, explain

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What ECR answers to a second push of a tag (Amazon ECR User Guide, "Preventing image tags from
# being overwritten").
IMMUTABLE = re.compile(r"already exists in the '.*' repository and cannot be overwritten|immutable")
STDERR = 2
REVISION = "org.opencontainers.image.revision"


def build_arguments(folder: Path, *, cpu: bool, demo: bool) -> dict[str, str]:
    """Return the Dockerfile's build arguments; revision and source come from git."""
    arguments = {"REVISION": revision(folder), "SOURCE": source(folder)}
    arguments |= {"TORCH_INDEX": CPU_INDEX} if cpu else {}
    return arguments | ({"EXTRAS": "train,demo"} if demo else {})


def build_command(
    folder: Path,
    tag: str,
    platform: str,
    arguments: dict[str, str],
    pip_conf: Path | None,
    network: str | None,
) -> list[str]:
    """Return the `docker build` command; raises `StorageError` if `folder` is not a checkout."""
    require_checkout(folder)
    command = ["docker", "build", "--platform", platform, "--tag", tag, *_one_manifest()]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    command += ["--secret", f"id=pip,src={pip_conf}"] if pip_conf else []
    command += ["--network", network] if network else []
    return [*command, str(folder)]


def require_checkout(folder: Path) -> None:
    """Raise `StorageError` if `folder` is not a checkout."""
    if not (folder / "Dockerfile").is_file() or not (folder / "job").is_dir():
        msg = f"`{folder}` is not a checkout of embedtune: expected a `Dockerfile` and `job/`."
        raise StorageError(msg)


def _one_manifest() -> list[str]:
    """Return the options for a single manifest of Docker's media type, as SageMaker needs it.

    An engine with a containerd image store otherwise makes an OCI index with provenance.
    """
    try:
        docker("buildx", "version")
    except BackendError:
        # Docker's own builder knows neither the options nor attestations.
        return []
    return ["--provenance=false", "--sbom=false", "--output", "type=docker,oci-mediatypes=false"]


def build_image(command: list[str]) -> None:
    """Run a build and print its progress to stderr."""
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    # The last lines show why a build failed; advice is chosen by them.
    last_lines: deque[str] = deque(maxlen=20)
    try:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as client:
            for line in client.stdout or ():
                click.echo(line, err=True, nl=False)
                last_lines.append(line)
    except FileNotFoundError:
        msg = "`docker` is not installed; install Docker."
        raise BackendError(msg) from None
    if client.returncode:
        raise BackendError(explain("".join(last_lines)))


def push_image(image: str, reference: str, profile: str | None, region: str | None) -> str:
    """Push an image and return `repository@sha256:…`; Docker's progress goes to stderr.

    `profile` and `region` choose the credentials for ECR; the registry's own region is in its name.
    """
    registry, _, rest = reference.partition("/")
    if not rest:
        msg = f"`{reference}` names no registry; expected REGISTRY/REPOSITORY[:TAG]."
        raise BackendError(msg)
    repository, colon, tag = rest.partition(":")
    tag = tag if colon else inspect_image(image).revision
    if found := ECR.fullmatch(registry):
        _log_in_to_ecr(registry, found[1], found[2], profile, region)
    target = f"{registry}/{repository}:{tag}"
    docker("tag", image, target)
    _push(image, target)
    text = docker("image", "inspect", "--format", "{{json .RepoDigests}}", target)
    digests: list[str] = json.loads(text)
    prefix = f"{registry}/{repository}@"
    return next(digest for digest in digests if digest.startswith(prefix))


def _push(image: str, target: str) -> None:
    argv = ["docker", "push", target]
    # Docker draws its progress on stdout; ours is for the result.
    with subprocess.Popen(argv, stdout=STDERR, stderr=subprocess.PIPE, text=True) as client:
        errors = client.stderr.read() if client.stderr else ""
    if client.returncode == 0:
        return
    if IMMUTABLE.search(errors):
        msg = (
            f"There is an image `{target}` already, and the repository's tags are immutable. To "
            f"run that one: `--image {target}`. To push yours, choose another tag: `embedtune "
            f"image push {image} {target.rpartition(':')[0]}:TAG`."
        )
        raise BackendError(msg)
    raise BackendError(explain(errors))


def _log_in_to_ecr(
    registry: str, account: str, registry_region: str, profile: str | None, region: str | None
) -> None:
    import base64

    from launcher.aws import sessions

    session = sessions.open_session(profile, region or registry_region)
    with sessions.translate_errors(f"logging in to `{registry}`"):
        ecr = sessions.client(session, "ecr", registry_region)
        data = ecr.get_authorization_token(registryIds=[account])["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    docker("login", "--username", user, "--password-stdin", registry, stdin=password)


@dataclass(frozen=True)
class Layer:
    bytes: int
    made_by: str


@dataclass(frozen=True)
class Image:
    """A local image; layers are ordered from the base image upwards."""

    id: str
    platform: str
    bytes: int
    labels: dict[str, str]
    layers: list[Layer]

    @property
    def revision(self) -> str:
        """The git revision that it was built from; used as tag."""
        return self.labels.get(REVISION, "unknown")


def inspect_image(image: str) -> Image:
    found = json.loads(docker("image", "inspect", "--format", "{{json .}}", image))
    lines = docker(
        "history", "--no-trunc", "--human=false", "--format", "{{json .}}", image
    ).splitlines()
    history = [json.loads(line) for line in reversed(lines)]
    layers = [Layer(int(entry["Size"]), _step(entry["CreatedBy"])) for entry in history]
    platform = f"{found['Os']}/{found['Architecture']}"
    labels = found["Config"].get("Labels") or {}
    return Image(found["Id"], platform, found["Size"], labels, layers)


def _step(made_by: str) -> str:
    """Shorten a layer's build command to one line, without build arguments and shell."""
    text = re.sub(r"^(RUN )?(\|\d+ .*?)?/bin/sh -c (#\(nop\) )?", r"\1", made_by)
    return " ".join(text.removesuffix("# buildkit").split())


def revision(folder: Path) -> str:
    """Return a checkout's commit, with `-changed` if files differ from it."""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("-changed" if _git(folder, "status", "--porcelain") else "")


def source(folder: Path) -> str:
    """Return the URL of a checkout's remote `origin`, without user and password."""
    address = _git(folder, "remote", "get-url", "origin")
    return re.sub(r"//[^/@]*@", "//", address) if re.match(r"\w+://|\w+@", address) else "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
