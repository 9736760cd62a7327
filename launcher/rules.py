"""What AWS checks of a training job on its own side: no model of the service tells it.

Each rule looks at a request whose types are right, and yields what is wrong.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

Request = Mapping[str, Any]

# Their disk is in the instance and encrypted by its own hardware.
LOCAL_DISKS = {
    "g4dn", "g5", "g6", "g6e", "g7e", "p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200",
    "p6-b300", "p6e-gb200", "r5d", "trn1", "trn1n", "trn2",
}  # fmt: skip
DAY_SECONDS = 24 * 60 * 60
MOST_DAYS = 28


@dataclass(frozen=True)
class Fault:
    """What is wrong at a path of the request, as in `ResourceConfig.InstanceType`."""

    path: str
    what: str


def family(instance_type: str) -> str:
    """Return `g5` of `ml.g5.2xlarge`, and nothing of what is no instance type."""
    return instance_type.split(".")[1] if instance_type.count(".") == 2 else ""


def _required_parts(request: Request) -> Iterator[Fault]:
    # The model lets them go for the sake of jobs that have no container.
    for name in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if name not in request:
            yield Fault(name, "is missing")


def _image(request: Request) -> Iterator[Fault]:
    path, algorithm = "AlgorithmSpecification.TrainingImage", request.get("AlgorithmSpecification")
    if algorithm is None:
        return
    given = algorithm.keys() & {"TrainingImage", "AlgorithmName"}
    if not given:
        yield Fault(path, "is missing")
    elif len(given) == 2:
        yield Fault(path, "excludes `AlgorithmName`; the request has both")


def _instances(request: Request) -> Iterator[Fault]:
    resources = request.get("ResourceConfig")
    if resources is None:
        return
    ways = [
        name
        for name in ("InstanceType", "InstanceGroups", "InstancePreferences")
        if name in resources
    ]
    if not ways:
        yield Fault("ResourceConfig.InstanceType", "is missing")
    elif len(ways) > 1:
        yield Fault(f"ResourceConfig.{ways[0]}", f"excludes `{ways[1]}`; the request has both")
    if "InstanceType" in ways and resources.get("InstanceCount", 0) < 1:
        found = resources.get("InstanceCount", "missing")
        yield Fault("ResourceConfig.InstanceCount", f"is {found}; at least 1 is needed")


def _spot(request: Request) -> Iterator[Fault]:
    stopping, resources = request.get("StoppingCondition", {}), request.get("ResourceConfig", {})
    wait, path = stopping.get("MaxWaitTimeInSeconds"), "StoppingCondition.MaxWaitTimeInSeconds"
    if not request.get("EnableManagedSpotTraining"):
        if wait is not None:
            yield Fault(path, f"is {wait}, but only a spot job waits: it needs `--spot`")
        return
    runtime = stopping.get("MaxRuntimeInSeconds", DAY_SECONDS)
    if wait is None:
        yield Fault(path, f"is missing; a spot job needs one of at least its runtime, {runtime} s")
    elif wait < runtime:
        yield Fault(path, f"is {wait} s, less than the runtime of {runtime} s that it includes")
    for name in ("KeepAlivePeriodInSeconds", "InstancePreferences"):
        # Zero keeps nothing alive, and is what the field means when it is not there.
        if resources.get(name):
            yield Fault(f"ResourceConfig.{name}", "cannot be had with `--spot`; leave out either")


def _runtime(request: Request) -> Iterator[Fault]:
    seconds = request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 0)
    if seconds > MOST_DAYS * DAY_SECONDS:
        most = f"{MOST_DAYS * DAY_SECONDS} s, {MOST_DAYS} days"
        yield Fault("StoppingCondition.MaxRuntimeInSeconds", f"is {seconds} s; at most {most}")


def _volume_key(request: Request) -> Iterator[Fault]:
    resources = request.get("ResourceConfig", {})
    if "VolumeKmsKeyId" not in resources:
        return
    groups = resources.get("InstanceGroups", []), resources.get("InstancePreferences", [])
    types = {part.get("InstanceType", "") for part in (resources, *chain(*groups))}
    for name in sorted(name for name in types if family(name) in LOCAL_DISKS):
        what = f"is not allowed on {name}, whose own disk encrypts itself; leave it out"
        yield Fault("ResourceConfig.VolumeKmsKeyId", what)


def _channels(request: Request) -> Iterator[Fault]:
    channels = request.get("InputDataConfig", [])
    for name in _repeated(channel.get("ChannelName") for channel in channels):
        yield Fault("InputDataConfig", f"has two channels of the name `{name}`")
    usual = request.get("AlgorithmSpecification", {}).get("TrainingInputMode")
    for position, channel in enumerate(channels):
        path, source = f"InputDataConfig[{position}]", channel.get("DataSource", {})
        if "DataSource" in channel and len(source) != 1:
            yield Fault(f"{path}.DataSource", f"has {len(source)} sources; exactly 1 is needed")
        kind = source.get("S3DataSource", {}).get("S3DataType", "S3Prefix")
        if channel.get("InputMode", usual) == "FastFile" and kind != "S3Prefix":
            yield Fault(f"{path}.InputMode", f"is FastFile, which reads an S3Prefix, no {kind}")


def _metrics(request: Request) -> Iterator[Fault]:
    metrics = request.get("AlgorithmSpecification", {}).get("MetricDefinitions", [])
    for name in _repeated(metric.get("Name") for metric in metrics):
        yield Fault("AlgorithmSpecification.MetricDefinitions", f"has two of the name `{name}`")
    for position, metric in enumerate(metrics):
        path = f"AlgorithmSpecification.MetricDefinitions[{position}].Regex"
        try:
            groups = re.compile(metric.get("Regex", "()")).groups
        except re.error as error:
            yield Fault(path, f"is no regular expression: {error}")
        else:
            if groups != 1:
                yield Fault(path, f"has {groups} groups; exactly 1 is needed, around the number")


def _tags(request: Request) -> Iterator[Fault]:
    keys = [tag.get("Key", "") for tag in request.get("Tags", [])]
    for key in _repeated(keys):
        yield Fault("Tags", f"has the key `{key}` twice")
    for position, key in enumerate(keys):
        if key.lower().startswith("aws:"):
            yield Fault(f"Tags[{position}].Key", f"is `{key}`; `aws:` is AWS's own")


def _repeated(names: Iterable[Any]) -> list[Any]:
    return [name for name, times in Counter(names).items() if times > 1 and name]


RULES = (
    _required_parts, _image, _instances, _spot, _runtime, _volume_key, _channels, _metrics, _tags,
)  # fmt: skip
