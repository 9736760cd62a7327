"""Start a run's workers on this host with torchrun, and report how they ended."""

import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from job.core.errors import Interrupted, MachineError, OutOfMemory
from job.distributed.heartbeat import Cause, Heartbeat
from job.distributed.topology import Topology, set_network_interface, wait_for_dns
from job.storage.workspace import Workspace

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# Enough time for a step and a checkpoint.
SHUTDOWN_SECONDS = 110
# Signals that we forward to workers; torchrun insists on handling at least one itself.
FORWARDED, TORCHRUN_SIGNALS = (signal.SIGTERM, signal.SIGINT), "SIGQUIT"
# The exit code of a worker that lost a peer, and how long it waits for the peer's cause first.
PEER_LOST, PEER_LOST_SECONDS = 120, 10.0


class PeerLost(Exception):
    """Another process of the run stopped responding; its output or the heartbeat has the cause."""


def is_worker() -> bool:
    """Return whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def run_workers(topology: Topology, workspace: Workspace, name: str) -> int:
    """Run this command in one process per GPU of this host; return the run's exit code."""
    # From an earlier start.
    workspace.failure.unlink(missing_ok=True)
    # Workers log what matters. Torchrun would log a stack trace if another host leaves the last
    # barrier, and closes the store, a moment earlier.
    logging.disable(logging.CRITICAL)
    set_network_interface(topology)
    forwarded: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        forwarded.append(number)
        _signal_children(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    heartbeat = None
    if len(topology.hosts) > 1:
        wait_for_dns(topology)
        heartbeat = Heartbeat(topology, lambda: _signal_children(signal.SIGKILL))
    failure, cause = _launch(topology, name), None
    if failure:
        reported = heartbeat.cause if heartbeat else None
        cause = reported or _explain(failure, topology, workspace, forwarded)
        if heartbeat and not cause:
            cause = heartbeat.await_cause()
    if heartbeat:
        heartbeat.end(cause)
    if failure is None:
        return 0
    line = "Another process of the run stopped responding; its log may have the cause."
    cause = cause or Cause(topology.current, MachineError.exit_code, line)
    # Report the cause, unless a worker of this host already did.
    if _read_failure(workspace) != cause.line:
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
        signals_to_handle=TORCHRUN_SIGNALS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    # By default, torch would use all cores in each process.
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
    failure: "ChildFailedError", topology: Topology, workspace: Workspace, forwarded: list[int]
) -> Cause | None:
    """Return why the workers of this host failed; None if the cause is on another host."""
    # In the order of their ends: torchrun then stops the others, which report an interruption.
    codes = [found.exitcode for found in failure.failures.values()]
    forwarded_codes = {-number for number in FORWARDED}
    own = [code for code in codes if code != PEER_LOST and code not in forwarded_codes]
    if not own and forwarded and forwarded_codes & set(codes):
        # A forwarded signal kills a process that has no handler yet, or no longer.
        own = [Interrupted.exit_code]
    if not own:
        return None
    code, line = own[0], _read_failure(workspace)
    if code == -signal.SIGKILL:
        code = OutOfMemory.exit_code
        line = (
            "A process of the run was killed (signal 9), probably because memory ran out. "
            "Relaunch the run with a smaller `training.mini_batch_size`, such as 16."
        )
    elif code < 0:
        line = (
            f"Signal {-code} ({signal.Signals(-code).name}) ended a process of the run. "
            "Relaunch the run to resume from its last checkpoint."
        )
        code = MachineError.exit_code
    default = "The run was interrupted or ended without a reason. Relaunch it to resume."
    return Cause(topology.current, code, line or default)


def _read_failure(workspace: Workspace) -> str:
    """Return the failure line that a worker of this host wrote."""
    return workspace.failure.read_text("utf-8").strip() if workspace.failure.is_file() else ""


def _signal_children(number: int) -> None:
    import psutil

    for child in psutil.Process().children():
        child.send_signal(number)
