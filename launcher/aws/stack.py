"""The CloudFormation stack: its parameters and outputs, deploying and deleting it.

The only file that knows the names of the stack's parameters and outputs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws import cloudformation
from launcher.aws.bedrock_models import model_arns
from launcher.aws.cloudformation import CREATION_FAILED, REVIEW_IN_PROGRESS, Answer
from launcher.aws.sessions import client, partition, translate_errors
from launcher.aws.stack_contents import contents_of

if TYPE_CHECKING:
    import boto3

DEFAULT_STACK = "embedtune"
# The template's parameter for each option of `infra deploy`; the template has the defaults.
PARAMETERS = {
    "allow_instance_type": "AllowedInstanceTypes",
    "bedrock_model": "BedrockModelArns",
    "budget": "MonthlyBudgetUsd",
    "budget_email": "BudgetEmail",
    "data_buckets": "DataBucketArns",
    "hub_token_secret": "HubTokenSecretArn",
    "keep_images": "KeepImages",
    "kms_key": "KmsKeyArn",
    "llm_key_secret": "LlmKeySecretArn",
    "limit_keep_alive": "MaxKeepAliveSeconds",
    "limit_runtime": "MaxRuntimeSeconds",
    "log_retention": "LogRetentionDays",
    "security_group": "SecurityGroups",
    "subnet": "Subnets",
}
WHOLE_SECRET_ARN = re.compile(r"arn:[\w-]+:secretsmanager:[\w-]+:\d{12}:secret:\S+-\w{6}")


@dataclass(frozen=True)
class Stack:
    """A stack's outputs, or the launch options that replace them.

    `bucket` is a name; `image` is the image repository unless an option names an image.
    """

    region: str
    role_arn: str
    image: str
    bucket: str | None = None
    kms_key_arn: str | None = None
    hub_token_secret_arn: str | None = None
    llm_key_secret_arn: str | None = None
    # What the role may ask: models, inference profiles and their models.
    bedrock_model_arns: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    version: str = "1"
    launcher_policy_arn: str | None = None
    # Stacks of older versions have none.
    build_project: str | None = None

    def prefix(self, name: str) -> str | None:
        """Return the URI of a prefix: `runs`, or one whose objects expire (`checkpoints` …)."""
        return f"s3://{self.bucket}/{name}" if self.bucket else None


def template_text() -> str:
    """Read the template from the installed package, or from the checkout."""
    installed = Path(__file__).with_name("stack.yaml")
    checkout = Path(__file__).parents[2] / "infra" / "stack.yaml"
    return (installed if installed.is_file() else checkout).read_text("utf-8")


def stack_parameters(session: "boto3.Session", options: Mapping[str, Any]) -> dict[str, str]:
    """Map options to template parameters; an empty string clears an earlier value."""
    prefix = f"arn:{partition(session)}:s3:::"
    buckets = [f"{prefix}{name}" if name else "" for name in options["data_buckets"]]
    named: dict[str, Any] = {"data_buckets": buckets}
    for name in ("hub_token_secret", "llm_key_secret"):
        if secret := options.get(name):
            named[name] = _whole_arn(session, secret)
    models = options.get("bedrock_model") or ()
    arns = (arn for name in models for arn in (model_arns(session, name) if name else [""]))
    named["bedrock_model"] = [*dict.fromkeys(arns)]
    return {
        PARAMETERS[name]: str(value) if isinstance(value, int | str) else ",".join(value)
        for name, value in {**options, **named}.items()
        if value not in (None, (), [])
    }


def _whole_arn(session: "boto3.Session", secret: str) -> str:
    """Return a secret's whole ARN, with its six random characters, for its name or partial ARN.

    A policy with a partial ARN would not let the job read the secret.
    """
    parts = secret.split(":")
    region = parts[3] if len(parts) > 3 else None
    try:
        with translate_errors(f"finding the secret `{secret}`"):
            manager = client(session, "secretsmanager", region)
            return str(manager.describe_secret(SecretId=secret)["ARN"])
    except BackendError as error:
        if WHOLE_SECRET_ARN.fullmatch(secret) and "ResourceNotFoundException" not in str(error):
            # Most likely the caller may not ask.
            return secret
        raise


def read_stack(session: "boto3.Session", name: str = DEFAULT_STACK) -> Stack | None:
    """Read a stack's outputs, if it exists; raises `BackendError` if it is broken or changing."""
    cloud = client(session, "cloudformation")
    with translate_errors(f"reading the stack `{name}`"):
        found = cloudformation.describe(cloud, name)
        if found is None or found["StackStatus"] == REVIEW_IN_PROGRESS:
            return None
        cloudformation.require_usable(cloud, found)
    return _stack(found, session.region_name)


