"""SageMaker's quotas: how many machines of a type an account may use at once."""

from typing import TYPE_CHECKING, Any, Literal

from job.core.errors import BackendError
from launcher.aws import sessions as aws
from launcher.aws.account import console, options
from launcher.plan.checks import Missing

if TYPE_CHECKING:
    import boto3

Usage = Literal["training job", "spot training job", "training warm pool"]
# Codes of quotas, the same in every account and region, from public configurations. The quota's
# name is compared, so a wrong code costs a request. Other quotas are found by their name in lists
# of some thousands.
CODES = {
    "ml.g4dn.xlarge for training job usage": "L-3F53BF0F",
    "ml.g5.xlarge for training job usage": "L-B6D80D9C",
    "ml.g5.2xlarge for training job usage": "L-2D6DEB3C",
    "ml.g5.2xlarge for training warm pool usage": "L-822C5A39",
}
# A quota that was never changed may be listed among the defaults only.
LISTS = ("list_service_quotas", "list_aws_default_service_quotas")
MAXIMUM_A_PAGE = 100


def check_quota(
    session: "boto3.Session", instance_type: str, instances: int, usage: Usage, note: str = ""
) -> str:
    """Return the quota; raises `Missing`, ending with `note`, if it is too small."""
    name = f"{instance_type} for {usage} usage"
    found = _find(session, name)
    page = f"{console(session)}/servicequotas/home/services/sagemaker/quotas"
    if found is None:
        msg = f"There is no quota named `{name}`; see {page}"
        raise BackendError(msg)
    if found["Value"] >= instances:
        return f"{found['Value']:g} for {name}"
    code = found["QuotaCode"]
    fix = (
        "`aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code "
        f"{code} --desired-value {instances}{options(session)}`, or {page}/{code}"
    )
    what = f"{found['Value']:g} for {name}; {instances} needed{note}"
    raise Missing(what, fix)


def _find(session: "boto3.Session", name: str) -> dict[str, Any] | None:
    client = aws.client(session, "service-quotas")
    with aws.translate_errors("reading the quotas"):
        if found := _find_by_code(client, name):
            return found
        for operation in LISTS:
            query = {"ServiceCode": "sagemaker", "PaginationConfig": {"PageSize": MAXIMUM_A_PAGE}}
            for found in aws.paginate(client, operation, "Quotas", **query):
                if found["QuotaName"] == name:
                    return dict(found)
    return None


def _find_by_code(client: Any, name: str) -> dict[str, Any] | None:  # noqa: ANN401
    from botocore.exceptions import ClientError

    if name not in CODES:
        return None
    try:
        answer = client.get_service_quota(ServiceCode="sagemaker", QuotaCode=CODES[name])
    except ClientError as error:
        # A quota without a value of the account has only that of the defaults.
        if aws.error_code(error) == "NoSuchResourceException":
            return None
        raise
    found: dict[str, Any] = answer["Quota"]
    return found if found["QuotaName"] == name else None
