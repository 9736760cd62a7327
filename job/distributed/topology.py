"""Read which hosts and GPUs a run has, from SageMaker's configuration and the machine."""

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
# Hosts start at different times: a host's name may not resolve yet when another one starts.
RESOLVE_SECONDS, RETRY_SECONDS = 600.0, 2.0


@dataclass(frozen=True)
class Topology:
    """The hosts of a run in rank order, and the processes on each; the first host has rank 0."""

    hosts: tuple[str, ...] = ("localhost",)
    current: str = "localhost"
    interface: str | None = None
    processes: int = 1
    # The rendezvous of the hosts.
    address: str = "localhost"
    port: int = PORT

    @property
    def world_size(self) -> int:
        return len(self.hosts) * self.processes

    @property
    def host_rank(self) -> int:
        return self.hosts.index(self.current)


class _Resources(BaseModel):
    """SageMaker's resourceconfig.json; it is missing on other machines."""

    hosts: list[str] | None = None
    current_host: str | None = None
    network_interface_name: str | None = None


def read_topology(workspace: Workspace, device: str) -> Topology:
    """Return the hosts and the processes per host, by default one per GPU.

    `EMBEDTUNE_PROCESSES` sets the processes per host, `EMBEDTUNE_RENDEZVOUS` the address at which
    hosts connect (`address:port`; by default the first host, port 29400).
    """
    path = workspace.resource_config
    found = _read(path, _Resources)
    hosts = tuple(sorted(found.hosts or ["localhost"]))
    current = found.current_host or hosts[0]
    if len(hosts) > 1:
        _refuse_sharded_channels(workspace.input_config)
    if current not in hosts:
        msg = (
            f"`{path}` names this host `{current}`, but its `hosts` do not contain that name. "
            "Correct or delete that file."
        )
        raise MachineError(msg)
    address, port = _rendezvous(hosts[0])
    return Topology(hosts, current, found.network_interface_name, _processes(device), address, port)


def _read(path: Path, kind: type[Value]) -> Value:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes() if path.is_file() else "{}")
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        msg = (
            f"`{path}` is not a valid SageMaker configuration file ({why}). Start the job through "
            "SageMaker, or delete that file."
        )
        raise MachineError(msg) from None


def _refuse_sharded_channels(path: Path) -> None:
    """Refuse channels whose files SageMaker divides among the hosts."""
    channels = _read(path, dict[str, dict[str, Any]]).items()
    sharded = [
        f"`{name}`" for name, settings in channels if settings.get("S3DistributionType") == SHARDED
    ]
    if sharded:
        msg = (
            f"SageMaker divided the files of the channel {', '.join(sharded)} among the hosts "
            f"(`{SHARDED}`), but every host needs all files. Set `FullyReplicated`."
        )
        raise SpecError(msg)


def _rendezvous(first: str) -> tuple[str, int]:
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
            msg = f"`EMBEDTUNE_PROCESSES` is `{given}`; expected a number of processes, 1 or more."
            raise MachineError(msg)
        _require_gpus(int(given), device)
        return int(given)
    return max(1, _gpus(device))


def _require_gpus(processes: int, device: str) -> None:
    """Refuse processes without a GPU of their own; without any GPU, they compute on the CPU."""
    gpus = _gpus(device) if processes > 1 else 0
    if 0 < gpus < processes:
        msg = (
            f"`EMBEDTUNE_PROCESSES` is `{processes}`, but this machine has {gpus} usable GPU(s), "
            f"and each process needs one of its own. Set it to {gpus} or less."
        )
        raise MachineError(msg)


def _gpus(device: str) -> int:
    """Return the number of GPUs that this device setting uses."""
    if device not in ("auto", "cuda"):
        return 0
    import torch

    return torch.cuda.device_count()


def use_one_gpu(device: str) -> None:
    """Hide all GPUs but the first from this process; must be called before CUDA starts.

    Otherwise transformers would divide each batch among all GPUs (`nn.DataParallel`).
    """
    if _gpus(device) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]


def set_network_interface(topology: Topology) -> None:
    """Make NCCL and Gloo use the network interface that connects the hosts."""
    name = "lo" if topology.address == "127.0.0.1" else topology.interface
    if name and len(topology.hosts) > 1:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def wait_for_dns(topology: Topology, timeout: float = RESOLVE_SECONDS) -> None:
    """Wait until the name of the rendezvous host resolves."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.getaddrinfo(topology.address, topology.port)
        except OSError as error:
            if time.monotonic() > deadline:
                msg = (
                    f"The host name `{topology.address}` does not resolve after {timeout:g} s "
                    f"({error.strerror}). Check that the host has started and that the network "
                    "connects the hosts of a run."
                )
                raise MachineError(msg) from None
            time.sleep(RETRY_SECONDS)
        else:
            return