def require_stack(session: "boto3.Session", name: str) -> Stack:
    """Read a stack; raises `BackendError` if it does not exist."""
    stack = read_stack(session, name)
    if stack is None:
        msg = (
            f"There is no stack `{name}` in {session.region_name}. Create it with `embedtune infra "
            "deploy`, or launch without a stack: `--role`, `--image` and `--output s3://…`."
        )
        raise BackendError(msg)
    return stack


def deploy_stack(
    session: "boto3.Session", name: str, parameters: Mapping[str, str], say: Callable[[str], None]
) -> Stack:
    """Create or update a stack and wait for it.

    An existing stack keeps the values of parameters that are not in `parameters`. A failed
    deployment is rolled back and raised as `BackendError` with the reason of the resource that
    failed first.
    """
    cloud = client(session, "cloudformation")
    with translate_errors(f"deploying the stack `{name}`"):
        found = _find_updatable(cloud, name, say)
        values = _existing_parameters(found) | dict(parameters)
        say("Deploying with CloudFormation; this takes a minute or two.")
        if not cloudformation.deploy(cloud, name, template_text(), values, is_new=found is None):
            say(f"The stack `{name}` is up to date; nothing was changed.")
    return require_stack(session, name)


def delete_stack(
    session: "boto3.Session", name: str, *, with_data: bool, say: Callable[[str], None]
) -> None:
    """Delete a stack, even one whose creation failed, and its bucket.

    Raises `BackendError` if bucket or repository are not empty, unless `with_data` is set.
    """
    cloud = client(session, "cloudformation")
    with translate_errors(f"deleting the stack `{name}`"):
        found = cloudformation.describe(cloud, name)
        if found is None:
            say(f"There is no stack `{name}` in {session.region_name}; nothing was deleted.")
            return
        cloudformation.require_idle(found)
        contents = contents_of(session, cloudformation.names_by_type(cloud, found["StackId"]))
        if not with_data:
            contents.require_empty()
        # Before the stack: CloudFormation cannot delete a repository that holds images, and
        # without the stack the bucket's name would be unknown.
        contents.delete(say)
        cloudformation.delete(cloud, found)
        say(f"Deleted the stack `{name}`.")
        if contents.bucket:
            # The template retains the bucket, so that deleting the stack elsewhere keeps results.
            contents.bucket.delete()
            say(f"Deleted the bucket `{contents.bucket.name}`.")


def _stack(found: Answer, region: str) -> Stack:
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    try:
        return Stack(
            region=outputs["Region"],
            role_arn=outputs["RoleArn"],
            image=outputs["RepositoryUri"],
            bucket=outputs["Bucket"],
            kms_key_arn=outputs.get("KmsKeyArn"),
            hub_token_secret_arn=outputs.get("HubTokenSecretArn"),
            llm_key_secret_arn=outputs.get("LlmKeySecretArn"),
            bedrock_model_arns=_parts(outputs.get("BedrockModelArns")),
            subnets=_parts(outputs.get("Subnets")),
            security_groups=_parts(outputs.get("SecurityGroups")),
            version=outputs["Version"],
            launcher_policy_arn=outputs["LauncherPolicyArn"],
            build_project=outputs.get("BuildProject"),
        )
    except KeyError as missing:
        msg = (
            f"The stack `{found['StackName']}` in {region} was not created by embedtune: it has no "
            f"output {missing}. Choose another with `--stack`."
        )
        raise BackendError(msg) from None


def _parts(output: str | None) -> tuple[str, ...]:
    return tuple(output.split(",")) if output else ()


def _find_updatable(cloud: Any, name: str, say: Callable[[str], None]) -> Answer | None:  # noqa: ANN401
    """Return the stack if it can be updated; delete it first if its creation had failed."""
    found = cloudformation.describe(cloud, name)
    if found is None or found["StackStatus"] == REVIEW_IN_PROGRESS:
        return None
    if found["StackStatus"] in CREATION_FAILED:
        say(f"An earlier creation of `{name}` failed; deleting its remains first.")
        cloudformation.delete(cloud, found)
        return None
    cloudformation.require_usable(cloud, found)
    return found


def _existing_parameters(found: Answer | None) -> dict[str, str]:
    given = (found or {}).get("Parameters", [])
    values = {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in given}
    # An older template may have had more parameters.
    return {name: values[name] for name in PARAMETERS.values() if name in values}
