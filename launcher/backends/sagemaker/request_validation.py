"""Validate a `CreateTrainingJob` request offline: without account, region or network.

botocore itself checks types and minimums only, but its service model contains maximum lengths,
patterns and enumerations as well.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from job.core.errors import SpecError
from launcher.aws.instances import family

Request = Mapping[str, Any]

# The option that sets a part of the request; the longest matching path wins.
SETTINGS = {
    "AlgorithmSpecification.TrainingImage": "`--image`",
    "CheckpointConfig.S3Uri": "`--output`",
    "EnableInterContainerTrafficEncryption": "`--encrypt-traffic`",
    "EnableManagedSpotTraining": "`--spot`",
    "EnableNetworkIsolation": "`--isolate`",
    "Environment": "`--env`",
    "InputDataConfig": "`--data`",
    "InputDataConfig.InputMode": "`--input-mode`",
    "OutputDataConfig": "`--output`",
    "OutputDataConfig.KmsKeyId": "`output.kms_key`",
    "ResourceConfig.InstanceCount": "`--instances`",
    "ResourceConfig.InstancePreferences": "`--instance-type`",
    "ResourceConfig.InstanceType": "`--instance-type`",
    "ResourceConfig.KeepAlivePeriodInSeconds": "`--keep-alive`",
    "ResourceConfig.VolumeKmsKeyId": "`--volume-kms-key`",
    "ResourceConfig.VolumeSizeInGB": "`--volume-gb`",
    "RoleArn": "`--role`",
    "StoppingCondition.MaxRuntimeInSeconds": "`--max-runtime`",
    "StoppingCondition.MaxWaitTimeInSeconds": "`--max-wait`",
    "Tags": "`--tag`",
    "TrainingJobName": "`--name`",
    "VpcConfig.SecurityGroupIds": "`--security-group`",
    "VpcConfig.Subnets": "`--subnet`",
}
# What common patterns mean.
EXPECTED = {
    "CheckpointConfig.S3Uri": "`s3://bucket/prefix`",
    "Environment": "a name of letters, digits and `_`, no digit first",
    "InputDataConfig.DataSource.S3DataSource.S3Uri": "`s3://bucket/prefix`",
    "OutputDataConfig.S3OutputPath": "`s3://bucket/prefix`",
    "RoleArn": "`arn:aws:iam::ACCOUNT:role/NAME`",
    "Tags": "letters, digits, spaces and `_.:/=+-@`",
    "TrainingJobName": "letters, digits and, between them, `-`",
}
# The model's patterns are Java's. Java's character classes, as Python's inside brackets. `\w` adds
# `_`, which every pattern with letters and numbers allows anyway.
CHARACTERS = {
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}
# Instance families with local disks, which the instance's hardware encrypts.
LOCAL_DISKS = {
    "g4dn", "g5", "g6", "g6e", "g7e", "p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200",
    "p6-b300", "p6e-gb200", "r5d", "trn1", "trn1n", "trn2",
}  # fmt: skip
MOST_DAYS = 28


@dataclass(frozen=True)
class Fault:
    """An invalid value; `path` is its position in the request: `ResourceConfig.InstanceType`."""

    path: str
    message: str


def check_request(request: Request) -> None:
    """Raise `SpecError` with the first fault and the number of further ones."""
    found = [fault for value in _values(_model(), request, "") for fault in _limits(*value)]
    found += [fault for rule in RULES for fault in rule(request)]
    if found:
        first, *others = found
        setting = _nearest(SETTINGS, first.path)
        field = f"`{first.path}` ({setting})" if setting else f"`{first.path}`"
        rest = f" Further invalid values: {len(others)}." if others else ""
        msg = f"SageMaker would reject this job: {field} {first.message}.{rest}"
        raise SpecError(msg)


@cache
def _model() -> Any:  # noqa: ANN401  botocore's shapes differ by kind
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    # Read from the file: a client needs a region and takes several times as long to create.
    service = ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
    return service.operation_model("CreateTrainingJob").input_shape


def _nearest(by_path: Mapping[str, str], path: str) -> str | None:
    """Look up a path without list positions and map keys, or its nearest parent."""
    names = re.sub(r"\[.*?\](?=\.|\[|$)", "", path).split(".")
    paths = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((by_path[path] for path in paths if path in by_path), None)


def _values(shape: Any, value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:  # noqa: ANN401
    """Yield every value of the request as (shape, value, path), parents first."""
    yield shape, value, path
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _values(shape.members[name], member, f"{path}.{name}".lstrip("."))
    elif shape.type_name == "list":
        for position, item in enumerate(value):
            yield from _values(shape.member, item, f"{path}[{position}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            inside = f"{path}[{reprlib.repr(key)}]"
            yield from _values(shape.key, key, inside)
            yield from _values(shape.value, item, inside)


def _limits(shape: Any, value: Any, path: str) -> Iterator[Fault]:  # noqa: ANN401
    """Yield at most one fault of a value's size or content."""
    limits = shape.metadata
    if isinstance(value, bool):
        return
    is_number = isinstance(value, int)
    size = value if is_number else len(value)
    unit = "" if is_number else " characters" if isinstance(value, str) else " entries"
    is_or_has = "is" if is_number else "has"
    if size > limits.get("max", size):
        yield Fault(path, f"{is_or_has} {size}{unit}; the maximum is {limits['max']}")
    elif size < limits.get("min", size):
        yield Fault(path, f"{is_or_has} {size}{unit}; the minimum is {limits['min']}")
    elif "enum" in limits and value not in limits["enum"]:
        yield Fault(path, _not_among(value, limits["enum"]))
    elif "pattern" in limits and not python_pattern(limits["pattern"]).fullmatch(value):
        expected = _nearest(EXPECTED, path) or f"a match of `{limits['pattern']}`"
        yield Fault(path, f"is {reprlib.repr(value)}; expected: {expected}")


