"""Finds runs and their jobs, on this machine, in S3 or at a backend."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TextIO, TypeVar

import click

from job.core.errors import BackendError, StorageError
from job.core.formatting import escape_keeping_lines
from job.storage.stores import S3
from launcher.backends.registry import JobHandle, load_backend
from launcher.live.drawing import Job
from launcher.live.progress import now
from launcher.live.view import Style, open_view
from launcher.runs import run as runs
from launcher.runs.run import Run

LOG = "logs/job.log"
# States of a warm pool in which it is, or will be, billed.
LASTING_POOLS = ("Available", "InUse")
T = TypeVar("T")


def job_of(run: Run) -> JobHandle | None:
    """Return the run's latest job, or None if it was not launched from this machine."""
    launch = run.launch
    return load_backend(launch["backend"]).Job(run) if launch else None


def refreshed(run: Run) -> Run:
    """Update a run's state from its backend; this records the end of a job that nobody followed.

    A warm pool outlives its job.
    """
    job, receipt = job_of(run), run.receipt
    pool = ((receipt or {}).get("warm_pool") or {}).get("status")
    if job is None or (receipt is not None and pool not in LASTING_POOLS):
        return run
    is_active = job.refresh()
    return replace(run, is_active=is_active, status=job.status)


@dataclass(frozen=True)
class Listing:
    """The runs of an output; `failures` has the reason by source that did not answer."""

    runs: list[Run]
    failures: dict[str, str]


def list_runs(output: str) -> Listing:
    """List the runs, latest first; those of a source that does not answer as this machine knows."""
    sources, groups = _Sources(), dict[tuple[str, str, str], list[Run]]()
    found = runs.local_runs(output)
    found |= sources.ask(_bucket(output), partial(runs.stored_runs, output)) or {}
    for run in found.values():
        groups.setdefault(_account(run), []).append(run)
    # A launch's profile and region stay set, so runs without a launch come first.
    asked = [run for account in sorted(groups) for run in _ask(groups[account], sources)]
    return Listing(runs.latest_first(asked), sources.failed)


@dataclass
class _Sources:
    """Stores and backends; one that has failed is not asked again."""

    failed: dict[str, str] = field(default_factory=dict)

    def ask(self, name: str, question: Callable[[], T]) -> T | None:
        if name in self.failed:
            return None
        try:
            return question()
        except (BackendError, StorageError) as error:
            self.failed[name] = str(error)
            return None


def _account(run: Run) -> tuple[str, str, str]:
    """Return the backend, region and profile of a run's launch."""
    launch = run.launch or {}
    backend, region, profile = (launch.get(key) or "" for key in ("backend", "region", "profile"))
    return str(backend), str(region), str(profile)


def _ask(group: list[Run], sources: _Sources) -> Iterator[Run]:
    """Update runs of one account from their backend and their stores."""
    account = _account(group[0])
    backend, profile = ", ".join(filter(None, account)), account[-1]
    buckets: dict[str, list[Run]] = {}
    for old in group:
        found = sources.ask(backend, partial(_refreshed, old, sources))
        run = found or replace(old, is_unknown=True)
        buckets.setdefault(_bucket(run.store.uri) if run.is_remote else "", []).append(run)
    for bucket, several in buckets.items():
        # Another profile may read a bucket that this one may not.
        name = f"{bucket}, {profile}" if profile else bucket
        # One run shows whether the bucket answers; the others are then read in parallel.
        if sources.ask(name, partial(_state, several[0])) is None:
            here = (run for run in several if run.folder.is_dir())
            yield from (replace(run, published=None, is_unknown=True) for run in here)
        else:
            runs.preload(several)
            yield from several


def _refreshed(run: Run, sources: _Sources) -> Run | None:
    """Update a run from its backend, which has answered even if this run's results are missing."""
    try:
        return refreshed(run)
    except StorageError as error:
        sources.failed[run.store.uri] = str(error)
        return None


def _state(run: Run) -> str:
    return run.state


def _bucket(uri: str) -> str:
    return "/".join(uri.split("/")[:3])


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


def end_pool(run: Run) -> str:
    """End the warm pool of a run's latest job; return one line that says what was done."""
    from launcher.backends.sagemaker import backend as sagemaker

    if run.launch is None or run.launch["backend"] != "sagemaker":
        msg = f"The run `{run.name}` has no job on SageMaker, so it has no warm pool."
        raise BackendError(msg)
    return sagemaker.Job(run).end_pool()


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
    if launch.get("price_region") != launch.get("region"):
        # The live view could not say that the price is another region's.
        price = None
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
