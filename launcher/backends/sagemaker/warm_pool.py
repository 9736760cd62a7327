"""A job's warm pool: machines that `--keep-alive` keeps, and bills, after the job's end."""

from typing import TYPE_CHECKING, Any

from launcher.aws import sessions
from launcher.aws.pricing import Price
from launcher.backends.sagemaker.job_outcome import machines

if TYPE_CHECKING:
    import boto3

AVAILABLE = "Available"


def pool_facts(found: dict[str, Any], price: Price) -> dict[str, Any] | None:
    """Return status and cost of a described job's warm pool; None if it has none."""
    pool = found.get("WarmPoolStatus")
    if not pool:
        return None
    seconds = pool.get("ResourceRetainedBillableTimeInSeconds", 0)
    usd = price.usd(seconds * machines(found)[1])
    return {
        "status": pool["Status"],
        "billable_seconds": seconds,
        "usd": None if usd is None else round(usd, 4),
        "reused_by": pool.get("ReusedByJob"),
    }


def end_pool(session: "boto3.Session", job: str) -> None:
    with sessions.translate_errors(f"ending the warm pool of {job}"):
        client = sessions.client(session, "sagemaker")
        no_time = {"KeepAlivePeriodInSeconds": 0}
        client.update_training_job(TrainingJobName=job, ResourceConfig=no_time)
