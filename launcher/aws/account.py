"""Check what a launch needs in the AWS account: identity, role, bucket, image, quota, price.

Each check returns what it found. It raises `Missing` with a fix, or `BackendError` if it cannot
tell (for instance without permission). Checks change nothing.
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
# The part after the registry: repository, tag, digest.
IMAGE = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@(sha256:[0-9a-f]{64}))?")
SAGEMAKER = "sagemaker.amazonaws.com"
# A quota that was never changed may be listed among the defaults only.
QUOTA_LISTS = ("list_service_quotas", "list_aws_default_service_quotas")


def options(session: "boto3.Session") -> str:
    """Format `--profile` and `--region`, as both `embedtune` and `aws` take them."""
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
        raise Missing(what, "`--role arn:aws:iam::ACCOUNT:role/NAME`")
    account, name = found.groups()
    if account != (own := _caller(session)["Account"]):
        msg = f"`{arn}` belongs to another account than yours ({own}), so it cannot be checked."
        raise BackendError(msg)
    absent = f"there is no role `{name}`", f"{deploy}, or `--role` with another"
    with (
        aws.translate_errors(f"reading the role {name}"),
        _missing_if(("NoSuchEntity",), *absent),
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
    with aws.translate_errors(f"reading the bucket {name}"), _missing_if(aws.NO_BUCKET, *absent):
        answer = s3.head_bucket(Bucket=name)
    # Some S3-compatible servers do not report the region.
    region = answer.get("BucketRegion") or session.region_name
    if region != session.region_name:
        found = f"the bucket `{name}` is in {region}; jobs use buckets of their own region only"
        raise Missing(found, f"`--region {region}`, or `--output s3://…` with a bucket here")
    return f"{name} in {region}"


def image(session: "boto3.Session", reference: str) -> str:
    if not ECR.fullmatch(reference.partition("/")[0]):
        msg = f"`{reference}` is not in Amazon ECR; other registries are not checked."
        raise BackendError(msg)
    return _pinned(session, reference)


def resolve_image(session: "boto3.Session", reference: str) -> str:
    """Pin an ECR image to its digest: a tag may point to another image by the time it is pulled.

    Without tag and digest, use the repository's newest tagged image. References to other
    registries are returned unchanged. Raises `BackendError` if the image does not exist.
    """
    try:
        return _pinned(session, reference)
    except Missing as missing:
        raise BackendError(str(missing)) from None


def _pinned(session: "boto3.Session", reference: str) -> str:
    registry, _, rest = reference.partition("/")
    ecr_host, parts = ECR.fullmatch(registry), IMAGE.fullmatch(rest)
    if not (ecr_host and parts):
        return reference
    repository, tag, digest = parts.groups()
    query: dict[str, Any] = {"registryId": ecr_host[1], "repositoryName": repository}
    if digest or tag:
        query["imageIds"] = [{"imageDigest": digest} if digest else {"imageTag": tag}]
    else:
        # An untagged image is part of an index, or was replaced.
        query["filter"] = {"tagStatus": "TAGGED"}
    address = f"{registry}/{repository}"
    push = push_commands(f"{address}:{tag}" if tag else address)
    no_repository = f"there is no repository `{address}`", f"`embedtune infra deploy`, then {push}"
    no_image = f"there is no image `{reference}`", push
    ecr = aws.client(session, "ecr", ecr_host[2])
    with (
        aws.translate_errors(f"finding the image {reference}"),
        _missing_if(("RepositoryNotFoundException",), *no_repository),
        _missing_if(("ImageNotFoundException",), *no_image),
    ):
        images = list(aws.paginate(ecr, "describe_images", "imageDetails", **query))
    if not images:
        what = f"the repository `{address}` is empty"
        raise Missing(what, push)
    newest = max(images, key=lambda found: found["imagePushedAt"])
    return f"{address}@{newest['imageDigest']}"


def quota(session: "boto3.Session", instance_type: str, instances: int, *, spot: bool) -> str:
    name = f"{instance_type} for {'spot ' if spot else ''}training job usage"
    console = f"https://{session.region_name}.console.aws.amazon.com/servicequotas/home/services"
    found = _find_quota(session, name)
    if found is None:
        msg = f"There is no quota named `{name}`; see {console}/sagemaker/quotas"
        raise BackendError(msg)
    if found["Value"] >= instances:
        return f"{found['Value']:g} for {name}"
    code = found["QuotaCode"]
    fix = (
        "`aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code "
        f"{code} --desired-value {instances}{options(session)}`, or "
        f"{console}/sagemaker/quotas/{code}"
    )
    what = f"{found['Value']:g} for {name}; {instances} needed"
    raise Missing(what, fix)


def _find_quota(session: "boto3.Session", name: str) -> dict[str, Any] | None:
    quotas = aws.client(session, "service-quotas")
    with aws.translate_errors("reading the quotas"):
        for operation in QUOTA_LISTS:
            query = {"ServiceCode": "sagemaker", "PaginationConfig": {"PageSize": 100}}
            for found in aws.paginate(quotas, operation, "Quotas", **query):
                if found["QuotaName"] == name:
                    return dict(found)
    return None


def price(session: "boto3.Session", instance_type: str) -> str:
    found = price_of(instance_type, session.region_name, session)
    if found.usd_per_hour is None:
        raise BackendError(found.basis)
    return f"${found.usd_per_hour:.3f} per hour and instance; {found.basis}"


@contextmanager
def _missing_if(codes: tuple[str, ...], found: str, fix: str) -> Iterator[None]:
    """Turn AWS errors with these codes into `Missing`."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if aws.error_code(error) in codes:
            raise Missing(found, fix) from None
        raise
