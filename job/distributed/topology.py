"""Which hosts and GPUs a run has, as SageMaker's configuration and the machine say."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from job.core.errors import MachineError, SpecError
from job.storage.workspace import Workspace

Value = TypeVar("Value")
PORT = 29400
SHARDED = "ShardedByS3Key"
# A host's name may not be known yet when another one has started.
NAMES_SECONDS, LOOK_SECONDS = 600.0, 2.0


@dataclass(frozen=True)
class Topology:
    """The hosts of a run in their order, the first of which has rank 0, and the ranks of each."""

    hosts: tuple[str, ...] = ("localhost",)
    current: str = "localhost"
    interface: str | None = None
    processes: int = 1
    # Where the hosts meet.
    address: str = "localhost"
    port: int = PORT

    @property
    def world_size(self) -> int:
        return len(self.hosts) * self.processes

    @property
    def host_rank(self) -> int:
        return self.hosts.index(self.current)


class _Resources(BaseModel):
    """SageMaker's resourceconfig.json; on any other machine there is none."""

    hosts: list[str] | None = None
    current_host: str | None = None
    network_interface_name: str | None = None


def read_topology(workspace: Workspace, device: str) -> Topology:
    """Find out what the run has; a GPU each is what a process computes on.

    `EMBEDTUNE_PROCESSES` sets how many there are on each host, `EMBEDTUNE_RENDEZVOUS` where the
    hosts meet (`address:port`; by default the first host, port 29400).
    """
    path = workspace.resource_config
    found = _read(path, _Resources)
    hosts = tuple(sorted(found.hosts or ["localhost"]))
    current = found.current_host or hosts[0]
    if len(hosts) > 1:
        _refuse_sharded_channels(workspace.input_config)
    if current not in hosts:
        msg = (
            f"`{path}` says that this is the host `{current}`, which is none of its `hosts`. "
            "Correct or delete that file."
        )
        raise MachineError(msg)
    address, port = _meeting_point(hosts[0])
    return Topology(hosts, current, found.network_interface_name, _processes(device), address, port)


def _read(path: Path, kind: type[Value]) -> Value:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes() if path.is_file() else "{}")
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        msg = (
            f"`{path}` is none of SageMaker's configuration files ({why}). Start the job through "
            "SageMaker, or delete that file."
        )
        raise MachineError(msg) from None


def _refuse_sharded_channels(path: Path) -> None:
    """Refuse channels of which each host has only a part."""
    channels = _read(path, dict[str, dict[str, Any]]).items()
    sharded = [f"`{name}`" for name, told in channels if told.get("S3DistributionType") == SHARDED]
    if sharded:
        msg = (
            f"SageMaker has split the files of the channel {', '.join(sharded)} among the hosts "
            f"(`{SHARDED}`); every host reads all of them: request `FullyReplicated`."
        )
        raise SpecError(msg)


def _meeting_point(first: str) -> tuple[str, int]:
    given = os.environ.get("EMBEDTUNE_RENDEZVOUS")
    if not given:
        return first, PORT
    address, _, port = given.rpartition(":")
    if not address or not port.isdigit():
        msg = f"`EMBEDTUNE_RENDEZVOUS` is `{given}`; expected address and port: `algo-1:29400`."
        raise MachineError(msg)
    return address, int(port)


def _processes(device: str) -> int:
    given = os.environ.get("EMBEDTUNE_PROCESSES")
    if given:
        if not given.isdigit() or not int(given):
            msg = f"`EMBEDTUNE_PROCESSES` is `{given}`; expected a number of processes, from 1."
            raise MachineError(msg)
        return int(given)
    if device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def use_interface(topology: Topology) -> None:
    """Have the libraries talk to the other hosts by the interface that leads to them."""
    name = "lo" if topology.address == "127.0.0.1" else topology.interface
    if name and len(topology.hosts) > 1:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def wait_for_names(topology: Topology, patience: float = NAMES_SECONDS) -> None:
    """Wait until the hosts' meeting point has an address."""
    ends = time.monotonic() + patience
    while True:
        try:
            socket.getaddrinfo(topology.address, topology.port)
        except OSError as error:
            if time.monotonic() > ends:
                msg = (
                    f"The host `{topology.address}` has no address after {patience:g} s "
                    f"({error.strerror}). See whether it has started, and whether the network "
                    "lets the hosts of a run reach each other."
                )
                raise MachineError(msg) from None
            time.sleep(LOOK_SECONDS)
        else:
            return
