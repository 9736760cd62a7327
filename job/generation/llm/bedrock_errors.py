"""What Amazon Bedrock's errors mean, and what to do about each."""

import re
from typing import Any

from job.core.errors import BackendError, first_line
from job.generation.llm.retries import BUSY, LATER

SHOWN = 400
# Profiles of several regions begin with their geography; newer ones have others, such as `jp.`.
GEOGRAPHIES = {"us-gov-": "us-gov", "us-": "us", "eu-": "eu", "ap-": "apac"}
CREDENTIALS = re.compile(
    "Expired|InvalidClientTokenId|InvalidSignature|IncompleteSignature|SignatureDoesNotMatch"
    "|UnrecognizedClient|MissingAuthenticationToken"
)
LOG_IN = "log in again (`aws sso login`), or check AWS_PROFILE and `aws sts get-caller-identity`"
SET_KEYS = (
    "no AWS credentials were found; log in (`aws sso login`), set AWS_PROFILE, or "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
)
LIST_MODELS = "`aws bedrock list-foundation-models --region {region}`"
CHECK_ID = f"Check the id, and that the region offers the model: {LIST_MODELS}."
CONSOLE = "in Amazon Bedrock's console"
# Of errors that all requests would meet, by code and by a part of AWS's text, in this order.
REMEDIES = {
    "ValidationException": {
        "on-demand throughput": "Use an inference profile that has the model, such as "
        "`bedrock:{profile}`: `aws bedrock list-inference-profiles --region {region}`.",
        "model identifier|modelId": CHECK_ID,
        "maximum tokens you requested": "Lower `generation.max_output_tokens`.",
        "peration not allowed": f"The account may not use the model: try it {CONSOLE}, or ask AWS.",
    },
    "AccessDeniedException": {
        "(?i)marketplace|payment|subscription": "It is enabled for the account once somebody who "
        f"may subscribe to it in AWS Marketplace has used it, such as {CONSOLE}.",
        "not authorized to perform": "Allow `bedrock:InvokeModel` on it; for jobs on SageMaker: "
        "`embedtune infra deploy --bedrock-model {model}`.",
        "": f"Enable the model for the account {CONSOLE}, or use a region that offers it "
        f"(AWS_REGION): {LIST_MODELS}.",
    },
    "ResourceNotFoundException": {
        "use case": f"Submit your use case {CONSOLE}, once for the account.",
        "(?i)legacy|end of its life": f"Choose a newer model: {LIST_MODELS}.",
        "": CHECK_ID,
    },
    "ThrottlingException": {
        "per day": f"Ask for more in Service Quotas, or wait until tomorrow. {LATER}",
        "": f"Lower `generation.concurrency`, or ask for more in Service Quotas. {LATER}",
    },
}


def code(error: Exception) -> str:
    return str(_response(error).get("Error", {}).get("Code") or "unknown")


def message(error: Exception) -> str:
    """Return AWS's text on one line."""
    text = " ".join(str(_response(error).get("Error", {}).get("Message") or error).split())
    return text[:SHOWN].rstrip(".")


def status(error: Exception) -> int:
    """Return the HTTP status of an answer; 0 if there was none."""
    return int(_response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def is_daily_quota(error: Exception) -> bool:
    return code(error) == "ThrottlingException" and "per day" in message(error)


def remedy(error: Exception) -> str | None:
    """Return what to do about an error that all requests would meet; None for other errors."""
    known = REMEDIES.get(code(error), {}).items()
    return next((advice for text, advice in known if re.search(text, message(error))), None)


def explain(error: Exception, model: str, region: str, seconds: float) -> BackendError | None:
    """Return an error of boto3 as one sentence with a remedy; None for any other error."""
    from botocore import exceptions as botocore

    name = f"`bedrock:{model}`"
    if isinstance(error, botocore.ClientError):
        return BackendError(_refusal(error, name, model, region))
    if isinstance(error, botocore.NoRegionError):
        msg = f"No AWS region is set for {name}: set AWS_REGION, or the profile's region."
        return BackendError(msg)
    if isinstance(error, botocore.ReadTimeoutError):
        msg = f"{name} did not answer within {seconds:g} seconds, several times. Set "
        return BackendError(msg + "`generation.timeout` or `concurrency`.")
    if isinstance(error, (botocore.ConnectionError, botocore.HTTPClientError)):
        msg = f"Amazon Bedrock cannot be reached in {region}: {first_line(error)}. Does the region "
        msg += "have it? Without the internet, its VPC needs an endpoint for `bedrock-runtime`."
        return BackendError(msg)
    if isinstance(error, botocore.BotoCoreError):
        return BackendError(f"{name} cannot be asked: {_client_side(error)}.")
    return None


def _refusal(error: Exception, name: str, model: str, region: str) -> str:
    if CREDENTIALS.search(code(error)):
        # AWS's text would repeat parts of the signature.
        reason = f"AWS does not accept the credentials ({code(error)})"
        return f"{name} cannot be asked: {reason}; {LOG_IN}."
    said = f"{name} cannot be asked in {region}: {message(error)} ({code(error)}). "
    advice = remedy(error) or (LATER if status(error) in BUSY else "Check `generation.llm`.")
    return said + advice.format(model=model, region=region, profile=_profile(model, region))


def _profile(model: str, region: str) -> str:
    geographies = (name for start, name in GEOGRAPHIES.items() if region.startswith(start))
    return f"{next(geographies, 'global')}.{model.rpartition('/')[2]}"


def _client_side(error: Exception) -> str:
    from botocore import exceptions as botocore

    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
        return SET_KEYS
    lost = (botocore.SSOError, botocore.LoginError, botocore.TokenRetrievalError)
    if isinstance(error, (*lost, botocore.CredentialRetrievalError)):
        return f"the login has expired or is missing ({type(error).__name__}); {LOG_IN}"
    return first_line(error)


def _response(error: Exception) -> dict[str, Any]:
    found = getattr(error, "response", None)
    return found if isinstance(found, dict) else {}
