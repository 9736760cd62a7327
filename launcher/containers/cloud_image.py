"""The job's image, built on AWS from a checkout: neither Docker nor a large upload is needed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError, SpecError, StorageError
from launcher.aws import ecr, sessions
from launcher.aws.code_build import build_request, run_build
from launcher.aws.stack import Stack
from launcher.containers.source import Source, read_source
from launcher.plan.checks import Doubtful, Missing

if TYPE_CHECKING:
    import boto3

# Docker Hub limits downloads by address, and CodeBuild's customers share theirs.
OFFICIAL_IMAGES = "public.ecr.aws/docker/library"
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
ARGUMENTS = (
    *("BASE_IMAGE", "CUDA_COMPAT", "CUDA_COMPAT_SHA256", "EXTRAS", "REVISION", "SOURCE"),
    "TORCH_INDEX",
)
# Of BUILD_GENERAL1_MEDIUM in us-east-1; the template limits a build to an hour.
USD_PER_MINUTE, PRICE_DATE, MAX_MINUTES = 0.01, "2026-11-29", 60
USUAL_MINUTES = 15
COST = (
    f"A build on AWS costs ${USD_PER_MINUTE} a minute (us-east-1, {PRICE_DATE}; other regions "
    f"differ): ${USD_PER_MINUTE * USUAL_MINUTES:.2f} for {USUAL_MINUTES} minutes, a guess; at "
    f"most {MAX_MINUTES} minutes, ${USD_PER_MINUTE * MAX_MINUTES:.2f}."
)


@dataclass(frozen=True)
class CloudBuild:
    """An image to build: its source, where that is uploaded, and the request for the build."""

    reference: str
    source: Source
    bucket: str
    key: str
    request: dict[str, Any]

    def as_document(self) -> dict[str, Any]:
        uploaded = {"to": f"s3://{self.bucket}/{self.key}", "files": self.source.files}
        return {"upload": uploaded, "image": self.reference, "start_build": self.request}


def plan_build(
    stack: Stack, folder: Path, arguments: dict[str, str], tag: str | None
) -> CloudBuild:
    """Plan a build with the Dockerfile's build arguments; calls nothing.

    The default tag contains the revision and a hash of source and arguments: the repository's tags
    are immutable, and equal tags mean equal images.
    """
    if unknown := sorted(arguments.keys() - set(ARGUMENTS)):
        msg = f"`--build-arg {unknown[0]}`: expected one of {', '.join(ARGUMENTS)}."
        raise SpecError(msg)
    if not (stack.build_project and stack.bucket):
        msg = "The stack has no project for builds: `embedtune infra deploy` updates it."
        raise BackendError(msg)
    source = read_source(folder)
    given = dict.fromkeys(ARGUMENTS, "") | {"EXTRAS": "train"} | arguments
    given["BASE_IMAGE"] = given["BASE_IMAGE"] or _base_image(folder)
    if tag and not TAG.fullmatch(tag):
        msg = f"`--tag {tag}`: expected letters, digits, `_`, `.` and `-`."
        raise SpecError(msg)
    tag = tag or f"{given['REVISION']}-{source.digest_with(given)}"
    key = f"builds/{tag}.zip"
    variables = {"IMAGE_TAG": tag, "REPOSITORY_URI": stack.image} | given
    request = build_request(stack.build_project, f"{stack.bucket}/{key}", variables)
    return CloudBuild(f"{stack.image}:{tag}", source, stack.bucket, key, request)


def build_on_aws(session: "boto3.Session", build: CloudBuild, show: Callable[[str], None]) -> str:
    """Build an image unless it exists; return `repository@sha256:…`, as `launch` resolves it."""
    if _exists(session, build.reference):
        name = ecr.resolve_image(session, build.reference)
        show(f"The image {build.reference} exists; nothing was built.")
        show(f"A launch uses the newest image of the repository; for this one: --image {name}")
        return name
    show(COST)
    size = len(build.source.archive) / 1e6
    show(f"Uploading {build.source.files} files ({size:.1f} MB) to s3://{build.bucket}/{build.key}")
    with sessions.translate_errors("uploading the source"):
        s3 = sessions.client(session, "s3")
        s3.put_object(Bucket=build.bucket, Key=build.key, Body=build.source.archive)
    run_build(session, build.request, show)
    return ecr.resolve_image(session, build.reference)


def _exists(session: "boto3.Session", reference: str) -> bool:
    try:
        ecr.check_image(session, reference)
    except Missing:
        return False
    except Doubtful:
        # It exists, but SageMaker may refuse it.
        pass
    return True


def _base_image(folder: Path) -> str:
    """Return the Dockerfile's base image, an official one, from Amazon's own registry."""
    text = (folder / "Dockerfile").read_text("utf-8")
    found = re.search(r"^ARG BASE_IMAGE=([\w.:@-]+)$", text, re.MULTILINE)
    if not found:
        msg = f"`{folder / 'Dockerfile'}` has no line `ARG BASE_IMAGE=NAME:TAG`."
        raise StorageError(msg)
    return f"{OFFICIAL_IMAGES}/{found[1]}"
