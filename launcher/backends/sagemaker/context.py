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
from launcher.aws.pricing import START_UP_SECONDS, Price, dearest, price_of
from launcher.aws.stack import Stack, read_stack, require_stack
from launcher.backends.sagemaker.channels import correct_channels, sources_in_s3
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
    """Check the account and the sources in S3, then complete the request.

    It gets the image's digest, the machine's price, and channels of files or folders as S3 has
    them.

    Raises `BackendError` with the first failed check and its fix. Asks the user before a job that
    may cost more than `--max-cost`.
    """
    from launcher.aws.ecr import resolve_image
    from launcher.backends.sagemaker.account_checks import check_account

    machine = plan.machine
    specification = document["AlgorithmSpecification"]
    bucket = plan.spec.output.uri.removeprefix(S3).partition("/")[0]
    given = replace(machine, image=specification["TrainingImage"], role=document["RoleArn"])
    for result in check_account(session, given, bucket):
        if result.state == "missing":
            msg = f"{result.name}: {result.found}. To fix it: {result.fix}."
            raise BackendError(msg)
        if result.name == "driver" or result.state == "doubtful":
            click.echo(f"{result.name}: {result.found}", err=True)
    specification["TrainingImage"] = resolve_image(session, specification["TrainingImage"])
    found = {name: _is_file(session, uri) for name, uri in sources_in_s3(plan).items()}
    correct_channels(document, plan, {n: kind for n, kind in found.items() if kind is not None})
    if machine.instances > 1 and "VpcConfig" in document:
        click.echo(SECURITY_GROUP_NOTE, err=True)
    price = _confirm_cost(session, plan)
    # The report has no room for the basis, so it shows no price of another region.
    if price.usd_per_hour is not None and price.region == session.region_name:
        each = price.usd_per_hour * machine.instances
        document["Environment"] |= {"EMBEDTUNE_PRICE_PER_HOUR": f"{each:g}"}
    return price


def _is_file(session: "boto3.Session", uri: str) -> bool | None:
    """Return whether a source in S3 is a file, not a folder; None if it may not be looked at.

    Raises if there is nothing, or if it is in another region than the job.
    """
    from botocore.exceptions import ClientError

    (bucket, key), s3 = split_uri(uri), sessions.client(session, "s3")
    with sessions.translate_errors(f"reading `{uri}`"):
        try:
            region = s3.head_bucket(Bucket=bucket).get("BucketRegion")
            is_file = not uri.endswith("/") and bool(key) and _exists(s3, bucket, key)
            folder = f"{key}/" if key else ""
            query = {"Bucket": bucket, "Prefix": folder, "MaxKeys": 1}
            found = is_file or s3.list_objects_v2(**query)["KeyCount"]
        except ClientError as error:
            if sessions.error_code(error) in sessions.DENIED:
                # The job's role may have permissions that the caller lacks.
                return None
            if sessions.error_code(error) not in sessions.NO_BUCKET:
                raise
            found, region, is_file = 0, None, False
    if not found:
        msg = f"There are no objects at `{uri}`."
        raise DataError(msg)
    if region not in (None, session.region_name):
        msg = (
            f"`{uri}` is in {region}, but a job reads in its own region only: set `--region "
            f"{region}`, or copy the data to a bucket in {session.region_name}."
        )
        raise BackendError(msg)
    return is_file


def _exists(s3: Any, bucket: str, key: str) -> bool:  # noqa: ANN401  boto3's have no type
    from botocore.exceptions import ClientError

    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if sessions.error_code(error) not in sessions.NO_KEY:
            raise
        return False
    return True


def _confirm_cost(session: "boto3.Session", plan: "Plan") -> Price:
    """Print the estimated and the maximum cost; above `--max-cost` the user must confirm.

    Return the price of the first instance type; the maximum is that of the dearest.
    """
    machine = plan.machine
    prices = {k: price_of(k, session.region_name, session) for k in machine.instance_types}
    price, highest = prices[machine.instance_types[0]], dearest(prices.values())
    for line in (*_estimate_lines(plan, price), *_maximum_lines(plan, highest)):
        click.echo(line, err=True)
    most = highest.usd(machine.instances * (machine.max_runtime + machine.keep_alive))
    if (most is None or most > machine.max_cost) and not machine.yes:
        if not sys.stdin.isatty():
            limit = f"`--max-cost {machine.max_cost:g}`"
            msg = f"The job may cost more than {limit}: raise the limit, or confirm with `--yes`."
            raise BackendError(msg)
        click.confirm("The job may cost more than --max-cost. Start it?", abort=True, err=True)
    return price


def _estimate_lines(plan: "Plan", price: Price) -> Iterator[str]:
    found = forecast(plan)
    if found and found.seconds is not None:
        minutes = found.seconds / 60
        cost = price.usd(plan.machine.instances * found.seconds)
        usd = "" if cost is None else f", ${cost:.2f}"
        waiting = f"{START_UP_SECONDS / 60:.0f} min until it starts"
        yield f"About {minutes:.1f} min{usd}, after {waiting} ({found.basis})"
        if found.advice:
            yield found.advice


def _maximum_lines(plan: "Plan", price: Price) -> Iterator[str]:
    """Yield the maximum cost of the job at this price, and that of its warm pool."""
    machine = plan.machine
    kinds = " or ".join(machine.instance_types)
    priced = "at the price of the dearest, " if len(machine.instance_types) > 1 else ""
    job = _at_most(price, machine.instances * machine.max_runtime)
    hours = machine.max_runtime / 3600
    yield f"{machine.instances} × {kinds} for at most {hours:g} h{job} ({priced}{price.basis})"
    if machine.keep_alive:
        pool = _at_most(price, machine.instances * machine.keep_alive)
        yield (
            f"Then kept for at most {machine.keep_alive / 60:g} min{pool}, also after a failure, "
            f"unless a similar job takes over; to end it: embedtune stop {plan.name} --pool"
        )


def _at_most(price: Price, seconds: float) -> str:
    usd = price.usd(seconds)
    return "" if usd is None else f": at most ${usd:.2f}"
