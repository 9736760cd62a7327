"""Runs a command of the job in a process of its own, so that the launcher needs no torch."""

import subprocess
import sys
from collections.abc import Sequence

JOB = (sys.executable, "-P", "-m", "job")
# Time for a command to end by itself after Ctrl-C, which reaches both processes.
SECONDS = 20.0


def run_job(arguments: Sequence[str]) -> int:
    """Run `python -m job` with these arguments; return its exit code, also after Ctrl-C."""
    with subprocess.Popen([*JOB, *arguments]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            code = _ended(process)
    # As a shell gives it, if a signal ended the process.
    return code if code >= 0 else 128 - code


def _ended(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.terminate()
        return process.wait()
