"""Joins runs and backends: a run and its job, wherever they are."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

import click

from job.core.errors import StorageError
from job.core.formatting import escape_keeping_lines
from job.storage.stores import S3
from launcher.backends.registry import JobHandle, load_backend
from launcher.runs import runs
from launcher.runs.runs import Run

LOG = "logs/job.log"


def job_of(run: Run) -> JobHandle | None:
    """Return the job that was last launched for a run, if this machine knows of one."""
    launch = run.launch
    return load_backend(launch["backend"]).Job(run) if launch else None


def refreshed(run: Run) -> Run:
    """Ask a run's backend for news of its job; the end of one that nobody followed is noted."""
    job = job_of(run)
    if job is None or run.receipt is not None:
        return run
    return replace(run, is_at_work=job.refresh())


def list_runs(output: str) -> list[Run]:
    return [refreshed(run) for run in runs.list_runs(output)]


def find_job(output: str, name: str | None) -> Run:
    """Find a run that may not have finished: by its name, or the latest."""
    if name is not None:
        return find_result(output, name)
    run = next(iter(runs.list_runs(output)), None)
    if run is None:
        msg = f"There is no run in `{output}`. Start one with `embedtune launch`."
        raise StorageError(msg)
    return refreshed(run)


def find_result(output: str, name: str | None) -> Run:
    """Find a run to read: by its name or by what a backend knows of that name; or the latest.

    An isolated job's results are brought home by whoever asks first.
    """
    return runs.find_run(output, None) if name is None else refreshed(_named(output, name))


def _named(output: str, name: str) -> Run:
    try:
        run = runs.find_run(output, name)
    except StorageError:
        if found := _known_to_a_backend(name):
            return found
        raise
    if run.launch or run.is_finished:
        return run
    # In S3 only its spec tells of it: it was launched elsewhere, and may be at work.
    return _known_to_a_backend(name) or run


def _known_to_a_backend(name: str) -> Run | None:
    """Ask those backends that mark their jobs with the run's name."""
    from launcher.backends.docker import backend as docker
    from launcher.backends.sagemaker import backend as sagemaker

    if name.startswith(S3):
        return None
    return docker.find_run(name) or sagemaker.find_run(name)


def print_log(run: Run) -> None:
    """Print what a job said, as its backend kept it or as it was stored with the results."""
    job = job_of(run)
    text = job.read_log() if job else ""
    if not text and run.is_finished:
        text = run.place.read(LOG) or ""
    if not text:
        msg = f"The run `{run.name}` is {run.state} and has no log in `{run.place.uri}`."
        raise StorageError(msg)
    click.echo(escape_keeping_lines(text), nl=False)


def follow(run: Run, job: JobHandle, to: TextIO, *, stop_on_interrupt: bool) -> int:
    """Show a job's log to its end; returns its exit code. Ctrl-C may leave it alone: exit 0."""
    try:
        with terminated_like_interrupted():
            job.follow_logs(to, stop_on_interrupt=stop_on_interrupt)
    except KeyboardInterrupt:
        how = f"embedtune logs {run.name} --follow; to end it: embedtune stop {run.name}"
        click.echo(f"The job is left as it is. To follow it: {how}", err=True)
        sys.exit(0)
    return job.outcome()


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, instead of leaving a job behind."""
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
