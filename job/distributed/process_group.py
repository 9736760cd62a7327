"""The process group of a run: every rank runs the same pipeline; rank 0 logs and writes.

All ranks make the same collective calls in the same order. With one process, they do nothing.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import (  # type: ignore[attr-defined]
    DistBackendError,
    DistNetworkError,
    DistStoreError,
    PrefixStore,
    Store,
)
from torch.distributed.rendezvous import rendezvous

from job.core.errors import MachineError
from job.distributed.shared_values import load_arrays, save_arrays
from job.distributed.torchrun import PeerLost, is_worker
from job.runtime.oom import is_out_of_memory
from job.runtime.watchdog import record_activity

Value = TypeVar("Value")

# Of a collective call, which all ranks reach at about the same time. If one rank may work alone for
# longer, the others wait in `barrier`, which has no timeout.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# What NCCL and Gloo say about a lost peer; everything else is a cause of its own.
LOST = re.compile(
    r"ncclRemoteError|remote (process|peer)|aborted|broken pipe|timed out|timeout|refused"
    r"|(closed|reset) by (remote )?peer|socket closed|pair closure|read error",
    re.IGNORECASE,
)
# What to do about a failure of NCCL or Gloo, by a part of its message.
ADVICE = {
    "/dev/shm": "Give the container more shared memory: `docker run --shm-size 1g`.",  # noqa: S108  only a name
    "Duplicate GPU": "Each process needs a GPU of its own: lower `EMBEDTUNE_PROCESSES`, or let "
    "each host use its own GPUs.",
    "find address": "Correct `network_interface_name`, or set `NCCL_SOCKET_IFNAME` and "
    "`GLOO_SOCKET_IFNAME` to the interface between the hosts.",
}
DEFAULT_ADVICE = "Relaunch the run; with `NCCL_DEBUG=INFO` its log has the details."
# Ranks in `barrier` handle signals at this interval.
SIGNAL_SECONDS = timedelta(seconds=1)


class _Barriers:
    """The store that `barrier` uses, and the number of barriers so far."""

    store: Store
    count = 0


def init(device: str) -> None:
    """Join the process group; each rank takes the GPU of its local rank."""
    backend = "gloo"
    if device in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    init_with(store, rank, size, backend)


def init_with(store: Store, rank: int, size: int, backend: str = "gloo") -> None:
    """Join the process group through this store."""
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )
    _Barriers.store = PrefixStore("barrier", store)


def destroy() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_rank_zero() -> bool:
    return rank() == 0


def local_rank() -> int:
    return int(environ["LOCAL_RANK"]) if is_worker() else 0


def local_world_size() -> int:
    return int(environ["LOCAL_WORLD_SIZE"]) if is_worker() else 1


def host_count() -> int:
    return world_size() // local_world_size()


@contextmanager
def peer_loss_detected() -> Iterator[None]:
    """Convert errors of communication: to `PeerLost` if a peer is lost, else to `MachineError`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        # Gloo raises plain RuntimeErrors.
        is_backend = isinstance(error, DistBackendError) or "gloo" in text
        if isinstance(error, DistNetworkError | DistStoreError) or (
            is_backend and LOST.search(text)
        ):
            raise PeerLost(text) from error
        # NCCL allocates GPU memory too; that error has an exit code of its own.
        if is_backend and not is_out_of_memory(error):
            raise MachineError(_explain(text)) from error
        raise


def _explain(text: str) -> str:
    """Return what a communication library says about its failure, and what to do."""
    # NCCL's last line has the cause, Gloo's first one, after the place in its source.
    said = text.partition("Last error:\n")[2] or re.sub(r"^\[\S+\] ", "", text)
    cause = " ".join(said.split())[:300].rstrip(".")
    advice = next((way for part, way in ADVICE.items() if part in text), DEFAULT_ADVICE)
    return f"The processes of the run cannot communicate: {cause}. {advice}"


def barrier() -> None:
    """Block until all ranks arrive, without a timeout: one of them may work alone for hours.

    torchrun and the heartbeat detect lost ranks and then kill this process.
    """
    if world_size() == 1:
        return
    _Barriers.count += 1
    arrived, all_here = f"{_Barriers.count}/arrived", f"{_Barriers.count}/all"
    if _Barriers.store.add(arrived, 1) == world_size():
        _Barriers.store.set(all_here, "")
    while True:
        # Waiting is no stall: the working ranks have their own watchdogs.
        record_activity()
        try:
            _Barriers.store.wait([all_here], SIGNAL_SECONDS)
        except DistStoreError:
            continue
        return


def from_rank_zero(work: Callable[[], Value]) -> Value:
    """Run `work` on rank 0 only, however long it takes; return its value on every rank."""
    if world_size() == 1:
        return work()
    value: Any = work() if is_rank_zero() else None
    barrier()
    found: Value = broadcast(value)
    return found


def broadcast(value: Value) -> Value:
    """Return the value of rank 0 on every rank."""
    values = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def all_gather_objects(value: Value) -> list[Value]:
    """Return the values of all ranks, in rank order, on every rank."""
    found: list[Any] = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(found, value)
    return found


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all ranks, in rank order, on every rank; all have the same shape."""
    import torch

    found = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(found, tensor.contiguous())
    return found


def all_reduce(tensor: Tensor) -> Tensor:
    """Return the sum of all ranks' tensors on every rank."""
    total = tensor.detach().contiguous().clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return total


def any_rank(flag: bool) -> bool:  # noqa: FBT001  a value, not an option
    """Return on every rank whether the flag is true on any of them."""
    return flag if world_size() == 1 else bool(all_reduce(torch.tensor(int(flag))))


def broadcast_weights(module: nn.Module) -> None:
    """Copy the weights of rank 0 to every rank."""
    barrier()
    if world_size() > 1:
        for value in module.state_dict().values():
            distributed.broadcast(value, 0)


def once_per_host(work: Callable[[], Value]) -> Value:
    """Run `work` on local rank 0 of each host; the host's other ranks memory-map its arrays."""
    if world_size() == 1:
        return work()
    found: Any = work() if local_rank() == 0 else None
    with TemporaryDirectory() as folder:
        saved = save_arrays(found, Path(folder)) if local_world_size() > 1 else None
        barrier()
        saved = all_gather_objects(saved)[rank() - local_rank()]
        if local_rank() > 0:
            found = load_arrays(saved)
        # Mapped files stay readable after they are deleted.
        barrier()
    value: Value = found
    return value
