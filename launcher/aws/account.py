"""What a launch needs of an AWS account: identity, role, bucket, image, quota, price.

Each check returns what it found, and raises `Missing` with what to do, or `BackendError` where it
was not allowed to look. Nothing is changed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws import sessions as aws
from launcher.aws.pricing import price_of
from launcher.aws.stack import DEFAULT_STACK
from launcher.plan.checks import Missing, message_of

if TYPE_CHECKING:
    import boto3

ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([\w-]+)\.amazonaws\.com(?:\.cn)?")
ROLE = re.compile(r"arn:[\w-]+:iam::(\d{12}):role/(?:\S*/)?([\w+=,.@-]+)")
# What follows the registry: a repository, its tag, its digest.
IMAGE = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@(sha256:[0-9a-f]{64}))?")
SAGEMAKER = "sagemaker.amazonaws.com"
# What nobody has changed may be listed among the defaults alone.
QUOTA_LISTS = ("list_service_quotas", "list_aws_default_service_quotas")


def options(session: "boto3.Session") -> str:
    """Write the options that lead a command, ours or AWS's own, to this account and region."""
    profile = "" if session.profile_name == "default" else f" --profile {session.profile_name}"
    return f"{profile} --region {session.region_name}"


def deploy_command(session: "boto3.Session", stack_name: str) -> str:
    stack = "" if stack_name == DEFAULT_STACK else f" --stack {stack_name}"
    return f"`embedtune infra deploy{stack}{options(session)}`"


def push_commands(reference: str) -> str:
    return f"`embedtune image build`, then `embedtune image push embedtune {reference}`"


def settings(session: "boto3.Session") -> str:
    from botocore.exceptions import UnknownRegionError

    region = session.region_name
    try:
        partition = session.get_partition_for_region(region)
        known = session.get_available_regions("sagemaker", partition)
    except UnknownRegionError:
        known = []
    if region not in known:
        msg = f"This botocore knows no SageMaker in `{region}`; see to the spelling of `--region`."
        raise BackendError(msg)
    profile = session.profile_name
    return f"region {region}" + ("" if profile == "default" else f", profile {profile}")


def identity(session: "boto3.Session") -> str:
    try:
        return str(_caller(session)["Arn"])
    except BackendError as error:
        # Without an identity nothing else can be asked, whatever the reason.
        fix = "`aws sso login` or `aws configure`, until `aws sts get-caller-identity` answers"
        raise Missing(message_of(error), fix) from None


def _caller(session: "boto3.Session") -> dict[str, str]:
    with aws.explained("asking AWS who you are"):
        return dict(aws.client(session, "sts").get_caller_identity())


def role(session: "boto3.Session", deploy: str, arn: str) -> str:
    found = ROLE.fullmatch(arn)
    if not found:
        what = f"`{arn}` is not the ARN of a role"
        raise Missing(what, "`--role arn:aws:iam::ACCOUNT:role/NAME`")
    account, name = found.groups()
    if account != (own := _caller(session)["Account"]):
        msg = f"`{arn}` is not of your account, {own}, and cannot be looked at from here."
        raise BackendError(msg)
    absent = f"there is no role `{name}`", f"{deploy}, or `--role` with another"
    with aws.explained(f"looking at the role {name}"), _missing_if(("NoSuchEntity",), *absent):
        answer = aws.client(session, "iam").get_role(RoleName=name)
    if not lets_sagemaker_in(answer["Role"]["AssumeRolePolicyDocument"]):
        fix = (
            f"{deploy}, or let `{SAGEMAKER}` do `sts:AssumeRole`: `aws iam "
            f"update-assume-role-policy --role-name {name} --policy-document file://trust.json`"
        )
        what = f"the role `{name}` does not let SageMaker assume it"
        raise Missing(what, fix)
    return f"{arn}, which SageMaker may assume"


def lets_sagemaker_in(policy: dict[str, Any]) -> bool:
    """Whether a trust policy names SageMaker; its conditions are not judged."""
    for statement in _listed(policy.get("Statement", [])):
        principal = statement.get("Principal", {})
        services = [SAGEMAKER] if principal == "*" else _listed(principal.get("Service", []))
        actions = {"sts:AssumeRole", "sts:*", "*"} & set(_listed(statement.get("Action", [])))
        if statement.get("Effect") == "Allow" and actions and SAGEMAKER in services:
            return True
    return False


def _listed(one_or_more: Any) -> list[Any]:  # noqa: ANN401  JSON
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


