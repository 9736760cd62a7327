"""Backend `process`: the job as a subprocess on a local workspace, just as a container sees it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from job.core.errors import BackendError, EmbedtuneError, Interrupted, OutOfMemory
from launcher.plan.plan import Plan
from launcher.plan.staging import stage
from launcher.runs.records import record_launch, write_receipt
from launcher.runs.runs import Run

# Between two looks at a job that is not our child.
PAUSE_SECONDS = 0.5
# Where the kernel counts whom it has killed for want of memory: in our container (cgroup v2), whose
# count is of nobody else, or on the whole machine.
KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
# The launcher that started a job writes the receipt so soon after the job's end.
RECEIPT_SECONDS = 30.0


def request(plan: Plan) -> dict[str, Any]:
    return {
        "backend": "process",
        # -P: a folder `job` in the current directory must not pass for ours.
        "argv": [sys.executable, "-P", "-m", "job", "train", "--workspace", str(plan.workspace)],
        "environment": plan.environment,
        "inputs": {name: str(path) for name, path in plan.inputs.items()},
    }


def submit(plan: Plan, request: dict[str, Any]) -> "Job":
    run = Run(plan.folder, plan.destination)
    run.workspace.require_unlocked()
    stage(run.workspace, plan.spec, plan.inputs)
    job = Job(run)
    job.start(request, plan.machine.price_per_hour)
    return job


class Job:
    """The job of a run: our own child where this launcher started it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._child: subprocess.Popen[bytes] | None = None
        self._was_interrupted = False

    def start(self, request: dict[str, Any], price: float | None) -> None:
        self._started, self._kills = time.monotonic(), _kills()
        self._child = subprocess.Popen(
            request["argv"],
            env=os.environ | request["environment"],
            # Its own session: the terminal's Ctrl-C then reaches the job once, through us.
            start_new_session=True,
        )
        record_launch(self._run, request, pid=self._child.pid, price_per_hour=price)

    def refresh(self) -> bool:
        # The exit code is told to the job's launcher alone, who notes it.
        return self._run.workspace.is_locked()

    def read_log(self) -> str:
        workspace = self._run.workspace
        paths = (workspace.logs / "job.log", workspace.failure)
        return "".join(p.read_text("utf-8", errors="replace") for p in paths if p.is_file())

    def follow_logs(self, to: TextIO, *, stop_on_interrupt: bool) -> None:
        if self._child:
            # It writes to our own stderr; its end is what there is to wait for.
            self._wait(self._child, stop_on_interrupt=stop_on_interrupt)
            return
        path = self._run.workspace.logs / "job.log"
        shown, running = 0, True
        while running:
            running = self.refresh()
            if path.is_file():
                with path.open("rb") as handle:
                    handle.seek(shown)
                    shown += to.buffer.write(handle.read())
                to.flush()
            time.sleep(PAUSE_SECONDS if running else 0)

    def stop(self) -> None:
        # The lock says that it is alive, and the last to be launched is the one that holds it.
        os.kill((self._run.launch or {})["pid"], signal.SIGTERM)
        while self.refresh():
            time.sleep(PAUSE_SECONDS)

    def outcome(self) -> int:
        if self._child:
            return self._note_end(self._child.wait())
        deadline = time.monotonic() + RECEIPT_SECONDS
        while self._run.receipt is None and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)
        return int((self._run.receipt or {}).get("exit_code", 0))

    def _wait(self, child: subprocess.Popen[bytes], *, stop_on_interrupt: bool) -> None:
        try:
            child.wait()
        except KeyboardInterrupt:
            if not stop_on_interrupt:
                raise
            child.send_signal(signal.SIGTERM)
            self._was_interrupted = True
            try:
                child.wait()
            except KeyboardInterrupt:
                child.kill()

    def _note_end(self, code: int) -> int:
        if code == -signal.SIGTERM and self._was_interrupted:
            # Before it listens for signals the job has nothing to save, and dies of them.
            code = Interrupted.exit_code
        error = _death(-code, out_of_memory=_kills() > self._kills) if code < 0 else None
        seconds = time.monotonic() - self._started
        write_receipt(self._run, error.exit_code if error else code, seconds)
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
