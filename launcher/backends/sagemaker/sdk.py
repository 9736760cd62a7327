"""Submit a training job through SageMaker's SDK, of which only `sagemaker.core` is used."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError

if TYPE_CHECKING:
    import boto3

# Variables that name the SDK's configuration files, whose values it would add to every request.
# Which of the variables it reads, and whether it respects them, depends on its version.
CONFIG_VARIABLES = [
    f"SAGEMAKER_{scope}_CONFIG_OVERRIDE" for scope in ("ADMIN", "USER", "CORE_ADMIN", "CORE_USER")
]
# Maps whose keys are user data, not members of the API.
FREE_MAPS = ("Environment", "HyperParameters")


def create_training_job(session: "boto3.Session", request: Mapping[str, Any]) -> str:
    """Send a request unchanged and return the training job's ARN."""
    os.environ.update(dict.fromkeys(CONFIG_VARIABLES, os.devnull))
    try:
        from sagemaker.core.resources import TrainingJob
    except ModuleNotFoundError:
        msg = "SageMaker's SDK is not installed: `pip install 'embedtune[sagemaker]'`."
        raise BackendError(msg) from None
    job = TrainingJob.create(**snake(request), session=session, region=session.region_name)
    return str(job.training_job_arn)


def snake(value: Any) -> Any:  # noqa: ANN401  a JSON document
    """Rename the members of a request to snake case, as the SDK names its parameters."""
    if isinstance(value, Mapping):
        return {
            _snake_name(name): inner if name in FREE_MAPS else snake(inner)
            for name, inner in value.items()
        }
    return [snake(each) for each in value] if isinstance(value, list) else value


def _snake_name(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
