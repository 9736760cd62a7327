"""`embedtune doctor`: checks the requirements of a launch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.machine import machine_options
from launcher.plan.machine import MachineOptions

if TYPE_CHECKING:
    from launcher.plan.checks import CheckResult
    from launcher.plan.memory import DeviceMemory
    from launcher.plan.plan import Plan


@click.command()
@click.argument(
    "job_file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@machine_options(
    *("backend", "image", "instance_type", "instances", "spot", "keep_alive"),
    *("role", "stack", "profile", "region"),
    backend="sagemaker",
)
@click.option("--output", help="sagemaker: s3://bucket/prefix.  [default: the stack's]")
def doctor(job_file: Path | None, output: str | None, **options: Any) -> None:  # noqa: ANN401
    """Check what a launch needs, and print how to fix what is missing.

    Changes nothing. Exits with 13 if something is missing. With JOB_FILE, also estimates the memory
    of its training, in full and with LoRA, and whether more GPUs would pay off.
    """
    from job.core.errors import BackendError
    from launcher.backends.process.checks import check_process
    from launcher.containers.checks import check_docker
    from launcher.plan.memory import check_memory
    from launcher.tables import check_lines, show

    machine = MachineOptions(**options)
    plan = _plan(job_file, machine)
    if machine.backend == "process":
        findings = check_process()
    elif machine.backend == "docker":
        findings = check_docker(machine.image or "embedtune")
    else:
        findings = _examine_account(machine, plan, output)
    findings += [check_memory(plan, _memory(machine))] if plan else []
    show(check_lines(findings))
    for line in _steps(findings):
        click.echo(line)
    if any(finding.state == "missing" for finding in findings):
        sys.exit(BackendError.exit_code)


def _examine_account(
    machine: MachineOptions, plan: "Plan | None", output: str | None
) -> "list[CheckResult]":
    from job.core.errors import BackendError
    from launcher.aws.sessions import open_session
    from launcher.backends.sagemaker.account_checks import (
        check_account,
        check_gpus,
        report_bad_settings,
    )

    try:
        session = open_session(machine.profile, machine.region)
    except BackendError as error:
        findings = report_bad_settings(error)
    else:
        findings = check_account(session, machine, _bucket(output))
    return findings + check_gpus(machine, plan)


def _plan(job_file: Path | None, machine: MachineOptions) -> "Plan | None":
    from job.spec.parse import build_spec, read_document
    from launcher.plan.plan import Plan

    return Plan("doctor", build_spec(read_document(job_file)), machine) if job_file else None


def _memory(machine: MachineOptions) -> "DeviceMemory | None":
    """Return the memory of the device that the job would run on, if it is known."""
    from launcher.aws.instances import gpu_memory
    from launcher.plan.memory import DeviceMemory, memory_here

    if machine.backend != "sagemaker":
        return memory_here()
    known = gpu_memory(machine.instance_types[0])
    return DeviceMemory(*known) if known else None


def _bucket(output: str | None) -> str | None:
    """Return the bucket that a launch would write to, or None if the output is a local folder."""
    from job.storage.stores import S3, split_uri
    from launcher.plan.settings import default_output

    uri = output or default_output()
    return split_uri(uri)[0] if uri.startswith(S3) else None


def _steps(findings: "list[CheckResult]") -> list[str]:
    """Number the fixes; they are not part of the table, so that commands can be copied."""
    steps = [f"{finding.name}: {finding.fix}" for finding in findings if finding.fix]
    if not steps:
        return []
    return ["To do, in this order:", *(f"{n}. {step}" for n, step in enumerate(steps, 1))]
