"""How long the demo job takes from SIGTERM to its end, while the base is scored and in training.

    python tests/benchmarks/stopping.py
    tests/docker/engine run python tests/benchmarks/stopping.py    # and in a container

The launcher is asked, as by Ctrl-C, and passes it on. One line a backend and phase on stdout.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from job.checkpoints import last_checkpoint
from job.workspace import Workspace

LAUNCH = [sys.executable, "-P", "-m", "launcher.cli", "launch", "--name", "stopped"]
DEMO = (
    *("--data", "builtin:aws-docs", "--model", "builtin:minilm"),
    *("--set", "data.limit=1500", "--set", "training.epochs=2"),
)
# The second start goes on where the first was stopped.
PHASES = {"base scoring": "score base: start", "training": "train: step="}
# Into the midst of what the line announces.
LATER_SECONDS = 2.0


def main():
    backends = {"process": ()}
    if image := os.environ.get("EMBEDTUNE_TEST_IMAGE"):
        backends["docker"] = ("--image", image, "--gpus", "none", "--network", "none")
    for backend, options in backends.items():
        with tempfile.TemporaryDirectory() as folder:
            for phase, line in PHASES.items():
                command = [*LAUNCH, "--backend", backend, *options, *DEMO]
                seconds, code = stop_at(line, command, folder)
                kept = last_checkpoint(Workspace(Path(folder, "runs/stopped/.work")).checkpoints)
                print(
                    f"backend={backend} phase={phase!r} seconds={seconds:.1f} exit_code={code} "
                    f"checkpoint={kept.name if kept else None} load={os.getloadavg()[0]:.1f}",
                    flush=True,
                )


def stop_at(line, command, folder):
    """Launch, wait for a log line, ask the launcher to stop; returns seconds and its exit code."""
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as launcher:
        if not any(line in said for said in launcher.stderr):
            sys.exit(f"It ended without saying {line!r}.")
        time.sleep(LATER_SECONDS)
        asked = time.monotonic()
        launcher.terminate()
        launcher.communicate()
        return time.monotonic() - asked, launcher.returncode


if __name__ == "__main__":
    main()