def bucket(session: "boto3.Session", deploy: str, name: str) -> str:
    absent = f"there is no bucket `{name}`", f"{deploy}, or `--output s3://…` with another"
    s3 = aws.client(session, "s3")
    with aws.explained(f"looking at the bucket {name}"), _missing_if(aws.NO_BUCKET, *absent):
        answer = s3.head_bucket(Bucket=name)
    # Other servers that speak S3's language do not all tell.
    region = answer.get("BucketRegion") or session.region_name
    if region != session.region_name:
        found = f"the bucket `{name}` is in {region}; a job reads and writes in its own region only"
        raise Missing(found, f"`--region {region}`, or `--output s3://…` with a bucket here")
    return f"{name} in {region}"


def image(session: "boto3.Session", reference: str) -> str:
    if not ECR.fullmatch(reference.partition("/")[0]):
        msg = f"`{reference}` is in no registry of ECR, and is not looked for elsewhere."
        raise BackendError(msg)
    return _pinned(session, reference)


def resolve_image(session: "boto3.Session", reference: str) -> str:
    """Pin an image of ECR to its digest: a tag may mean another image by the time it is pulled.

    Without tag and digest it is the repository's newest image. A reference to another registry is
    returned as it is. Raises `BackendError` where there is no such image.
    """
    try:
        return _pinned(session, reference)
    except Missing as missing:
        raise BackendError(str(missing)) from None


def _pinned(session: "boto3.Session", reference: str) -> str:
    registry, _, rest = reference.partition("/")
    place, parts = ECR.fullmatch(registry), IMAGE.fullmatch(rest)
    if not (place and parts):
        return reference
    repository, tag, digest = parts.groups()
    asked: dict[str, Any] = {"registryId": place[1], "repositoryName": repository}
    if digest or tag:
        asked["imageIds"] = [{"imageDigest": digest} if digest else {"imageTag": tag}]
    else:
        # One without a tag is a part of another, or has been replaced.
        asked["filter"] = {"tagStatus": "TAGGED"}
    address = f"{registry}/{repository}"
    push = push_commands(f"{address}:{tag}" if tag else address)
    no_repository = f"there is no repository `{address}`", f"`embedtune infra deploy`, then {push}"
    no_image = f"there is no image `{reference}`", push
    ecr = aws.client(session, "ecr", place[2])
    with (
        aws.explained(f"looking for the image {reference}"),
        _missing_if(("RepositoryNotFoundException",), *no_repository),
        _missing_if(("ImageNotFoundException",), *no_image),
    ):
        images = list(aws.listed(ecr, "describe_images", "imageDetails", **asked))
    if not images:
        what = f"the repository `{address}` holds no image"
        raise Missing(what, push)
    newest = max(images, key=lambda found: found["imagePushedAt"])
    return f"{address}@{newest['imageDigest']}"


def quota(session: "boto3.Session", instance_type: str, instances: int, *, spot: bool) -> str:
    name = f"{instance_type} for {'spot ' if spot else ''}training job usage"
    place = f"https://{session.region_name}.console.aws.amazon.com/servicequotas/home/services"
    found = _find_quota(session, name)
    if found is None:
        msg = f"There is no quota of the name `{name}`; see {place}/sagemaker/quotas"
        raise BackendError(msg)
    if found["Value"] >= instances:
        return f"{found['Value']:g} for {name}"
    code = found["QuotaCode"]
    fix = (
        "`aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code "
        f"{code} --desired-value {instances}{options(session)}`, or {place}/sagemaker/quotas/{code}"
    )
    what = f"{found['Value']:g} for {name}, of {instances} needed"
    raise Missing(what, fix)


def _find_quota(session: "boto3.Session", name: str) -> dict[str, Any] | None:
    quotas = aws.client(session, "service-quotas")
    with aws.explained("reading the quotas"):
        for operation in QUOTA_LISTS:
            asked = {"ServiceCode": "sagemaker", "PaginationConfig": {"PageSize": 100}}
            for found in aws.listed(quotas, operation, "Quotas", **asked):
                if found["QuotaName"] == name:
                    return dict(found)
    return None


def price(session: "boto3.Session", instance_type: str) -> str:
    found = price_of(instance_type, session.region_name, session)
    if found.usd_per_hour is None:
        raise BackendError(found.basis)
    return f"${found.usd_per_hour:.3f} an hour and instance; {found.basis}"


@contextmanager
def _missing_if(codes: tuple[str, ...], found: str, fix: str) -> Iterator[None]:
    """Take AWS's refusals with these codes for the absence of what was asked for."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if aws.error_code(error) in codes:
            raise Missing(found, fix) from None
        raise
