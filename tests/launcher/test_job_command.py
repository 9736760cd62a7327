"""Commands of the job in a process of their own: their exit code is the launcher's."""

import os
import signal
import subprocess
import sys

import pytest

from launcher import job_command
from launcher.job_command import run_job

# Says that it runs, then what it does when it is interrupted.
CHILD = """
import signal, sys, time
try:
    print("runs", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(10)
"""
LAUNCHER = f"""
import sys
from launcher import job_command
job_command.JOB = (sys.executable, "-c", {CHILD!r})
sys.exit(job_command.run_job([]))
"""


def test_ctrl_c_ends_a_command_with_the_jobs_exit_code():
    """10 is "interrupted"; a shell sends the signal to both processes."""
    command = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as launcher:
        assert launcher.stdout.readline() == b"runs\n"
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(30) == 10


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(9)", 9), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_an_exit_code_is_passed_on_and_a_signal_as_by_a_shell(monkeypatch, code, expected):
    monkeypatch.setattr(job_command, "JOB", (sys.executable, "-c"))
    assert run_job([code]) == expected
