"""Backend `process`: the job as a subprocess on a local workspace, just as a container sees it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from job.errors import BackendError, Interrupted, StorageError
from job.places import S3
from job.workspace import Workspace, write_atomically
from launcher.plan import Plan
from launcher.staging import stage

RECEIPT = "receipt.json"


def request(plan: Plan) -> dict[str, Any]:
    machine = plan.machine
    environment = {"TRAINING_JOB_NAME": plan.name, "EMBEDTUNE_DEVICE": machine.device}
    if machine.price_per_hour is not None:
        environment["EMBEDTUNE_PRICE_PER_HOUR"] = str(machine.price_per_hour)
    return {
        "backend": "process",
        # -P: a folder `job` in the current directory must not pass for ours.
        "argv": [sys.executable, "-P", "-m", "job", "train", "--workspace", str(plan.workspace)],
        "environment": environment,
        "inputs": {name: str(path) for name, path in plan.inputs.items()},
    }


def submit(plan: Plan, request: dict[str, Any]) -> int:
    """Stage the inputs, run the job to its end, leave a receipt; returns the job's exit code.

    Ctrl-C asks the job to stop, and waits while it finishes its step and writes a checkpoint.
    """
    workspace = Workspace(plan.workspace)
    workspace.require_unlocked()
    stage(workspace, plan.spec, plan.inputs)
    started = time.monotonic()
    job = subprocess.Popen(
        request["argv"],
        env=os.environ | request["environment"],
        # Its own session: the terminal's Ctrl-C then reaches the job once, through us.
        start_new_session=True,
    )
    with _terminated_like_interrupted():
        code = _wait(job)
    _write_receipt(plan, code, time.monotonic() - started)
    if code < 0:
        name = signal.Signals(-code).name
        msg = f"The job was killed by {name}."
        if -code == signal.SIGKILL:
            msg += " If nobody did that, memory ran out: set `training.mini_batch_size` to 16."
        raise BackendError(msg)
    return code


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


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM stop the job as Ctrl-C does, instead of leaving it behind."""
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _write_receipt(plan: Plan, code: int, seconds: float) -> None:
    """Keep what only the backend knows afterwards; it is no part of the manifest."""
    price = plan.machine.price_per_hour
    receipt = {
        "backend": "process",
        "exit_code": code,
        "seconds": round(seconds, 1),
        "usd": None if price is None else round(seconds / 3600 * price, 4),
    }
    text = json.dumps(receipt, indent=2) + "\n"
    write_atomically(plan.folder / RECEIPT, text)
    if code == 0 and plan.destination.uri.startswith(S3):
        try:
            plan.destination.write(RECEIPT, text)
        except StorageError as error:
            # The run is complete without it.
            click.echo(f"The receipt stays in `{plan.folder}`: {error}", err=True)
