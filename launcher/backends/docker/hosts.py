"""The hosts of a run on one engine: containers that reach each other as algo-1, algo-2, …"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from job.core.errors import SpecError
from job.storage.workspace import Workspace, write_atomically
from launcher.plan.plan import WORKSPACE, Plan

# Folders of the first host's workspace that the other hosts mount as well.
CHANNELS, CHECKPOINTS = "input/data", "checkpoints"
FIRST = "algo-1"


@dataclass(frozen=True)
class Host:
    """A container and the folder that it mounts as `/opt/ml`."""

    name: str
    container: str
    workspace: Path

    @property
    def is_first(self) -> bool:
        return self.name == FIRST


def container_name(folder: Path) -> str:
    """Return the container's name, which is unique for the run's folder."""
    digest = hashlib.sha256(str(folder.absolute()).encode("utf-8")).hexdigest()[:8]
    return f"embedtune-{folder.name}-{digest}"


def hosts_of(folder: Path, count: int) -> list[Host]:
    """List a run's hosts; a single host's container has no number."""
    container = container_name(folder)
    first = Host(FIRST, container if count == 1 else f"{container}-{FIRST}", folder / WORKSPACE)
    names = [f"algo-{number}" for number in range(2, count + 1)]
    others = (Host(n, f"{container}-{n}", folder / f"{WORKSPACE}-{n}") for n in names)
    return [first, *others]


def network_command(plan: Plan) -> list[str]:
    """Return the command that creates the hosts' network.

    The network has internet access, for S3 and the Hub, unless `--network none` is set.
    """
    command = ["docker", "network", "create", *(["--internal"] if plan.machine.network else [])]
    return [*command, container_name(plan.folder)]


def check_network(plan: Plan) -> None:
    """Raise `SpecError` for an existing network, on which host names would not be unique."""
    machine = plan.machine
    if machine.hosts > 1 and machine.network not in (None, "none"):
        msg = (
            f"`--network {machine.network}` with `--hosts {machine.hosts}`: several hosts always "
            "get a new network. Omit `--network`, or isolate them with `--network none`."
        )
        raise SpecError(msg)


def prepare_workspaces(hosts: list[Host]) -> None:
    """Write each host's `resourceconfig.json`; clear the workspaces of all but the first."""
    if len(hosts) == 1:
        return
    for host in hosts:
        if not host.is_first:
            shutil.rmtree(host.workspace, ignore_errors=True)
        # Otherwise the engine creates the mount points as root.
        for name in (CHANNELS, CHECKPOINTS):
            (host.workspace / name).mkdir(parents=True, exist_ok=True)
        path = Workspace(host.workspace).resource_config
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [each.name for each in hosts]
        config = {"current_host": host.name, "hosts": names, "network_interface_name": "eth0"}
        write_atomically(path, json.dumps(config, indent=2) + "\n")


def threads_per_host(hosts: int, cores: int) -> int:
    """Divide the machine's cores among the hosts: more threads than cores slow all of them."""
    return max(1, (cores or os.cpu_count() or 1) // hosts)
