"""What AWS refuses of a `CreateTrainingJob` for what it names, and what this server cannot do.

The limits of the service's model are the launcher's own to check. Texts that are known from AWS are
AWS's.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ecr.exceptions import ImageNotFoundException, RepositoryNotFoundException

ECR_IMAGE = re.compile(
    rf"{ACCOUNT}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+)(?::([^@]+))?(?:@(.+))?"
)


class Refusal(Exception):
    """An answer that is an error, to the client."""

    def __init__(self, message: str, code: str = "ValidationException"):
        super().__init__(message)
        self.code = code


def check(request: dict[str, Any]) -> None:
    """Raise `Refusal` where AWS would refuse a request, or this server cannot go on."""
    for message in unsupported(request):
        raise Refusal(message)
    check_role(request["RoleArn"])
    check_image(request["AlgorithmSpecification"]["TrainingImage"])


def unsupported(request: dict[str, Any]) -> Iterator[str]:
    """Name what AWS would do and this server does not."""
    algorithm, resources = request["AlgorithmSpecification"], request["ResourceConfig"]
    for field in ("ContainerEntrypoint", "ContainerArguments"):
        if field in algorithm:
            yield f"The test server does not support {field}: it runs what the image runs."
    if "InstanceGroups" in resources:
        yield "The test server has no groups of instances."
    if "RetryStrategy" in request:
        yield "The test server takes jobs up on another host for spot jobs only."
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"].get("S3DataSource", {})
        mode = channel.get("InputMode", algorithm["TrainingInputMode"])
        if source.get("S3DataType") != "S3Prefix" or mode == "Pipe":
            yield "The test server reads S3Prefix in the modes File and FastFile only."
    local = request.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints")
    if not local.startswith("/opt/ml/"):
        yield "The test server keeps checkpoints below /opt/ml only."


def check_role(arn: str) -> None:
    """Refuse a role that is not there, or that SageMaker may not assume."""
    roles = {role.arn: role for role in get_backend("iam")[ACCOUNT]["aws"].roles.values()}
    trust = json.loads(unquote(roles[arn].assume_role_policy_document)) if arn in roles else {}
    principals = [s["Principal"].get("Service", []) for s in trust.get("Statement", [])]
    if not any("sagemaker.amazonaws.com" in principal for principal in principals):
        message = (
            f"Could not assume role {arn}. Please ensure that the role exists and allows "
            "principal 'sagemaker.amazonaws.com' to assume the role."
        )
        raise Refusal(message)


def check_image(uri: str) -> None:
    """Refuse an image of this account that is not in its registry."""
    found = ECR_IMAGE.fullmatch(uri)
    if not found:
        return
    region, repository, tag, digest = found.groups()
    wanted = {"imageTag": tag or (None if digest else "latest"), "imageDigest": digest}
    try:
        get_backend("ecr")[ACCOUNT][region].describe_images(repository, image_ids=[wanted])
    except RepositoryNotFoundException:
        message = (
            f"Cannot find repository: {repository} in registry ID: {ACCOUNT} Please check if "
            "your ECR repository exists and role has proper pull permissions for SageMaker."
        )
        raise Refusal(message) from None
    except ImageNotFoundException:
        message = f"Requested image {uri} not found."
        raise Refusal(message) from None
