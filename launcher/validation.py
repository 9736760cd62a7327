"""Checks a `CreateTrainingJob` request before it is sent: no account, no region, no network.

botocore itself looks at types and minimums only. Its model of the service holds the lengths,
patterns and enumerations as well.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from job.errors import SpecError
from launcher.rules import RULES, Fault, Request

# By what a user sets a part of the request; of several paths that fit the longest counts.
SETTINGS = {
    "AlgorithmSpecification.TrainingImage": "`--image`",
    "CheckpointConfig.S3Uri": "`--output`",
    "EnableManagedSpotTraining": "`--spot`",
    "EnableNetworkIsolation": "`--isolate`",
    "Environment": "`--env`",
    "HyperParameters": "`--set`",
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
# What the patterns mean that people meet.
EXPECTED = {
    "CheckpointConfig.S3Uri": "`s3://bucket/prefix`",
    "Environment": "a name of letters, digits and `_`, no digit first",
    "InputDataConfig.DataSource.S3DataSource.S3Uri": "`s3://bucket/prefix`",
    "OutputDataConfig.S3OutputPath": "`s3://bucket/prefix`",
    "RoleArn": "`arn:aws:iam::ACCOUNT:role/NAME`",
    "Tags": "letters, digits, spaces and `_.:/=+-@`",
    "TrainingJobName": "letters, digits and, between them, `-`",
}
KINDS = {
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "list": (list, "a list"),
    "long": (int, "a whole number"),
    "map": (Mapping, "a mapping"),
    "string": (str, "a text"),
    "structure": (Mapping, "a mapping"),
}
# The model's patterns are Java's: its names of characters in Python, for use in brackets.
# Letters and numbers come with `_`, which each pattern that has them allows anyway.
CHARACTERS = {
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}
# Patterns for any text, and what Java's `.` does not take for a character of it.
ANY_TEXT = (".*", ".+")
LINE_BREAKS = re.compile("[\n\r\u0085\u2028\u2029]")


def check_request(request: Request) -> None:
    """Raise `SpecError` with the first fault, and how many more there are."""
    faults = find_faults(request)
    if not faults:
        return
    more = len(faults) - 1
    rest = (
        f" There {'is 1 more fault' if more == 1 else f'are {more} more faults'}." if more else ""
    )
    msg = f"SageMaker would refuse this job: {line(faults[0])}.{rest}"
    raise SpecError(msg)


def line(fault: Fault) -> str:
    """Say what is wrong where, and by what to change it."""
    setting = _nearest(SETTINGS, fault.path)
    return f"`{fault.path}` " + (f"({setting}) " if setting else "") + fault.what


def find_faults(request: Request) -> list[Fault]:
    """Return all faults; where something has the wrong type, only those of that kind."""
    values = list(_values(_model(), request, ""))
    if misshapen := [fault for value in values for fault in _wrong_kind(*value)]:
        return misshapen
    faults = [fault for value in values for fault in (*_wrong_members(*value), *_limits(*value))]
    return faults + [fault for rule in RULES for fault in rule(request)]


@cache
def _model() -> Any:  # noqa: ANN401  botocore's shapes differ by kind
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    # Straight from the file: a client would want a region, and takes several times as long.
    service = ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
    return service.operation_model("CreateTrainingJob").input_shape


def _nearest(texts: Mapping[str, str], path: str) -> str | None:
    """Look up a path without its positions and keys, or else the nearest above it."""
    names = re.sub(r"\[.*?\](?=\.|\[|$)", "", path).split(".")
    paths = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((texts[path] for path in paths if path in texts), None)


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _values(shape: Any, value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:  # noqa: ANN401
    """Yield every value of the request with its shape and path, from the outside inwards."""
    yield shape, value, path
    if any(_wrong_kind(shape, value, path)):
        return
    if shape.type_name == "structure":
        for name, member in value.items():
            if name in shape.members:
                yield from _values(shape.members[name], member, _joined(path, name))
    elif shape.type_name == "list":
        for position, item in enumerate(value):
            yield from _values(shape.member, item, f"{path}[{position}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            inside = f"{path}[{reprlib.repr(key)}]"
            yield from _values(shape.key, key, inside)
            yield from _values(shape.value, item, inside)


def _wrong_kind(shape: Any, value: Any, path: str) -> Iterator[Fault]:  # noqa: ANN401
    kind, wanted = KINDS.get(shape.type_name, (object, ""))
    # To Python a boolean is a number.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        yield Fault(path, f"must be {wanted}, but is of Python's type `{type(value).__name__}`")


def _wrong_members(shape: Any, value: Any, path: str) -> Iterator[Fault]:  # noqa: ANN401
    if shape.type_name != "structure":
        return
    for name in value:
        if name not in shape.members:
            near = get_close_matches(str(name), shape.members, 1)
            meant = f"; near it is `{near[0]}`" if near else ""
            yield Fault(_joined(path, name), f"is no field of a training job{meant}")
    for name in shape.required_members:
        if name not in value:
            yield Fault(_joined(path, name), "is missing")


def _limits(shape: Any, value: Any, path: str) -> Iterator[Fault]:  # noqa: ANN401
    """Judge size and content, of which the first fault says enough."""
    limits = shape.metadata
    if isinstance(value, bool):
        return
    is_number = isinstance(value, int)
    size = value if is_number else len(value)
    unit = "" if is_number else " characters" if isinstance(value, str) else " entries"
    is_or_has = "is" if is_number else "has"
    if size > limits.get("max", size):
        yield Fault(path, f"{is_or_has} {size}{unit}; at most {limits['max']} are allowed")
    elif size < limits.get("min", size):
        yield Fault(path, f"{is_or_has} {size}{unit}; at least {limits['min']} are needed")
    elif "enum" in limits and value not in limits["enum"]:
        yield Fault(path, _not_among(value, limits["enum"]))
    elif "pattern" in limits:
        yield from _unfit(value, limits["pattern"], path)


def _not_among(value: str, known: list[str]) -> str:
    if len(known) <= 6:
        return f"is {reprlib.repr(value)}; known are {', '.join(f'`{name}`' for name in known)}"
    near = ", ".join(f"`{name}`" for name in get_close_matches(value, known, 4))
    meant = f"; near it are {near}" if near else ""
    return f"is {reprlib.repr(value)}, which is none of the {len(known)} known{meant}"


def _unfit(value: str, pattern: str, path: str) -> Iterator[Fault]:
    if pattern in ANY_TEXT:
        if LINE_BREAKS.search(value):
            yield Fault(path, f"is {reprlib.repr(value)}; a line break is not allowed")
    elif not python_pattern(pattern).fullmatch(value):
        expected = _nearest(EXPECTED, path) or f"what fits `{pattern}`"
        yield Fault(path, f"is {reprlib.repr(value)}; expected: {expected}")


def python_pattern(java: str) -> re.Pattern[str]:
    r"""Compile a pattern of the model: Java's `\w` and `\d` are ASCII, its `\p{…}` are not."""
    flags = re.UNICODE if r"\p{L}" in java else re.ASCII
    for theirs, ours in CHARACTERS.items():
        java = java.replace(theirs, ours)
    return re.compile(java, flags)
