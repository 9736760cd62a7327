"""What a launch on SageMaker needs, and whether it is there, in the order in which to mend it."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from job.core.errors import BackendError
from launcher.aws import account
from launcher.aws.duration import forecast
from launcher.aws.instances import gpus_of
from launcher.aws.pricing import ARTICLE, estimate
from launcher.aws.stack import Stack, read_stack
from launcher.containers.checks import docker_client
from launcher.plan.checks import Finding, Missing, look, said, skipped
from launcher.plan.machine import MachineOptions

if TYPE_CHECKING:
    import boto3

    from launcher.plan.plan import Plan

# By its name on PyPI: to look for its modules would import half of it.
SDK = "sagemaker-core"
OF_ACCOUNT = ("stack", "role", "bucket", "image", "quota", "price")


def examine(
    session: "boto3.Session", machine: MachineOptions, bucket: str | None = None
) -> list[Finding]:
    """Look at this machine and the account; what is given here is not taken from the stack."""
    findings = [
        *_examine_machine(),
        look("settings", partial(account.settings, session)),
        look("credentials", partial(account.identity, session)),
    ]
    if findings[-1].state != "ok":
        return findings + skipped(OF_ACCOUNT, "needs credentials")
    role, image = machine.role, machine.image
    deploy = account.deploy_command(session, machine.stack)
    is_needed = not (image and role and bucket)
    stack, stack_finding = _examine_stack(session, machine.stack, deploy, is_needed=is_needed)
    if stack:
        role, bucket = role or stack.role_arn, bucket or stack.bucket
        image = image or stack.image
    push = f"afterwards {account.push_commands('REPOSITORY')}"
    kind = machine.instance_types[0]
    quota = partial(account.quota, session, kind, machine.instances, spot=machine.spot)
    return [
        *findings,
        stack_finding,
        _of_stack("role", role, partial(account.role, session, deploy)),
        _of_stack("bucket", bucket, partial(account.bucket, session, deploy)),
        _of_stack("image", image, partial(account.image, session), push),
        look("quota", quota),
        look("price", partial(account.price, session, kind)),
    ]


def without_session(error: BackendError) -> list[Finding]:
    """Say that profile or region are wrong, so that nothing in the account was looked at."""
    fix = "`--profile` and `--region`, or `aws configure`"
    return [
        *_examine_machine(),
        Finding("settings", "missing", said(error), fix),
        *skipped(("credentials", *OF_ACCOUNT), "needs profile and region"),
    ]


def examine_gpus(machine: MachineOptions, plan: "Plan | None") -> list[Finding]:
    """Say whether several GPUs would pay: for a job, or for one that is as large as the article's.

    Nothing is said of one GPU.
    """
    kind, instances = machine.instance_types[0], machine.instances
    if instances * gpus_of(kind) == 1:
        return []
    typical = estimate(**ARTICLE, instance_type=kind, instances=instances)
    found = forecast(plan) if plan else typical
    if found is None or found.seconds is None:
        return [Finding("GPUs", "skipped", "data or model cannot be sized from here")]
    job = "" if plan else "for 6,300 pairs and bge-base-en-v1.5, "
    if found.advice:
        return [Finding("GPUs", "doubtful", f"{job}{found.advice}")]
    what = f"{job}{found.gpus} GPUs would take about {found.seconds / 60:.1f} min; {found.basis}"
    return [Finding("GPUs", "ok", what)]


def _examine_machine() -> list[Finding]:
    return [look("package", _sdk), look("docker", docker_client)]


def _of_stack(
    name: str, subject: str | None, check: Callable[[str], str], later: str | None = None
) -> Finding:
    """Look at what is given or in the stack; `later` is what its deployment leaves to do."""
    if subject is None:
        return Finding(name, "skipped", "comes with the stack", later)
    return look(name, partial(check, subject))


def _examine_stack(
    session: "boto3.Session", name: str, deploy: str, *, is_needed: bool
) -> tuple[Stack | None, Finding]:
    instead = "or do without one: `--role`, `--image` and `--output s3://…`"
    try:
        stack = read_stack(session, name)
    except BackendError as error:
        # A launch that needs it could not read it either.
        if not is_needed:
            return None, Finding("stack", "unknown", said(error))
        return None, Finding("stack", "missing", said(error), f"mend that, {instead}")
    if stack:
        return stack, Finding("stack", "ok", f"{name} in {stack.region}")
    found = f"there is no stack `{name}` in {session.region_name}"
    if not is_needed:
        return None, Finding("stack", "skipped", f"{found}; role, image and output are given")
    return None, Finding("stack", "missing", found, f"{deploy}, {instead}")


def _sdk() -> str:
    try:
        return f"{SDK} {version(SDK)}"
    except PackageNotFoundError:
        found = f"{SDK} is not installed"
    raise Missing(found, "`pip install 'embedtune[sagemaker]'`")
