"""Check what a launch on SageMaker needs, in the order in which to fix it."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from job.core.drivers import IMAGE_CUDA, IMAGE_DRIVER
from job.core.errors import BackendError
from launcher.aws import account, ecr
from launcher.aws.duration import forecast
from launcher.aws.instances import gpu_memory, gpus_of
from launcher.aws.pricing import ARTICLE, estimate
from launcher.aws.quotas import Usage, check_quota
from launcher.aws.stack import Stack, read_stack
from launcher.containers.checks import docker_client
from launcher.plan.checks import CheckResult, Missing, message_of, run_check, skipped
from launcher.plan.machine import MachineOptions

if TYPE_CHECKING:
    import boto3

    from launcher.plan.plan import Plan

# The distribution's name: looking for its modules would import half of the package.
SDK = "sagemaker-core"
NO_POOL = "; without it SageMaker keeps no machine, and does not say so: omit `--keep-alive`"
ACCOUNT_CHECKS = ("stack", "role", "bucket", "image", "quota", "price")


def check_account(
    session: "boto3.Session", machine: MachineOptions, bucket: str | None = None
) -> list[CheckResult]:
    """Check this machine and the account; role, image and bucket given here win over the stack."""
    results = [
        *_check_machine(),
        run_check("settings", partial(account.settings, session)),
        run_check("credentials", partial(account.identity, session)),
    ]
    if results[-1].state != "ok":
        return results + skipped(ACCOUNT_CHECKS, "needs credentials")
    role, image = machine.role, machine.image
    deploy = account.deploy_command(session, machine.stack)
    is_needed = not (image and role and bucket)
    stack, stack_result = _check_stack(session, machine.stack, deploy, is_needed=is_needed)
    if stack:
        role, bucket = role or stack.role_arn, bucket or stack.bucket
        image = image or stack.image
    where = account.stack_option(machine.stack) + account.options(session)
    push = f"afterwards {ecr.push_commands('REPOSITORY', where)}"
    kind = machine.instance_types[0]
    return [
        *results,
        stack_result,
        _check_from_stack("role", role, partial(account.role, session, deploy)),
        _check_from_stack("bucket", bucket, partial(account.bucket, session, deploy)),
        _check_from_stack("image", image, partial(ecr.check_image, session), push),
        *check_driver(kind),
        *_check_quotas(session, machine),
        run_check("price", partial(account.price, session, kind)),
    ]


def check_driver(instance_type: str) -> list[CheckResult]:
    """Say which driver the image needs; an empty list for an instance type without NVIDIA GPU."""
    if gpu_memory(instance_type) is None:
        return []
    text = (
        f"the image's CUDA {IMAGE_CUDA} needs NVIDIA driver {IMAGE_DRIVER} or later; AWS does not "
        "publish the driver of its training machines, and the job checks it when it starts"
    )
    return [CheckResult("driver", "unknown", text)]


def _check_quotas(session: "boto3.Session", machine: MachineOptions) -> list[CheckResult]:
    # AWS requires a sufficient quota for every instance type of the list, not only for the chosen.
    usage: Usage = "spot training job" if machine.spot else "training job"
    wanted = [(session, kind, machine.instances) for kind in machine.instance_types]
    quotas = [run_check("quota", partial(check_quota, *each, usage)) for each in wanted]
    if machine.keep_alive:
        for each in wanted:
            pool = partial(check_quota, *each, "training warm pool", note=NO_POOL)
            quotas.append(run_check("warm pool", pool))
    return quotas


def report_bad_settings(error: BackendError) -> list[CheckResult]:
    """Report a wrong profile or region; all checks of the account are skipped."""
    fix = "`--profile` and `--region`, or `aws configure`"
    return [
        *_check_machine(),
        CheckResult("settings", "missing", message_of(error), fix),
        *skipped(("credentials", *ACCOUNT_CHECKS), "needs profile and region"),
    ]


def check_gpus(machine: MachineOptions, plan: "Plan | None") -> list[CheckResult]:
    """Check whether several GPUs are worth it, for the plan or a job of the article's size.

    Returns an empty list for one GPU.
    """
    kind, instances = machine.instance_types[0], machine.instances
    if instances * gpus_of(kind) == 1:
        return []
    typical = estimate(**ARTICLE, instance_type=kind, instances=instances)
    found = forecast(plan) if plan else typical
    if found is None or found.seconds is None:
        return [CheckResult("GPUs", "skipped", "the size of data or model is unknown")]
    job = "" if plan else "for 6,300 pairs and bge-base-en-v1.5, "
    if found.advice:
        return [CheckResult("GPUs", "doubtful", f"{job}{found.advice}")]
    text = f"{job}{found.gpus} GPUs would take about {found.seconds / 60:.1f} min; {found.basis}"
    return [CheckResult("GPUs", "ok", text)]


def _check_machine() -> list[CheckResult]:
    return [run_check("package", _sdk), run_check("docker", docker_client)]


def _check_from_stack(
    name: str, subject: str | None, check: Callable[[str], str], later: str | None = None
) -> CheckResult:
    """Check an option's value or a stack's output; `later` is the fix after deploying the stack."""
    if subject is None:
        return CheckResult(name, "skipped", "created with the stack", later)
    return run_check(name, partial(check, subject))


def _check_stack(
    session: "boto3.Session", name: str, deploy: str, *, is_needed: bool
) -> tuple[Stack | None, CheckResult]:
    instead = "or launch without a stack: `--role`, `--image` and `--output s3://…`"
    try:
        stack = read_stack(session, name)
    except BackendError as error:
        # A launch that needs the stack would fail to read it as well.
        if not is_needed:
            return None, CheckResult("stack", "unknown", message_of(error))
        return None, CheckResult("stack", "missing", message_of(error), f"fix that, {instead}")
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
