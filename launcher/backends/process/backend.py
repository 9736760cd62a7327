"""Backend `process`: run the job as a subprocess, on a workspace laid out as in a container."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from job.core.errors import BackendError, EmbedtuneError, Interrupted, OutOfMemory
from launcher.live.output import lines_copied
from launcher.live.view import View
from launcher.plan.plan import Plan
from launcher.plan.staging import stage
from launcher.runs.records import record_launch, write_receipt
from launcher.runs.run import Run

# Between two polls of a job that is not our child process.
PAUSE_SECONDS = 0.5
# Where the kernel counts processes killed for lack of memory: in this container (cgroup v2), which
# counts only its own processes, or on the whole machine.
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
# Time for the launcher that started the job to write the receipt after the job's end.
RECEIPT_SECONDS = 30.0


def request(plan: Plan) -> dict[str, Any]:
    return {
        "backend": "process",
        # -P: do not import a folder `job` of the current directory instead of ours.
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
    """The job of a run: a child process if this launcher started it."""

    # A process either runs or has ended.
    status = ""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._child: subprocess.Popen[bytes] | None = None
        self._was_interrupted = False

    def start(self, request: dict[str, Any], price: float | None) -> None:
        self._started, self._oom_kills = time.monotonic(), _oom_kills()
        self._child = subprocess.Popen(
            request["argv"],
            env=os.environ | request["environment"],
            # stdout is reserved for the report.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A new session: Ctrl-C reaches the job once, through the launcher.
            start_new_session=True,
        )
        record_launch(self._run, request, pid=self._child.pid, price_per_hour=price)

    def refresh(self) -> bool:
        # Only the parent process gets the exit code and records it.
        return self._run.workspace.is_locked()

    def read_log(self) -> str:
        workspace = self._run.workspace
        paths = (workspace.logs / "job.log", workspace.failure)
        return "".join(p.read_text("utf-8", errors="replace") for p in paths if p.is_file())

    def follow_logs(self, view: View, *, stop_on_interrupt: bool) -> None:
        if self._child:
            assert self._child.stdout is not None
            with lines_copied(self._child.stdout, view.print_line):
                self._wait(self._child, view, stop_on_interrupt=stop_on_interrupt)
            return
        path = self._run.workspace.logs / "job.log"
        shown, running = 0, True
        while running:
            running = self.refresh()
            if path.is_file():
                with path.open("rb") as handle:
                    handle.seek(shown)
                    # The job may be writing the last line.
                    whole = handle.read().rpartition(b"\n")[0]
                if whole:
                    shown += len(whole) + 1
                    for line in whole.decode("utf-8", "replace").split("\n"):
                        view.print_line(line)
            time.sleep(PAUSE_SECONDS if running else 0)

    def stop(self) -> None:
        # The caller has checked that the lock is held, so the last recorded process is alive.
        os.kill((self._run.launch or {})["pid"], signal.SIGTERM)
        while self.refresh():
            time.sleep(PAUSE_SECONDS)

    def outcome(self) -> int:
        if self._child:
            return self._record_end(self._child.wait())
        deadline = time.monotonic() + RECEIPT_SECONDS
        while self._run.receipt is None and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)
        return int((self._run.receipt or {}).get("exit_code", 0))

    def _wait(self, child: subprocess.Popen[bytes], view: View, *, stop_on_interrupt: bool) -> None:
        try:
            child.wait()
        except KeyboardInterrupt:
            if not stop_on_interrupt:
                raise
            child.send_signal(signal.SIGTERM)
            self._was_interrupted = True
            view.show_stopping()
            try:
                child.wait()
            except KeyboardInterrupt:
                child.kill()

    def _record_end(self, code: int) -> int:
        if code == -signal.SIGTERM and self._was_interrupted:
            # SIGTERM kills the job before it has installed its handler; nothing is lost then.
            code = Interrupted.exit_code
        out_of_memory = _oom_kills() > self._oom_kills
        error = _signal_error(-code, out_of_memory=out_of_memory) if code < 0 else None
        seconds = time.monotonic() - self._started
        write_receipt(self._run, error.exit_code if error else code, seconds)
        if error:
            raise error
        return code


def _signal_error(number: int, *, out_of_memory: bool) -> EmbedtuneError:
    """Explain the signal that killed the job."""
    if number == signal.SIGKILL and out_of_memory:
        return OutOfMemory(
            "The job was killed because the machine ran out of memory. Set "
            "`training.mini_batch_size`, for instance to 16, or use a machine with more memory."
        )
    return BackendError(
        f"The job was killed by {signal.Signals(number).name}. Relaunch the run to resume from its "
        "last checkpoint."
    )


def _oom_kills() -> int:
    """Return the number of processes killed for lack of memory; 0 if the kernel has no counter."""
    for path in OOM_COUNTERS:
        with suppress(OSError):
            counts = dict(line.split() for line in path.read_text("utf-8").splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0
