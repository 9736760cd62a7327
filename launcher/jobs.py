"""The jobs of runs: found by their run's folder or their backend's own marks."""

import click

from job.errors import StorageError
from job.places import S3
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
    if run.launch and run.receipt is None:
        load_backend(run.launch["backend"]).settle(run)


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
    click.echo(text, nl=False)


def find_result(output: str, name: str | None) -> Run:
    """Find a run to read: as `find_run`, else by what a backend knows of that name."""
    return find_run(output, None) if name is None else _named(output, name)


def _named(output: str, name: str) -> Run:
    try:
        return find_run(output, name)
    except StorageError:
        backends = () if name.startswith(S3) else ("docker", "sagemaker")
        for backend in backends:
            if run := load_backend(backend).run_called(name):
                return run
        raise
