"""`embedtune doctor`: what a launch would miss, before it does."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from launcher.findings import Finding
    from launcher.plan import Plan


@click.command()
@click.argument(
    "job_file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--backend",
    type=click.Choice(["sagemaker", "docker", "process"]),
    default="sagemaker",
    show_default=True,
    help="Where jobs are to run.",
)
@click.option(
    "--instance-type",
    default="ml.g5.2xlarge",
    show_default=True,
    help="sagemaker: what they are to run on.",
)
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="sagemaker: how many of them.",
)
@click.option("--spot", is_flag=True, help="sagemaker: on spot instances.")
@click.option("--image", help="docker, sagemaker: the image.  [default: embedtune, or the stack's]")
@click.option("--role", metavar="ARN", help="sagemaker: the job's role.  [default: the stack's]")
@click.option("--output", help="sagemaker: s3://bucket/prefix.  [default: the stack's]")
@click.option("--stack", default="embedtune", show_default=True, help="sagemaker: the stack.")
@click.option("--profile", help="sagemaker: AWS profile.  [env: AWS_PROFILE]")
@click.option("--region", help="sagemaker: AWS region.  [env: AWS_REGION]")
def doctor(
    job_file: Path | None,
    backend: str,
    instance_type: str,
    instances: int,
    image: str | None,
    role: str | None,
    output: str | None,
    stack: str,
    profile: str | None,
    region: str | None,
    *,
    spot: bool,
) -> None:
    """Look for all that a launch needs, and say what to do about what is missing.

    Nothing is changed. Exits with 13 where something is missing. With JOB_FILE it says whether
    several GPUs would pay for that job.
    """
    from rich.console import Console

    from job.errors import BackendError
    from launcher.doctor import (
        examine,
        examine_docker,
        examine_gpus,
        examine_process,
        without_session,
    )

    if backend == "process":
        findings = examine_process()
    elif backend == "docker":
        findings = examine_docker(image or "embedtune")
    else:
        from launcher.aws import open_session

        try:
            session = open_session(profile, region)
        except BackendError as error:
            findings = without_session(error)
        else:
            bucket = _bucket(output)
            findings = examine(
                session,
                stack,
                instance_type,
                instances,
                spot=spot,
                image=image,
                role=role,
                bucket=bucket,
            )
        plan = _plan(job_file, instance_type, instances) if job_file else None
        findings += examine_gpus(instance_type, instances, plan)
    Console(highlight=False).print(_table(findings))
    for line in _steps(findings):
        click.echo(line)
    if any(finding.state == "missing" for finding in findings):
        sys.exit(BackendError.exit_code)


def _plan(job_file: Path, instance_type: str, instances: int) -> "Plan":
    from job.spec_document import build_spec, read_document
    from launcher.machine import MachineOptions
    from launcher.plan import Plan

    machine = MachineOptions("sagemaker", instance_type=(instance_type,), instances=instances)
    return Plan("doctor", build_spec(read_document(job_file)), machine)


def _bucket(output: str | None) -> str | None:
    """Return the bucket of the output that a launch would use; a folder is no output there."""
    from job.places import S3, split_uri
    from launcher.settings import default_output

    uri = output or default_output()
    return split_uri(uri)[0] if uri.startswith(S3) else None


def _table(findings: "list[Finding]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    yellow = dict.fromkeys(("unknown", "doubtful"), "yellow")
    colors = {"ok": "green", "missing": "red", "skipped": "dim"} | yellow
    table = Table()
    for heading in ("what", "state", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        state = f"[{colors[finding.state]}]{finding.state}[/]"
        table.add_row(finding.name, state, escape(finding.found))
    return table


def _steps(findings: "list[Finding]") -> list[str]:
    """Number what is to be done; outside the table, where a command can be copied whole."""
    steps = [f"{finding.name}: {finding.fix}" for finding in findings if finding.fix]
    if not steps:
        return []
    return ["To do, in this order:", *(f"{n}. {step}" for n, step in enumerate(steps, 1))]
