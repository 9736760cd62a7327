"""Which hosts and GPUs a run has, as SageMaker's configuration and the machine say."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.errors import MachineError, SpecError
from job.workspace import Workspace

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


def read_topology(workspace: Workspace, device: str) -> Topology:
    """Find out what the run has; a GPU each is what a process computes on.

    `EMBEDTUNE_PROCESSES` sets how many there are on each host, `EMBEDTUNE_RENDEZVOUS` where the
    hosts meet (`address:port`; by default the first host, port 29400).
    """
    path = workspace.resource_config
    with _sagemakers(path):
        found = _read(path)
        hosts = tuple(sorted(found.get("hosts") or ["localhost"]))
        current = found.get("current_host") or hosts[0]
        interface = found.get("network_interface_name")
    if len(hosts) > 1:
        _refuse_sharded_channels(workspace.input_config)
    if current not in hosts:
        msg = (
            f"`{path}` says that this is the host `{current}`, which is none of its `hosts`. "
            "Correct or delete that file."
        )
        raise MachineError(msg)
    address, port = _meeting_point(hosts[0])
    return Topology(hosts, current, interface, _processes(device), address, port)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


@contextmanager
def _sagemakers(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError) as error:
        msg = (
            f"`{path}` is none of SageMaker's configuration files ({error}). Start the job through "
            "SageMaker, or delete that file."
        )
        raise MachineError(msg) from None


def _refuse_sharded_channels(path: Path) -> None:
    """Refuse channels of which each host has only a part."""
    with _sagemakers(path):
        channels = _read(path).items()
        sharded = [name for name, told in channels if told.get("S3DistributionType") == SHARDED]
    if sharded:
        names = ", ".join(f"`{name}`" for name in sharded)
        msg = (
            f"SageMaker has split the files of the channel {names} among the hosts "
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
