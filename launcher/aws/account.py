"""Check what a launch needs in the AWS account: identity, role, bucket, price.

Each check returns what it found. It raises `Missing` with a fix, or `BackendError` if it cannot
tell (for instance without permission). Checks change nothing.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws import sessions as aws
from launcher.aws.pricing import price_of
from launcher.aws.stack import DEFAULT_STACK
from launcher.plan.checks import Missing, message_of

if TYPE_CHECKING:
    import boto3

ROLE = re.compile(r"arn:[\w-]+:iam::(\d{12}):role/(?:\S*/)?([\w+=,.@-]+)")
SAGEMAKER = "sagemaker.amazonaws.com"
CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
    "aws-eusc": "console.amazonaws-eusc.eu",
}


def options(session: "boto3.Session") -> str:
    """Format `--profile` and `--region`, as both `embedtune` and `aws` take them."""
    profile = "" if session.profile_name == "default" else f" --profile {session.profile_name}"
    return f"{profile} --region {session.region_name}"


def stack_option(stack_name: str) -> str:
    return "" if stack_name == DEFAULT_STACK else f" --stack {stack_name}"


def deploy_command(session: "boto3.Session", stack_name: str) -> str:
    return f"`embedtune infra deploy{stack_option(stack_name)}{options(session)}`"


def require_models(models: Sequence[str], allowed: Sequence[str], stack_name: str) -> None:
    """Raise `BackendError` if the stack's role may not ask a model of Amazon Bedrock.

    `allowed` are the ARNs of its policy, `models` ids, ids of inference profiles, or ARNs.
    """
    for model in models:
        if not any(model in (arn, arn.partition("/")[2]) for arn in allowed):
            given = " ".join(f"--bedrock-model {each}" for each in models)
            deploy = f"embedtune infra deploy{stack_option(stack_name)} {given}"
            msg = f"The role of the stack may not ask `bedrock:{model}`. Name all models that jobs "
            raise BackendError(msg + f"may ask: `{deploy}`, or use another `--role`.")


def console(session: "boto3.Session") -> str:
    """Return the address of AWS's console for the session's region."""
    domain = CONSOLES.get(aws.partition(session), CONSOLES["aws"])
    return f"https://{session.region_name}.{domain}"


def settings(session: "boto3.Session") -> str:
    region = session.region_name
    if region not in session.get_available_regions("sagemaker", aws.partition(session)):
        msg = f"botocore lists no SageMaker in the region `{region}`; check `--region`."
        raise BackendError(msg)
    profile = session.profile_name
    return f"region {region}" + ("" if profile == "default" else f", profile {profile}")


def identity(session: "boto3.Session") -> str:
    try:
        return str(_caller(session)["Arn"])
    except BackendError as error:
        # Every other check needs an identity.
        fix = "`aws sso login` or `aws configure`, until `aws sts get-caller-identity` works"
        raise Missing(message_of(error), fix) from None


def _caller(session: "boto3.Session") -> dict[str, str]:
    with aws.translate_errors("asking AWS who you are"):
        return dict(aws.client(session, "sts").get_caller_identity())


def role(session: "boto3.Session", deploy: str, arn: str) -> str:
    found = ROLE.fullmatch(arn)
    if not found:
        what = f"`{arn}` is not the ARN of a role"
        raise Missing(what, f"`--role arn:{aws.partition(session)}:iam::ACCOUNT:role/NAME`")
    account, name = found.groups()
    if account != (own := _caller(session)["Account"]):
        msg = f"`{arn}` belongs to another account than yours ({own}), so it cannot be checked."
        raise BackendError(msg)
    absent = f"there is no role `{name}`", f"{deploy}, or `--role` with another"
    with (
        aws.translate_errors(f"reading the role {name}"),
        missing_if(("NoSuchEntity",), *absent),
    ):
        answer = aws.client(session, "iam").get_role(RoleName=name)
    if not trusts_sagemaker(answer["Role"]["AssumeRolePolicyDocument"]):
        fix = (
            f"{deploy}, or allow `{SAGEMAKER}` to call `sts:AssumeRole`: `aws iam "
            f"update-assume-role-policy --role-name {name} --policy-document file://trust.json`"
        )
        what = f"the role `{name}` does not let SageMaker assume it"
        raise Missing(what, fix)
    return f"{arn}, which SageMaker may assume"


def trusts_sagemaker(policy: dict[str, Any]) -> bool:
    """Whether a trust policy names SageMaker; conditions are not evaluated."""
    for statement in _as_list(policy.get("Statement", [])):
        principal = statement.get("Principal", {})
        services = [SAGEMAKER] if principal == "*" else _as_list(principal.get("Service", []))
        actions = {"sts:AssumeRole", "sts:*", "*"} & set(_as_list(statement.get("Action", [])))
        if statement.get("Effect") == "Allow" and actions and SAGEMAKER in services:
            return True
    return False


def _as_list(one_or_more: Any) -> list[Any]:  # noqa: ANN401  JSON
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


def bucket(session: "boto3.Session", deploy: str, name: str) -> str:
    absent = f"there is no bucket `{name}`", f"{deploy}, or `--output s3://…` with another"
    s3 = aws.client(session, "s3")
    with aws.translate_errors(f"reading the bucket {name}"), missing_if(aws.NO_BUCKET, *absent):
        answer = s3.head_bucket(Bucket=name)
    # Some S3-compatible servers do not report the region.
    region = answer.get("BucketRegion") or session.region_name
    if region != session.region_name:
        found = f"the bucket `{name}` is in {region}; jobs use buckets of their own region only"
        raise Missing(found, f"`--region {region}`, or `--output s3://…` with a bucket here")
    return f"{name} in {region}"


def price(session: "boto3.Session", instance_type: str) -> str:
    found = price_of(instance_type, session.region_name, session)
    if found.usd_per_hour is None:
        raise BackendError(found.basis)
    return f"${found.usd_per_hour:.3f} per hour and instance; {found.basis}"


@contextmanager
def missing_if(codes: tuple[str, ...], found: str, fix: str) -> Iterator[None]:
    """Turn AWS errors with these codes into `Missing`."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if aws.error_code(error) in codes:
            raise Missing(found, fix) from None
        raise
