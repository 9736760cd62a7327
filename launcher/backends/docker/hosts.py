"""The hosts of a run on one engine: containers that find each other by SageMaker's names."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from job.core.errors import SpecError
from job.storage.workspace import Workspace, write_atomically
from launcher.plan.plan import WORKSPACE, Plan

# In the first host's workspace, mounted for the others as well.
CHANNELS, CHECKPOINTS = "input/data", "checkpoints"
FIRST = "algo-1"


@dataclass(frozen=True)
class Host:
    """A container and the folder that is its `/opt/ml`; the first host's lies in the run's own."""

    name: str
    container: str
    workspace: Path

    @property
    def is_first(self) -> bool:
        return self.name == FIRST


def container_name(folder: Path) -> str:
    """Name a run's container; runs of one name in two folders have two."""
    place = hashlib.sha256(str(folder.absolute()).encode("utf-8")).hexdigest()[:8]
    return f"embedtune-{folder.name}-{place}"


def hosts_of(folder: Path, count: int) -> list[Host]:
    """Name the hosts of the run in a folder; one alone bears no number."""
    container = container_name(folder)
    first = Host(FIRST, container if count == 1 else f"{container}-{FIRST}", folder / WORKSPACE)
    names = [f"algo-{number}" for number in range(2, count + 1)]
    others = (Host(n, f"{container}-{n}", folder / f"{WORKSPACE}-{n}") for n in names)
    return [first, *others]


def network_command(plan: Plan) -> list[str]:
    """Build the command that makes the hosts' network, which bears the name of one container.

    It leads out as well, since the hosts may read S3 and the Hub; with `--network none` not.
    """
    command = ["docker", "network", "create", *(["--internal"] if plan.machine.network else [])]
    return [*command, container_name(plan.folder)]


def check_network(plan: Plan) -> None:
    """Refuse a network on which the hosts' names would not be theirs alone."""
    machine = plan.machine
    if machine.hosts > 1 and machine.network not in (None, "none"):
        msg = (
            f"`--network {machine.network}` with `--hosts {machine.hosts}`: the hosts of a run have"
            " a network of their own. Leave it out, or cut them off with `--network none`."
        )
        raise SpecError(msg)


def prepare_workspaces(hosts: list[Host]) -> None:
    """Tell each host of the others; only the first keeps what was in its workspace."""
    if len(hosts) == 1:
        return
    for host in hosts:
        if not host.is_first:
            shutil.rmtree(host.workspace, ignore_errors=True)
        # The engine would make those that are mounted its own.
        for name in (CHANNELS, CHECKPOINTS):
            (host.workspace / name).mkdir(parents=True, exist_ok=True)
        path = Workspace(host.workspace).resource_config
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [each.name for each in hosts]
        told = {"current_host": host.name, "hosts": names, "network_interface_name": "eth0"}
        write_atomically(path, json.dumps(told, indent=2) + "\n")


def threads(hosts: int, cores: int) -> int:
    """Share a machine's cores out: hosts that compute with more wait for each other."""
    return max(1, (cores or os.cpu_count() or 1) // hosts)