def _not_among(value: str, known: list[str]) -> str:
    if len(known) <= 6:
        return f"is {reprlib.repr(value)}; expected: {', '.join(f'`{name}`' for name in known)}"
    similar = ", ".join(f"`{name}`" for name in get_close_matches(value, known, 4))
    hint = f"; similar values: {similar}" if similar else ""
    return f"is {reprlib.repr(value)}, not one of the {len(known)} known values{hint}"


def python_pattern(java: str) -> re.Pattern[str]:
    r"""Compile a pattern of the model: Java's `\w` and `\d` are ASCII, its `\p{…}` are not."""
    flags = re.UNICODE if r"\p{L}" in java else re.ASCII
    for java_class, python_class in CHARACTERS.items():
        java = java.replace(java_class, python_class)
    return re.compile(java, flags)


# Rules that AWS enforces but its service model does not contain.


def _spot(request: Request) -> Iterator[Fault]:
    stopping, path = request["StoppingCondition"], "StoppingCondition.MaxWaitTimeInSeconds"
    wait, runtime = stopping.get("MaxWaitTimeInSeconds"), stopping["MaxRuntimeInSeconds"]
    if not request["EnableManagedSpotTraining"]:
        if wait is not None:
            yield Fault(path, f"is {wait}, but applies to spot jobs only: add `--spot`")
        return
    if wait < runtime:
        yield Fault(path, f"is {wait} s, but must include the maximum runtime of {runtime} s")
    for name in ("KeepAlivePeriodInSeconds", "InstancePreferences"):
        if request["ResourceConfig"].get(name):
            yield Fault(f"ResourceConfig.{name}", "cannot be combined with `--spot`; omit one")


def _kinds(request: Request) -> Iterator[Fault]:
    preferences = request["ResourceConfig"].get("InstancePreferences", ())
    kinds = [each["InstanceType"] for each in preferences]
    for kind in sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        yield Fault("ResourceConfig.InstancePreferences", f"has {kind} twice; give each type once")


def _runtime(request: Request) -> Iterator[Fault]:
    seconds, most = request["StoppingCondition"]["MaxRuntimeInSeconds"], MOST_DAYS * 24 * 3600
    if seconds > most:
        path = "StoppingCondition.MaxRuntimeInSeconds"
        yield Fault(path, f"is {seconds} s; the maximum is {most} s ({MOST_DAYS} days)")


def _volume_key(request: Request) -> Iterator[Fault]:
    resources = request["ResourceConfig"]
    if "VolumeKmsKeyId" not in resources:
        return
    preferences = resources.get("InstancePreferences", [resources])
    types = {each["InstanceType"] for each in preferences}
    for name in sorted(name for name in types if family(name) in LOCAL_DISKS):
        message = f"is not allowed on {name}, whose local disk is always encrypted; omit it"
        yield Fault("ResourceConfig.VolumeKmsKeyId", message)


def _tags(request: Request) -> Iterator[Fault]:
    for position, tag in enumerate(request["Tags"]):
        if tag["Key"].lower().startswith("aws:"):
            yield Fault(f"Tags[{position}].Key", f"is `{tag['Key']}`; `aws:` is reserved for AWS")


RULES = (_spot, _kinds, _runtime, _volume_key, _tags)
