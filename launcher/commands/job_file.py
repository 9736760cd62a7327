"""`embedtune init`, `schema`, `check`: prepare a job."""

import json
import subprocess
import sys
from pathlib import Path

import click

from job.core.errors import StorageError


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="job.yaml")
def init(path: Path) -> None:
    """Write a commented job file, with the article's job, to PATH."""
    from importlib import resources

    from job.storage.workspace import write_atomically

    if path.exists():
        msg = f"`{path}` already exists, and was not changed. Choose another path."
        raise StorageError(msg)
    write_atomically(path, resources.files("launcher").joinpath("job.yaml").read_text("utf-8"))
    click.echo(f"Wrote {path}. Next: embedtune launch {path}")


@click.command()
@click.option("--report", "of_report", is_flag=True, help="Print that of report.json instead.")
def schema(*, of_report: bool) -> None:
    """Print the JSON Schema of the job file."""
    from job.report.document import Report
    from job.spec.schema import JobSpec

    model = Report if of_report else JobSpec
    click.echo(json.dumps(model.model_json_schema(), indent=2))


@click.command()
@click.argument("data")
@click.option("--model", help="Base model, to count the texts that it would truncate.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a spec field; may be repeated.",
)
def check(data: str, model: str | None, settings: tuple[str, ...]) -> None:
    """Check DATA (a path, s3://…, a Hub id, builtin:aws-docs) before you launch a job."""
    command = [sys.executable, "-P", "-m", "job", "check", data]
    command += ["--model", model] if model else []
    for setting in settings:
        command += ["--set", setting]
    sys.exit(subprocess.run(command, check=False).returncode)
