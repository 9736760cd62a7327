"""`embedtune init`, `schema`, `check`: before anything is launched."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import click

from job.core.errors import StorageError


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="job.yaml")
def init(path: Path) -> None:
    """Write a commented job file, the article's own job, to PATH."""
    from job.storage.workspace import write_atomically

    if path.exists():
        msg = f"`{path}` exists already; it was left as it is. Name another file."
        raise StorageError(msg)
    write_atomically(path, resources.files("launcher").joinpath("job.yaml").read_text("utf-8"))
    click.echo(f"Wrote {path}. Next: embedtune launch {path}")


@click.command()
@click.option("--report", "of_report", is_flag=True, help="Of report.json instead.")
def schema(*, of_report: bool) -> None:
    """Print the JSON Schema of the job file."""
    from job.report.document import Report
    from job.spec.schema import JobSpec

    found = Report if of_report else JobSpec
    click.echo(json.dumps(found.model_json_schema(), indent=2))


@click.command()
@click.argument("data")
@click.option("--model", help="Base model: counts the texts that it would cut.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A spec field.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON document.")
def check(data: str, model: str | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Check DATA (a path, s3://…, a Hub id, builtin:aws-docs) before anything is paid for."""
    command = [sys.executable, "-P", "-m", "job", "check", data]
    command += ["--model", model] if model else []
    command += ["--json"] if as_json else []
    for setting in settings:
        command += ["--set", setting]
    sys.exit(subprocess.run(command, check=False).returncode)
