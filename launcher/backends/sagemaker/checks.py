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
from launcher.plan.checks import CheckResult, Missing, message_of, run_check, skipped
from launcher.plan.machine import MachineOptions

if TYPE_CHECKING:
    import boto3

    from launcher.plan.plan import Plan

# By its name on PyPI: to look for its modules would import half of it.
SDK = "sagemaker-core"
OF_ACCOUNT = ("stack", "role", "bucket", "image", "quota", "price")


def examine(
    session: "boto3.Session", machine: MachineOptions, bucket: str | None = None
) -> list[CheckResult]:
    """Look at this machine and the account; what is given here is not taken from the stack."""
    findings = [
        *_examine_machine(),
        run_check("settings", partial(account.settings, session)),
        run_check("credentials", partial(account.identity, session)),
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
        run_check("quota", quota),
        run_check("price", partial(account.price, session, kind)),
    ]


def without_session(error: BackendError) -> list[CheckResult]:
    """Say that profile or region are wrong, so that nothing in the account was looked at."""
    fix = "`--profile` and `--region`, or `aws configure`"
    return [
        *_examine_machine(),
        CheckResult("settings", "missing", message_of(error), fix),
        *skipped(("credentials", *OF_ACCOUNT), "needs profile and region"),
    ]


def examine_gpus(machine: MachineOptions, plan: "Plan | None") -> list[CheckResult]:
    """Say whether several GPUs would pay: for a job, or for one that is as large as the article's.

    Nothing is said of one GPU.
    """
    kind, instances = machine.instance_types[0], machine.instances
    if instances * gpus_of(kind) == 1:
        return []
    typical = estimate(**ARTICLE, instance_type=kind, instances=instances)
    found = forecast(plan) if plan else typical
    if found is None or found.seconds is None:
        return [CheckResult("GPUs", "skipped", "data or model cannot be sized from here")]
    job = "" if plan else "for 6,300 pairs and bge-base-en-v1.5, "
    if found.advice:
        return [CheckResult("GPUs", "doubtful", f"{job}{found.advice}")]
    what = f"{job}{found.gpus} GPUs would take about {found.seconds / 60:.1f} min; {found.basis}"
    return [CheckResult("GPUs", "ok", what)]


def _examine_machine() -> list[CheckResult]:
    return [run_check("package", _sdk), run_check("docker", docker_client)]


def _of_stack(
    name: str, subject: str | None, check: Callable[[str], str], later: str | None = None
) -> CheckResult:
    """Look at what is given or in the stack; `later` is what its deployment leaves to do."""
    if subject is None:
        return CheckResult(name, "skipped", "comes with the stack", later)
    return run_check(name, partial(check, subject))


def _examine_stack(
    session: "boto3.Session", name: str, deploy: str, *, is_needed: bool
) -> tuple[Stack | None, CheckResult]:
    instead = "or do without one: `--role`, `--image` and `--output s3://…`"
    try:
        stack = read_stack(session, name)
    except BackendError as error:
        # A launch that needs it could not read it either.
        if not is_needed:
            return None, CheckResult("stack", "unknown", message_of(error))
        return None, CheckResult("stack", "missing", message_of(error), f"mend that, {instead}")
    if stack:
        return stack, CheckResult("stack", "ok", f"{name} in {stack.region}")
    found = f"there is no stack `{name}` in {session.region_name}"
    if not is_needed:
        return None, CheckResult("stack", "skipped", f"{found}; role, image and output are given")
    return None, CheckResult("stack", "missing", found, f"{deploy}, {instead}")


def _sdk() -> str:
    try:
        return f"{SDK} {version(SDK)}"
    except PackageNotFoundError:
        found = f"{SDK} is not installed"
    raise Missing(found, "`pip install 'embedtune[sagemaker]'`")
