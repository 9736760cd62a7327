"""Find the stack of a launch, and check account, inputs and cost before the job starts."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from job.core.errors import BackendError, DataError
from job.storage.stores import S3, split_uri
from launcher.aws import sessions
from launcher.aws.duration import forecast
from launcher.aws.pricing import START_UP_SECONDS, Price, price_of
from launcher.aws.stack import Stack, read_stack, require_stack
from launcher.plan.machine import MachineOptions

if TYPE_CHECKING:
    import boto3

    from launcher.plan.plan import Plan

SECURITY_GROUP_NOTE = (
    "The instances communicate with each other: one of their security groups must allow inbound "
    "and outbound traffic between its members on all ports."
)


def find_stack(machine: MachineOptions) -> Stack:
    """Return the stack, with role and image of the options; not read if both are given."""
    session = _session(machine)
    if machine.role and machine.image:
        return Stack(session.region_name, machine.role, machine.image)
    stack = require_stack(session, machine.stack)
    role_arn, image = machine.role or stack.role_arn, machine.image or stack.image
    return replace(stack, role_arn=role_arn, image=image)


def stack_output(machine: MachineOptions) -> str | None:
    """Return the URI for results in the stack's bucket; None without a stack."""
    stack = read_stack(_session(machine), machine.stack)
    return stack.prefix("runs") if stack else None


def _session(machine: MachineOptions) -> "boto3.Session":
    session = sessions.open_session(machine.profile, machine.region)
    sessions.set_environment(machine.profile, session.region_name)
    return session


def complete_request(session: "boto3.Session", plan: "Plan", document: dict[str, Any]) -> Price:
    """Check the account, then add the image's digest and the machine's price to the request.

    Raises `BackendError` with the first failed check and its fix. Asks the user before a job that
    may cost more than `--max-cost`.
    """
    from launcher.aws.account import resolve_image
    from launcher.backends.sagemaker.account_checks import check_account

    machine = plan.machine
    specification = document["AlgorithmSpecification"]
    bucket = plan.spec.output.uri.removeprefix(S3).partition("/")[0]
    several_kinds = len(machine.instance_types) > 1
    given = replace(machine, image=specification["TrainingImage"], role=document["RoleArn"])
    for result in check_account(session, given, bucket):
        if result.state == "missing" and not (result.name == "quota" and several_kinds):
            msg = f"{result.name}: {result.found}. To fix it: {result.fix}."
            raise BackendError(msg)
    specification["TrainingImage"] = resolve_image(session, specification["TrainingImage"])
    for channel in document["InputDataConfig"]:
        if plan.sources.get(channel["ChannelName"], "").startswith(S3):
            _check_source(session, channel["DataSource"]["S3DataSource"]["S3Uri"])
    if machine.instances > 1 and "VpcConfig" in document:
        click.echo(SECURITY_GROUP_NOTE, err=True)
    price = _confirm_cost(session, plan)
    if price.usd_per_hour is not None:
        each = price.usd_per_hour * machine.instances
        document["Environment"] |= {"EMBEDTUNE_PRICE_PER_HOUR": f"{each:g}"}
    return price


def _check_source(session: "boto3.Session", uri: str) -> None:
    """Raise if a channel is empty, or in another region than the job."""
    from botocore.exceptions import ClientError

    bucket, s3 = split_uri(uri)[0], sessions.client(session, "s3")
    with sessions.translate_errors(f"reading `{uri}`"):
        try:
            region = s3.head_bucket(Bucket=bucket).get("BucketRegion")
            prefix = uri.removeprefix(f"{S3}{bucket}/")
            found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]
        except ClientError as error:
            if sessions.error_code(error) in sessions.DENIED:
                # The job's role may have permissions that the caller lacks.
                return
            if sessions.error_code(error) not in sessions.NO_BUCKET:
                raise
            found, region = 0, None
    if not found:
        msg = f"There are no objects at `{uri}`."
        raise DataError(msg)
    if region not in (None, session.region_name):
        msg = (
            f"`{uri}` is in {region}, but a job reads in its own region only: set `--region "
            f"{region}`, or copy the data to a bucket in {session.region_name}."
        )
        raise BackendError(msg)


def _confirm_cost(session: "boto3.Session", plan: "Plan") -> Price:
    """Print the estimated and the maximum cost; above `--max-cost` the user must confirm."""
    machine = plan.machine
    kind = machine.instance_types[0]
    price = price_of(kind, session.region_name, session)
    most = price.usd(machine.instances * machine.max_runtime)
    for line in _cost_lines(plan, price, most):
        click.echo(line, err=True)
    if (most is None or most > machine.max_cost) and not machine.yes:
        if not sys.stdin.isatty():
            limit = f"`--max-cost {machine.max_cost:g}`"
            msg = f"The job may cost more than {limit}: raise the limit, or confirm with `--yes`."
            raise BackendError(msg)
        click.confirm("The job may cost more than --max-cost. Start it?", abort=True, err=True)
    return price


def _cost_lines(plan: "Plan", price: Price, most: float | None) -> Iterator[str]:
    machine = plan.machine
    found = forecast(plan)
    if found and found.seconds is not None:
        minutes = found.seconds / 60
        cost = price.usd(machine.instances * found.seconds)
        usd = "" if cost is None else f", ${cost:.2f}"
        waiting = f"{START_UP_SECONDS / 60:.0f} min until it starts"
        yield f"About {minutes:.1f} min{usd}, after {waiting} ({found.basis})"
        if found.advice:
            yield found.advice
    kind = machine.instance_types[0]
    bound = "" if most is None else f": at most ${most:.2f}"
    hours = machine.max_runtime / 3600
    yield f"{machine.instances} × {kind} for at most {hours:g} h{bound} ({price.basis})"
