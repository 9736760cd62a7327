"""What AWS checks of a training job on its own side, of what users set: no model tells it.

Each rule looks at a request of ours, and yields what is wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Request = Mapping[str, Any]

# Their disk is in the instance and encrypted by its own hardware.
LOCAL_DISKS = {
    "g4dn", "g5", "g6", "g6e", "g7e", "p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200",
    "p6-b300", "p6e-gb200", "r5d", "trn1", "trn1n", "trn2",
}  # fmt: skip
MOST_DAYS = 28


@dataclass(frozen=True)
class Fault:
    """What is wrong at a path of the request, as in `ResourceConfig.InstanceType`."""

    path: str
    what: str


def family(instance_type: str) -> str:
    """Return `g5` of `ml.g5.2xlarge`, and nothing of what is no instance type."""
    return instance_type.split(".")[1] if instance_type.count(".") == 2 else ""


def _spot(request: Request) -> Iterator[Fault]:
    stopping, path = request["StoppingCondition"], "StoppingCondition.MaxWaitTimeInSeconds"
    wait, runtime = stopping.get("MaxWaitTimeInSeconds"), stopping["MaxRuntimeInSeconds"]
    if not request["EnableManagedSpotTraining"]:
        if wait is not None:
            yield Fault(path, f"is {wait}, but only a spot job waits: it needs `--spot`")
        return
    if wait < runtime:
        yield Fault(path, f"is {wait} s, less than the runtime of {runtime} s that it includes")
    for name in ("KeepAlivePeriodInSeconds", "InstancePreferences"):
        if request["ResourceConfig"].get(name):
            yield Fault(f"ResourceConfig.{name}", "cannot be had with `--spot`; leave out either")


def _runtime(request: Request) -> Iterator[Fault]:
    seconds, most = request["StoppingCondition"]["MaxRuntimeInSeconds"], MOST_DAYS * 24 * 3600
    if seconds > most:
        path = "StoppingCondition.MaxRuntimeInSeconds"
        yield Fault(path, f"is {seconds} s; at most {most} s, {MOST_DAYS} days")


def _volume_key(request: Request) -> Iterator[Fault]:
    resources = request["ResourceConfig"]
    if "VolumeKmsKeyId" not in resources:
        return
    preferences = resources.get("InstancePreferences", [resources])
    types = {each["InstanceType"] for each in preferences}
    for name in sorted(name for name in types if family(name) in LOCAL_DISKS):
        what = f"is not allowed on {name}, whose own disk encrypts itself; leave it out"
        yield Fault("ResourceConfig.VolumeKmsKeyId", what)


def _tags(request: Request) -> Iterator[Fault]:
    for position, tag in enumerate(request["Tags"]):
        if tag["Key"].lower().startswith("aws:"):
            yield Fault(f"Tags[{position}].Key", f"is `{tag['Key']}`; `aws:` is AWS's own")


RULES = (_spot, _runtime, _volume_key, _tags)
