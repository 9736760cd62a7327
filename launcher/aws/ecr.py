"""Images in Amazon ECR: whether they exist, and whether SageMaker can run them."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from job.core.errors import BackendError
from launcher.aws import sessions as aws
from launcher.aws.account import missing_if, options
from launcher.plan.checks import Doubtful, Missing

if TYPE_CHECKING:
    import boto3

# A registry's host: account and region.
ECR = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([\w-]+)\.amazonaws\.(?:com|com\.cn|eu)")
# The part after the registry: repository, tag, digest.
IMAGE = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@(sha256:[0-9a-f]{64}))?")
# Lists of manifests, such as an image together with its provenance.
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REBUILD = "build it again with `embedtune image build`, and push it under another tag"


@dataclass(frozen=True)
class EcrImage:
    """An image's reference by digest, and the media type of its manifest, if ECR tells it."""

    reference: str
    media_type: str | None


def push_commands(reference: str, where: str) -> str:
    """Name both ways to an image: built on AWS (`where`: stack, profile and region), or here."""
    return (
        f"`embedtune image build --on aws{where}`, or with Docker `embedtune image build`, then "
        f"`embedtune image push embedtune {reference}`"
    )


def check_image(session: "boto3.Session", reference: str) -> str:
    """Return the reference by digest; raises `Missing` for an image that SageMaker cannot run."""
    if not ECR.fullmatch(reference.partition("/")[0]):
        msg = f"`{reference}` is not in Amazon ECR; other registries are not checked."
        raise BackendError(msg)
    with aws.translate_errors(f"finding the image {reference}"):
        found = _find(session, reference)
    if found.media_type in INDEXES:
        what = (
            f"`{found.reference}` is a list of manifests ({found.media_type}), which SageMaker "
            "refuses"
        )
        raise Missing(what, REBUILD)
    if found.media_type == OCI_MANIFEST:
        what = (
            f"`{found.reference}` has an OCI manifest, which SageMaker refuses for hosting and may "
            f"refuse for training; if it does, {REBUILD}"
        )
        raise Doubtful(what)
    return found.reference


def resolve_image(session: "boto3.Session", reference: str) -> str:
    """Pin an ECR image to its digest: a tag may point to another image by the time it is pulled.

    Without tag and digest, use the repository's newest tagged image. References to other
    registries, and to repositories that we may not read but the job's role may, are returned
    unchanged. Raises `BackendError` if the image does not exist.
    """
    from botocore.exceptions import ClientError

    with aws.translate_errors(f"finding the image {reference}"):
        try:
            return _find(session, reference).reference
        except Missing as missing:
            raise BackendError(str(missing)) from None
        except ClientError as error:
            if aws.error_code(error) not in aws.DENIED:
                raise
    if "@" not in reference:
        note = "you lack the permission `ecr:DescribeImages`"
        click.echo(f"The image `{reference}` is not pinned to its digest: {note}.", err=True)
    return reference


def _find(session: "boto3.Session", reference: str) -> EcrImage:
    registry, _, rest = reference.partition("/")
    ecr_host, parts = ECR.fullmatch(registry), IMAGE.fullmatch(rest)
    if not (ecr_host and parts):
        return EcrImage(reference, None)
    repository, tag, digest = parts.groups()
    query: dict[str, Any] = {"registryId": ecr_host[1], "repositoryName": repository}
    if digest or tag:
        query["imageIds"] = [{"imageDigest": digest} if digest else {"imageTag": tag}]
    else:
        # An untagged image is part of an index, or was replaced.
        query["filter"] = {"tagStatus": "TAGGED"}
    address = f"{registry}/{repository}"
    push = push_commands(f"{address}:{tag}" if tag else address, options(session))
    no_repository = f"there is no repository `{address}`", f"`embedtune infra deploy`, then {push}"
    no_image = f"there is no image `{reference}`", push
    ecr = aws.client(session, "ecr", ecr_host[2])
    with (
        missing_if(("RepositoryNotFoundException",), *no_repository),
        missing_if(("ImageNotFoundException",), *no_image),
    ):
        images = list(aws.paginate(ecr, "describe_images", "imageDetails", **query))
    if not images:
        what = f"the repository `{address}` is empty"
        raise Missing(what, push)
    newest = max(images, key=lambda found: found["imagePushedAt"])
    digest = newest["imageDigest"]
    return EcrImage(f"{address}@{digest}", newest.get("imageManifestMediaType"))
