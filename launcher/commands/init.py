"""`embedtune init`: a commented job file to start from."""

import subprocess
import sys
from pathlib import Path

import click

from job.core.errors import StorageError
from launcher.job_command import JOB


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="job.yaml")
@click.option(
    "--data",
    metavar="PAIRS",
    help="Write the job for these pairs: a path, s3://…, a Hub id, builtin:aws-docs.",
)
@click.option("--model", help="Base model of that job.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a spec field of that job; may be repeated.",
)
def init(path: Path, data: str | None, model: str | None, settings: tuple[str, ...]) -> None:
    """Write a commented job file to PATH.

    With --data, it has the format and columns of these pairs, the dimensions of the model, and
    the `auto` values that do not depend on the machine. Without, it is the article's job.
    """
    from job.storage.workspace import write_atomically

    if data is None and (model or settings):
        msg = "--model and --set need --data."
        raise click.UsageError(msg)
    if path.exists():
        msg = f"`{path}` already exists, and was not changed. Choose another path."
        raise StorageError(msg)
    text = _article_job() if data is None else _job_for(data, model, settings)
    write_atomically(path, text)
    click.echo(f"Wrote {path}. Next: embedtune launch {path}")


def _article_job() -> str:
    from importlib import resources

    return resources.files("launcher").joinpath("job.yaml").read_text("utf-8")


def _job_for(data: str, model: str | None, settings: tuple[str, ...]) -> str:
    command = [*JOB, "init", data]
    command += ["--model", model] if model else []
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.decode("utf-8")
