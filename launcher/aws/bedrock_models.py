"""Amazon Bedrock's models, by id, inference profile or ARN, and what a policy needs of them."""

import re
from typing import TYPE_CHECKING

from launcher.aws.sessions import client, partition, translate_errors

if TYPE_CHECKING:
    import boto3

# GEOGRAPHY.PROVIDER.MODEL; a model's own id has no geography, and its name may contain a dot.
PROFILE_ID = re.compile(r"(?P<geography>[a-z-]+)\.(?P<model>[a-z0-9]+\.\S+)")
PROFILE_ARN = re.compile(r"arn:[\w-]+:bedrock:[\w-]+:\d{12}:(?:application-)?inference-profile/\S+")


def geography(model: str) -> str | None:
    """Return where a profile's requests go: `us`, `global`, …; None for a model's own id."""
    found = PROFILE_ID.fullmatch(model.rpartition("/")[2])
    return found["geography"] if found else None


def foundation_model(model: str) -> str | None:
    """Return the id of the model behind a name; None if the name does not contain it."""
    kind, slash, name = model.rpartition("/")
    if slash and not kind.endswith((":foundation-model", ":inference-profile")):
        return None
    found = PROFILE_ID.fullmatch(name)
    return found["model"] if found else name


def model_arns(session: "boto3.Session", model: str) -> list[str]:
    """Return the resources of a policy that lets a job ask a model.

    An inference profile needs itself, and its models in all regions that it may send requests to.
    """
    if PROFILE_ARN.fullmatch(model) or PROFILE_ID.fullmatch(model):
        with translate_errors(f"finding the inference profile `{model}`"):
            bedrock = client(session, "bedrock")
            found = bedrock.get_inference_profile(inferenceProfileIdentifier=model)
        return [found["inferenceProfileArn"], *(each["modelArn"] for each in found["models"])]
    if model.startswith("arn:"):
        return [model]
    return [f"arn:{partition(session)}:bedrock:{session.region_name}::foundation-model/{model}"]
