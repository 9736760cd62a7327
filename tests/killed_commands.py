"""Start commands of the launcher, and kill them, and the jobs that they started, in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

LAUNCHER = [sys.executable, "-P", "-m", "launcher.cli"]


def start_command(folder, *arguments, **environment):
    return subprocess.Popen(
        [*LAUNCHER, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"EMBEDTUNE_LLM_KEY": "sk-of-this-test"} | environment,
    )


def kill_when(process, is_time):
    """Kill a command, and the processes of its session, once a function says so."""
    while not is_time() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_job(run):
    """Kill the job in a run's folder: it is in a session of its own, and answers to its lock."""
    record = run / ".work" / "launch.json"
    os.kill(json.loads(record.read_text("utf-8"))["pid"], signal.SIGKILL)
