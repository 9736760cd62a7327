"""How much slower training is beside a busy process when OpenMP's threads spin while they wait.

    python tests/benchmarks/waiting.py

`quick` on 500 pairs of the demo's data, once with the job's default and once with OpenMP's own,
while another process keeps one core busy. One line each on stdout, then the ratio.
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
# An empty value is a user's own, and OpenMP then does as if there were none.
POLICIES = {"passive (the job's default)": "PASSIVE", "spinning (OpenMP's own)": ""}


def train_seconds(policy: str, rows: int) -> float:
    """Run a job; return the seconds of its training alone."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    # Threads on all cores, as a user has them.
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
    for name, taken in seconds.items():
        print(f"{name}: {taken:.1f} s")
    passive, spinning = seconds.values()
    print(f"ratio: {spinning / passive:.1f}")


if __name__ == "__main__":
    main()
