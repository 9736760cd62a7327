"""Measure how much OpenMP's spinning threads slow training down while another process is busy.

    python tests/benchmarks/waiting.py

Trains the preset `quick` on 500 pairs of the demo's data, once with the job's default wait policy
and once with OpenMP's, while another process keeps one core busy. Prints both times and the ratio.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCH = (
    *(sys.executable, "-P", "-m", "launcher.cli", "launch", "--name", "waiting"),
    *("--data", "builtin:aws-docs", "--model", "builtin:minilm", "--preset", "quick"),
)
# The job keeps an empty value, because the user set it, and OpenMP treats it as unset.
POLICIES = {"passive (the job's default)": "PASSIVE", "spinning (OpenMP's default)": ""}


def train_seconds(policy: str, rows: int) -> float:
    """Run a job; return the seconds of its training stage."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    # Use threads on all cores, like a user's job.
    environment.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as folder:
        command = (*LAUNCH, "--output", folder, "--set", f"data.limit={rows}")
        subprocess.run(command, env=environment, check=True, capture_output=True)
        report = Path(folder) / "waiting" / "report" / "report.json"
        return json.loads(report.read_text("utf-8"))["seconds"]["train"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=500)
    rows = parser.parse_args().rows
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        seconds = {name: train_seconds(policy, rows) for name, policy in POLICIES.items()}
    finally:
        busy.kill()
        busy.wait()
    for name, duration in seconds.items():
        print(f"{name}: {duration:.1f} s")
    passive, spinning = seconds.values()
    print(f"ratio: {spinning / passive:.1f}")


if __name__ == "__main__":
    main()
