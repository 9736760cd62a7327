"""Backend `process`: the job as a subprocess on a local workspace, just as a container sees it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from job.errors import BackendError, EmbedtuneError, Interrupted, OutOfMemory
from launcher.interruption import terminated_like_interrupted
from launcher.ledger import note_launch, write_receipt
from launcher.plan import Plan
from launcher.runs import Run
from launcher.staging import stage

OPTIONS: set[str] = set()
# Between two looks at a job that is not our child.
PAUSE_SECONDS = 0.5
# Where the kernel counts whom it has killed for want of memory: in our container (cgroup v2), whose
# count is of nobody else, or on the whole machine.
KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
# The launcher that started a job writes the receipt so soon after the job's end.
RECEIPT_SECONDS = 5.0


def request(plan: Plan) -> dict[str, Any]:
    return {
        "backend": "process",
        # -P: a folder `job` in the current directory must not pass for ours.
        "argv": [sys.executable, "-P", "-m", "job", "train", "--workspace", str(plan.workspace)],
        "environment": plan.environment,
        "inputs": {name: str(path) for name, path in plan.inputs.items()},
    }


def prepare(plan: Plan, request: dict[str, Any]) -> None:
    del request
    run = Run(plan.folder, plan.destination)
    run.workspace.require_unlocked()
    stage(run.workspace, plan.spec, plan.inputs)


def submit(plan: Plan, request: dict[str, Any], *, detach: bool) -> int:
    """Run the job to its end, leave a receipt.

    Ctrl-C asks the job to stop, and waits while it finishes its step and writes a checkpoint.
    """
    if detach:
        msg = "`--detach` is not for `--backend process`: the job ends with its launcher."
        raise BackendError(msg)
    prepare(plan, request)
    run = Run(plan.folder, plan.destination)
    started, kills = time.monotonic(), _kills()
    job = subprocess.Popen(
        request["argv"],
        env=os.environ | request["environment"],
        # Its own session: the terminal's Ctrl-C then reaches the job once, through us.
        start_new_session=True,
    )
    with terminated_like_interrupted():
        price = plan.machine.price_per_hour
        note_launch(run, request, pid=job.pid, price_per_hour=price)
        code = _wait(job)
    error = _death(-code, out_of_memory=_kills() > kills) if code < 0 else None
    write_receipt(run, error.exit_code if error else code, time.monotonic() - started)
    if error:
        raise error
    return code


def _death(number: int, *, out_of_memory: bool) -> EmbedtuneError:
    """Explain a signal that ended the job."""
    if number == signal.SIGKILL and out_of_memory:
        return OutOfMemory(
            "The job was killed since the machine's memory ran out. Set "
            "`training.mini_batch_size`, for instance to 16, or take a machine with more."
        )
    return BackendError(
        f"The job was killed by {signal.Signals(number).name}. Launch the run's name again to go "
        "on from its checkpoint."
    )


def _kills() -> int:
    """Count the processes that were killed for want of memory; 0 where nobody counts them."""
    for path in KILLS:
        with suppress(OSError):
            counts = dict(line.split() for line in path.read_text("utf-8").splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def is_running(run: Run) -> bool:
    return run.workspace.is_locked()


def settle(run: Run) -> None:
    """Leave it as it is: the exit code of a job is told to its launcher alone."""


def follow(run: Run) -> int:
    path = run.workspace.logs / "job.log"
    shown = 0
    with suppress(KeyboardInterrupt):
        while True:
            running = run.workspace.is_locked()
            if path.is_file():
                with path.open("rb") as handle:
                    handle.seek(shown)
                    shown += sys.stdout.buffer.write(handle.read())
                sys.stdout.flush()
            if not running:
                return _code_of(run)
            time.sleep(PAUSE_SECONDS)
    return 0


def run_called(name: str) -> Run | None:
    """Know of none but by their folders."""
    del name
    return None


def show_log(run: Run) -> bool:
    """Say no: the run's own log, in its folder, is all there is."""
    del run
    return False


def stop(run: Run) -> None:
    # The lock says that it is alive, and the last to be launched is the one that holds it.
    os.kill((run.launch or {})["pid"], signal.SIGTERM)
    while run.workspace.is_locked():
        time.sleep(PAUSE_SECONDS)


def _wait(job: subprocess.Popen[bytes]) -> int:
    try:
        return job.wait()
    except KeyboardInterrupt:
        job.send_signal(signal.SIGTERM)
    try:
        code = job.wait()
        # Before it listens for signals the job has nothing to save, and dies of them.
        return Interrupted.exit_code if code == -signal.SIGTERM else code
    except KeyboardInterrupt:
        job.kill()
        return job.wait()


def _code_of(run: Run) -> int:
    deadline = time.monotonic() + RECEIPT_SECONDS
    while run.receipt is None and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    return int((run.receipt or {}).get("exit_code", 0))
