"""Starts a run's workers on this host with torch's own torchrun, and says how they ended."""

import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from job.core.errors import Interrupted, MachineError, OutOfMemory
from job.distributed.heartbeat import Cause, Heartbeat
from job.distributed.topology import Topology, use_interface, wait_for_names
from job.storage.workspace import Workspace

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# Longer than a step and a checkpoint take.
SHUTDOWN_SECONDS = 110
# Signals that are ours to pass on; torchrun must handle at least one.
PASSED_ON, TORCHRUNS = (signal.SIGTERM, signal.SIGINT), "SIGQUIT"
# The exit code of a process that lost another one, and how long it waits for the cause to be known.
PEER_LOST, PEER_LOST_SECONDS = 120, 10.0


class PeerLost(Exception):
    """Another process of the run has gone; its own output, or the heartbeat, says why."""


def is_worker() -> bool:
    """Tell whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ


def run_workers(topology: Topology, workspace: Workspace, name: str) -> int:
    """Run this command once a GPU on this host, beside the other hosts; return its exit code."""
    # Of an earlier start.
    workspace.failure.unlink(missing_ok=True)
    # The workers log what matters. Torchrun would log a stack trace where another host leaves its
    # last barrier, and closes the store, a moment earlier.
    logging.disable(logging.CRITICAL)
    use_interface(topology)
    passed: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        passed.append(number)
        _signal_children(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    heartbeat = None
    if len(topology.hosts) > 1:
        wait_for_names(topology)
        heartbeat = Heartbeat(topology, lambda: _signal_children(signal.SIGKILL))
    failure, cause = _launch(topology, name), None
    if failure:
        told = heartbeat.cause if heartbeat else None
        cause = told or _explain(failure, topology, workspace, passed)
        if heartbeat and not cause:
            cause = heartbeat.await_cause()
    if heartbeat:
        heartbeat.end(cause)
    if failure is None:
        return 0
    line = "Another process of the run has gone without a word; its log may say why."
    cause = cause or Cause(topology.current, MachineError.exit_code, line)
    # Where every run leaves its reason, unless a worker of this host has done so.
    if _noted(workspace) != cause.line:
        line = cause.line if cause.host == topology.current else str(cause)
        print(f"Error: {line}", file=sys.stderr, flush=True)
        workspace.write_failure(line)
    return cause.code


def _launch(topology: Topology, name: str) -> "ChildFailedError | None":
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = len(topology.hosts) > 1
    config = LaunchConfig(
        min_nodes=len(topology.hosts),
        max_nodes=len(topology.hosts),
        nproc_per_node=topology.processes,
        run_id=name,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=f"{topology.address}:{topology.port if several else 0}",
        rdzv_configs={"rank": topology.host_rank} if several else {},
        local_addr=None if several else topology.address,
        max_restarts=0,
        signals_to_handle=TORCHRUNS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    # Torch computes with all cores in each process otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // topology.processes)))
    safe = ["-P"] if sys.flags.safe_path else []
    try:
        elastic_launch(config, sys.executable)(*safe, "-m", "job", *sys.argv[1:])
    except ChildFailedError as error:
        return error
    return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _explain(
    failure: "ChildFailedError", topology: Topology, workspace: Workspace, passed: list[int]
) -> Cause | None:
    """Say why the workers of this host ended; nothing where other hosts made them."""
    # In the order of their ends: torchrun ends the others, who tell of an interruption.
    codes = [found.exitcode for found in failure.failures.values()]
    passed_on = {-number for number in PASSED_ON}
    own = [code for code in codes if code != PEER_LOST and code not in passed_on]
    if not own and passed and passed_on & set(codes):
        # While it ends, and before it listens, a process dies of what we pass on.
        own = [Interrupted.exit_code]
    if not own:
        return None
    code, line = own[0], _noted(workspace)
    if code == -signal.SIGKILL:
        code = OutOfMemory.exit_code
        line = (
            "A process of the run was killed (signal 9), as a system does whose memory has run "
            "out. Set `training.mini_batch_size`, for instance to 16, and launch the run again."
        )
    elif code < 0:
        line = (
            f"A process of the run ended by signal {-code} ({signal.Signals(-code).name}). Launch "
            "the run again to go on from its last checkpoint."
        )
        code = MachineError.exit_code
    unsaid = "The run was interrupted, or ended without a reason. Launch it again to go on."
    return Cause(topology.current, code, line or unsaid)


def _noted(workspace: Workspace) -> str:
    """Return the reason that a worker of this host has left."""
    return workspace.failure.read_text("utf-8").strip() if workspace.failure.is_file() else ""


def _signal_children(number: int) -> None:
    import psutil

    for child in psutil.Process().children():
        child.send_signal(number)
