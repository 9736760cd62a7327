"""AWS's validation of `CreateTrainingJob`: the service model's limits, and further rules.

boto3 itself checks little more than types. Messages are AWS's where we know them.
"""

import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import unquote

import botocore.session
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ecr.exceptions import ImageNotFoundException, RepositoryNotFoundException

MODEL = botocore.session.get_session().get_service_model("sagemaker")
CREATE = MODEL.operation_model("CreateTrainingJob").input_shape
# Java's character classes and their Python equivalents, inside brackets.
CLASSES = {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": " \u00a0\u2003", r"\p{Alnum}": "a-zA-Z0-9"}
# Instance families with local disks, which the hardware encrypts.
LOCAL_STORAGE = {"g4dn", "g5", "g6", "g6e", "p4d", "p4de", "p5"}
# Lists of manifests, such as an image with its provenance.
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
DEFAULT_QUOTA = 4
# As in AWS's console; the codes of other quotas are made up.
QUOTA_CODES = {"ml.g5.2xlarge for training job usage": "L-2D6DEB3C"}
ECR_IMAGE = re.compile(
    rf"{ACCOUNT}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+)(?::([^@]+))?(?:@(.+))?"
)


class Refusal(Exception):
    """An error response."""

    def __init__(self, message: str, code: str = "ValidationException"):
        super().__init__(message)
        self.code = code


def check(request: dict[str, Any]) -> None:
    """Raise `Refusal` if AWS would, or if this server does not support the request."""
    errors = list(model_errors(CREATE, request))
    if errors:
        plural = "s" if len(errors) > 1 else ""
        message = f"{len(errors)} validation error{plural} detected: {'; '.join(errors)}"
        raise Refusal(message)
    for message in chain(broken_rules(request), unsupported(request)):
        raise Refusal(message)


def model_errors(shape: Any, value: Any, path: str = "") -> Iterator[str]:
    """Validate a value recursively against its shape in the service model."""
    for constraint in broken_constraints(shape, value):
        yield _error(value, path, f"Member must {constraint}")
    if shape.type_name == "structure":
        for name in shape.required_members:
            if name not in value:
                yield _error(None, _join(path, name), "Member must not be null")
        for name, part in value.items():
            if name in shape.members:
                yield from model_errors(shape.members[name], part, _join(path, name))
    elif shape.type_name == "list":
        for number, item in enumerate(value, 1):
            yield from model_errors(shape.member, item, f"{path}.{number}.member")
    elif shape.type_name == "map":
        for part, limits, items in (
            ("keys", shape.key, value),
            ("value", shape.value, value.values()),
        ):
            broken = {c for item in items for c in broken_constraints(limits, item)}
            if broken:
                musts = ", ".join(f"Member must {constraint}" for constraint in sorted(broken))
                yield _error(value, path, f"Map {part} must satisfy constraint: [{musts}]")


def broken_constraints(shape: Any, value: Any) -> Iterator[str]:
    limits = shape.metadata
    number = shape.type_name in ("integer", "long")
    what, size = ("value", value) if number else ("length", _length(value))
    if size > limits.get("max", size):
        yield f"have {what} less than or equal to {limits['max']}"
    if size < limits.get("min", size):
        yield f"have {what} greater than or equal to {limits['min']}"
    if "pattern" in limits and not _pattern(limits["pattern"]).fullmatch(value):
        yield f"satisfy regular expression pattern: {limits['pattern']}"
    if "enum" in limits and value not in limits["enum"]:
        yield f"satisfy enum value set: [{', '.join(limits['enum'])}]"


def broken_rules(request: dict[str, Any]) -> Iterator[str]:
    """Yield violations of rules across several fields."""
    resources = request.get("ResourceConfig", {})
    stopping = request.get("StoppingCondition", {})
    spot = request.get("EnableManagedSpotTraining", False)
    if not request["AlgorithmSpecification"].get("TrainingImage"):
        yield "You must specify exactly one of AlgorithmName or TrainingImage."
    kinds = resources.keys() & {"InstanceType", "InstanceGroups", "InstancePreferences"}
    if len(kinds) != 1:
        yield "Specify exactly one of InstanceType, InstanceGroups and InstancePreferences."
    wait = stopping.get("MaxWaitTimeInSeconds", 0)
    if spot and wait < stopping.get("MaxRuntimeInSeconds", 86_400):
        yield (
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
            "MaxRuntimeInSeconds"
        )
    if spot and resources.get("KeepAlivePeriodInSeconds"):
        yield "KeepAlivePeriodInSeconds is not supported with managed spot training."
    if spot and "InstancePreferences" in resources:
        yield "InstancePreferences is not supported with managed spot training."
    default = request["AlgorithmSpecification"]["TrainingInputMode"]
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"].get("S3DataSource", {})
        is_prefix = source.get("S3DataType") == "S3Prefix"
        if channel.get("InputMode", default) == "FastFile" and not is_prefix:
            yield "FastFile supports the S3DataType S3Prefix only."
    if resources.get("VolumeKmsKeyId"):
        for instance in instance_types(request):
            if instance.split(".")[1] in LOCAL_STORAGE:
                yield f"VolumeKmsKeyId is not supported for {instance}, which has local storage."


def unsupported(request: dict[str, Any]) -> Iterator[str]:
    """Yield features of AWS that this server does not support."""
    algorithm, resources = request["AlgorithmSpecification"], request["ResourceConfig"]
    for field in ("ContainerEntrypoint", "ContainerArguments"):
        if field in algorithm:
            yield f"The test server does not support {field}: it runs the image's entrypoint."
    if "InstanceGroups" in resources:
        yield "The test server does not support instance groups."
    for channel in request.get("InputDataConfig", []):
        source = channel["DataSource"].get("S3DataSource", {})
        mode = channel.get("InputMode", algorithm["TrainingInputMode"])
        if source.get("S3DataType") not in ("S3Prefix", "ManifestFile") or mode == "Pipe":
            yield "The test server supports prefixes and manifests in File and FastFile mode only."
    local = request.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints")
    if not local.startswith("/opt/ml/"):
        yield "The test server supports checkpoints below /opt/ml only."


def instance_types(request: dict[str, Any]) -> list[str]:
    """Return the requested instance types in order of preference."""
    resources = request["ResourceConfig"]
    return [r["InstanceType"] for r in resources.get("InstancePreferences", [resources])]


def instance_count(request: dict[str, Any]) -> int:
    resources = request["ResourceConfig"]
    wanted = [*resources.get("InstancePreferences", []), resources]
    return max(int(r.get("InstanceCount", 1)) for r in wanted)


class Quotas(dict[str, int]):
    """Limits by name; a bare instance type means its on-demand training jobs."""

    kinds = ("training job", "spot training job", "training warm pool")

    def of(self, instance: str, kind: str) -> int:
        default = self.get(instance, DEFAULT_QUOTA) if kind == self.kinds[0] else DEFAULT_QUOTA
        return self.get(f"{instance} for {kind} usage", default)

    def named(self) -> dict[str, int]:
        types = MODEL.shape_for("TrainingInstanceType").enum
        pairs = [(instance, kind) for instance in types for kind in self.kinds]
        return {f"{instance} for {kind} usage": self.of(instance, kind) for instance, kind in pairs}

    def described(self) -> list[dict[str, Any]]:
        """Return all quotas as the service Service Quotas describes them."""
        common = {"ServiceCode": "sagemaker", "Unit": "None", "Adjustable": True}
        return [
            common | {"QuotaName": name, "QuotaCode": quota_code(name), "Value": value}
            for name, value in self.named().items()
        ]

    def check(self, request: dict[str, Any], running: list[dict[str, Any]]) -> None:
        """Refuse a request for more instances than the account has left."""
        wanted, kind = instance_count(request), usage(request)
        for instance in instance_types(request):
            alike = [r for r in running if usage(r) == kind and instance in instance_types(r)]
            used, limit = sum(map(instance_count, alike)), self.of(instance, kind)
            if used + wanted > limit:
                message = (
                    f"The account-level service limit '{instance} for {kind} usage' is {limit} "
                    f"Instances, with current utilization of {used} Instances and a request delta "
                    f"of {wanted} Instances. Please use AWS Service Quotas to request an increase "
                    "for this quota. If AWS Service Quotas is not available, contact AWS support "
                    "to request an increase for this quota."
                )
                raise Refusal(message, "ResourceLimitExceeded")

    def allow_pool(self, request: dict[str, Any]) -> bool:
        """Whether machines are kept; without the quota a job runs, and nothing is kept.

        SageMaker Developer Guide, "Request a warm pool quota increase".
        """
        wanted = instance_count(request)
        return all(self.of(each, self.kinds[2]) >= wanted for each in instance_types(request))


def quota_code(name: str) -> str:
    return QUOTA_CODES.get(name) or f"L-{zlib.crc32(name.encode()):08X}"


def usage(request: dict[str, Any]) -> str:
    return Quotas.kinds[bool(request.get("EnableManagedSpotTraining"))]


def check_role(arn: str) -> None:
    """Refuse a role that does not exist, or that SageMaker may not assume."""
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
    """Refuse an image of this account that does not exist in its registry."""
    found = ECR_IMAGE.fullmatch(uri)
    if not found:
        return
    region, repository, tag, digest = found.groups()
    wanted = {"imageTag": tag or (None if digest else "latest"), "imageDigest": digest}
    try:
        images = get_backend("ecr")[ACCOUNT][region].describe_images(repository, image_ids=[wanted])
    except RepositoryNotFoundException:
        message = (
            f"Cannot find repository: {repository} in registry ID: {ACCOUNT} Please check if "
            "your ECR repository exists and role has proper pull permissions for SageMaker."
        )
        raise Refusal(message) from None
    except ImageNotFoundException:
        message = f"Requested image {uri} not found."
        raise Refusal(message) from None
    for image in images:
        if image.image_manifest_media_type in INDEXES:
            message = (
                f"Unsupported manifest media type {image.image_manifest_media_type} for image "
                f"{uri}. Ensure that valid manifest media type is used for specified image."
            )
            raise Refusal(message)


def _error(value: Any, path: str, must: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {must}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name[0].lower()}{name[1:]}".lstrip(".")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | dict) else 0


def _pattern(java: str) -> re.Pattern[str]:
    for java_class, python_class in CLASSES.items():
        java = java.replace(java_class, python_class)
    return re.compile(java)
