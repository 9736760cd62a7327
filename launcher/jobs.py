"""The jobs of runs: found by their run's folder or their backend's own marks."""

import click

from job.errors import StorageError
from job.places import S3
from job.wording import on_its_lines
from launcher import aws
from launcher.backends import docker, load_backend
from launcher.runs import Run, find_run, list_runs

LOG = "logs/job.log"


def find_job(output: str, name: str | None) -> Run:
    """Find a run that may not have finished: by its name, or the latest; settle it if it ended."""
    if name is None:
        run = next(iter(list_runs(output)), None)
        if run is None:
            msg = f"There is no run in `{output}`. Start one with `embedtune launch`."
            raise StorageError(msg)
    else:
        run = _named(output, name)
    settle(run)
    return run


def settle(run: Run) -> None:
    """Note the end of a job that nobody followed."""
    if (launch := run.launch) is None:
        return
    if profile := launch.get("profile"):
        # What reads its results goes by the profile that it was launched with.
        aws.use(profile, launch["region"])
    if run.receipt is None:
        load_backend(launch["backend"]).settle(run)


def print_log(run: Run) -> None:
    """Print what the job said: its backend's copy, else its own; then why it failed."""
    if run.launch and load_backend(run.launch["backend"]).show_log(run):
        return
    workspace = run.workspace
    kept = [workspace.root / docker.KEPT_LOG, workspace.logs / "job.log", workspace.failure]
    texts = [path.read_text("utf-8", errors="replace") for path in kept if path.is_file()]
    text = (run.place.read(LOG) or "") if run.is_finished else "".join(texts)
    if not text:
        msg = f"The run `{run.name}` is {run.state} and has no log in `{run.place.uri}`."
        raise StorageError(msg)
    click.echo(on_its_lines(text), nl=False)


def find_result(output: str, name: str | None) -> Run:
    """Find a run to read: as `find_run`, else by what a backend knows of that name."""
    if name is None:
        return find_run(output, None)
    run = _named(output, name)
    # An isolated job's results are brought home by whoever asks first.
    settle(run)
    return run


def _named(output: str, name: str) -> Run:
    try:
        run = find_run(output, name)
    except StorageError:
        if found := _known_to_a_backend(name):
            return found
        raise
    if run.launch or run.is_finished:
        return run
    # In S3 only its spec tells of it: it was launched elsewhere, and may be at work.
    return _known_to_a_backend(name) or run


def _known_to_a_backend(name: str) -> Run | None:
    backends = () if name.startswith(S3) else ("docker", "sagemaker")
    found = (load_backend(backend).run_called(name) for backend in backends)
    return next((run for run in found if run), None)
