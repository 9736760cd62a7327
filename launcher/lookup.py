"""Finds runs and their jobs, on this machine, in S3 or at a backend."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TextIO

import click

from job.core.errors import StorageError
from job.core.formatting import escape_keeping_lines
from job.storage.stores import S3
from launcher.backends.registry import JobHandle, load_backend
from launcher.live.drawing import Job
from launcher.live.progress import now
from launcher.live.view import Style, open_view
from launcher.runs import run as runs
from launcher.runs.run import Run

LOG = "logs/job.log"


def job_of(run: Run) -> JobHandle | None:
    """Return the run's latest job, or None if it was not launched from this machine."""
    launch = run.launch
    return load_backend(launch["backend"]).Job(run) if launch else None


def refreshed(run: Run) -> Run:
    """Update a run's state from its backend; this records the end of a job that nobody followed."""
    job = job_of(run)
    if job is None or run.receipt is not None:
        return run
    return replace(run, is_active=job.refresh())


def list_runs(output: str) -> list[Run]:
    return [refreshed(run) for run in runs.list_runs(output)]


def find_job(output: str, name: str | None) -> Run:
    """Find a run by name, or the latest one, finished or not."""
    if name is not None:
        return find_result(output, name)
    run = next(iter(runs.list_runs(output)), None)
    if run is None:
        msg = f"There is no run in `{output}`. Start one with `embedtune launch`."
        raise StorageError(msg)
    return refreshed(run)


def find_result(output: str, name: str | None) -> Run:
    """Find a run by name, also among the backends' jobs, or the latest finished one.

    For an isolated job, this collects its results first.
    """
    return runs.find_run(output, None) if name is None else refreshed(_find_by_name(output, name))


def _find_by_name(output: str, name: str) -> Run:
    try:
        run = runs.find_run(output, name)
    except StorageError:
        if found := _find_at_backends(name):
            return found
        raise
    if run.launch or run.is_finished:
        return run
    # S3 has only its spec: the run was launched from another machine, and may be running.
    return _find_at_backends(name) or run


def _find_at_backends(name: str) -> Run | None:
    """Search the backends that label their jobs with the run's name."""
    from launcher.backends.docker import backend as docker
    from launcher.backends.sagemaker import backend as sagemaker

    if name.startswith(S3):
        return None
    return docker.find_run(name) or sagemaker.find_run(name)


def print_log(run: Run) -> None:
    """Print a job's log, from its backend or from the stored results."""
    job = job_of(run)
    text = job.read_log() if job else ""
    if not text and run.is_finished:
        text = run.store.read(LOG) or ""
    if not text:
        msg = f"The run `{run.name}` is {run.state} and has no log in `{run.store.uri}`."
        raise StorageError(msg)
    click.echo(escape_keeping_lines(text), nl=False)


def follow(
    run: Run, job: JobHandle, to: TextIO, style: Style = "auto", *, stop_on_interrupt: bool
) -> int:
    """Show a job until it ends, and return its exit code.

    Ctrl-C stops the job if `stop_on_interrupt`; otherwise the job continues, and we exit with 0.
    """
    try:
        with sigterm_as_interrupt(), open_view(to, _described(run), style) as view:
            job.follow_logs(view, stop_on_interrupt=stop_on_interrupt)
    except KeyboardInterrupt:
        commands = f"embedtune logs {run.name} --follow; to stop it: embedtune stop {run.name}"
        click.echo(f"The job continues. To follow it: {commands}", err=True)
        sys.exit(0)
    return job.outcome()


def _described(run: Run) -> Job:
    """Return what the launch record says of a job."""
    launch = run.launch or {}
    names = ("backend", "region", "instance_type")
    instances, price = launch.get("instances", 1), launch.get("price_per_hour")
    several = [f"{instances} machines"] if instances > 1 else []
    return Job(
        run.name,
        ", ".join([*(str(launch[name]) for name in names if launch.get(name)), *several]),
        datetime.fromisoformat(launch["started"]) if "started" in launch else now(),
        None if price is None else price * instances,
    )


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that no job is left running."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
