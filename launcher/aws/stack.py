"""The stack in CloudFormation: the only file that knows the names of what we have in AWS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws import cloudformation
from launcher.aws.cloudformation import ANNOUNCED, STILLBORN, Answer
from launcher.aws.sessions import client, explained
from launcher.aws.stack_contents import contents_of

if TYPE_CHECKING:
    import boto3

DEFAULT_STACK = "embedtune"
# What the template asks for, by the option that gives it; its own defaults hold for what nobody
# has given yet.
PARAMETERS = {
    "budget": "MonthlyBudgetUsd",
    "budget_email": "BudgetEmail",
    "data_buckets": "DataBucketArns",
    "hub_token_secret": "HubTokenSecretArn",
    "kms_key": "KmsKeyArn",
    "security_group": "SecurityGroups",
    "subnet": "Subnets",
}


@dataclass(frozen=True)
class Stack:
    """What a stack's outputs say, or, without one, the options in their place.

    `bucket` is a name, and `image` the repository of the images unless an option names one.
    """

    region: str
    role_arn: str
    image: str
    bucket: str | None = None
    kms_key_arn: str | None = None
    hub_token_secret_arn: str | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    version: str = "1"
    launcher_policy_arn: str | None = None

    def place(self, name: str) -> str | None:
        """Where `runs` go, and what the bucket deletes after a month: `checkpoints`, `inputs`."""
        return f"s3://{self.bucket}/{name}" if self.bucket else None


def template_text() -> str:
    """Read the template: from the installed package, or from the checkout."""
    installed = Path(__file__).with_name("stack.yaml")
    checkout = Path(__file__).parents[2] / "infra" / "stack.yaml"
    return (installed if installed.is_file() else checkout).read_text("utf-8")


def stack_parameters(session: "boto3.Session", options: Mapping[str, Any]) -> dict[str, str]:
    """Name the options as the template does; an empty text takes an earlier value away."""
    partition = session.get_partition_for_region(session.region_name)
    arns = [f"arn:{partition}:s3:::{name}" if name else "" for name in options["data_buckets"]]
    return {
        PARAMETERS[name]: str(value) if isinstance(value, int | str) else ",".join(value)
        for name, value in {**options, "data_buckets": arns}.items()
        if value not in (None, (), [])
    }


def read_stack(session: "boto3.Session", name: str = DEFAULT_STACK) -> Stack | None:
    """Read a stack's outputs, if there is one; raises `BackendError` where it is half-made."""
    cloud = client(session, "cloudformation")
    with explained(f"reading the stack `{name}`"):
        found = cloudformation.describe(cloud, name)
        if found is None or found["StackStatus"] == ANNOUNCED:
            return None
        cloudformation.require_usable(cloud, found)
    return _stack(found, session.region_name)


def require_stack(session: "boto3.Session", name: str) -> Stack:
    """Read a stack; raises `BackendError` where there is none."""
    stack = read_stack(session, name)
    if stack is None:
        msg = (
            f"There is no stack `{name}` in {session.region_name}: `embedtune infra deploy` makes "
            "it; a launch may do without: `--role`, `--image` and `--output s3://…`."
        )
        raise BackendError(msg)
    return stack


def deploy_stack(
    session: "boto3.Session", name: str, parameters: Mapping[str, str], say: Callable[[str], None]
) -> Stack:
    """Create or update a stack and wait for it.

    What an existing stack was given stays, unless `parameters` names it. A failure is taken back,
    and raised as `BackendError` with the reason of the resource that failed first.
    """
    cloud = client(session, "cloudformation")
    with explained(f"deploying the stack `{name}`"):
        found = _to_update(cloud, name, say)
        wanted = _given_before(found) | dict(parameters)
        say("CloudFormation is at work, which takes a minute or two.")
        if not cloudformation.deploy(cloud, name, template_text(), wanted, is_new=found is None):
            say(f"The stack `{name}` is as wanted already; nothing was changed.")
    return require_stack(session, name)


def delete_stack(
    session: "boto3.Session", name: str, *, with_data: bool, say: Callable[[str], None]
) -> None:
    """Delete a stack, also a half-made one, and its bucket.

    Raises `BackendError` where they hold objects or images, unless it is to go `with_data`.
    """
    cloud = client(session, "cloudformation")
    with explained(f"deleting the stack `{name}`"):
        found = cloudformation.describe(cloud, name)
        if found is None:
            say(f"There is no stack `{name}` in {session.region_name}; nothing was deleted.")
            return
        cloudformation.require_at_rest(found)
        contents = contents_of(session, cloudformation.names_by_type(cloud, found["StackId"]))
        if not with_data:
            contents.require_none()
        # Before the stack: CloudFormation deletes no repository that holds images, and a bucket
        # whose stack is gone is found by nobody.
        contents.delete(say)
        cloudformation.delete(cloud, found)
        say(f"Deleted the stack `{name}`.")
        if contents.bucket:
            # The template retains it, for those who delete the stack without us.
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
            subnets=_parts(outputs.get("Subnets")),
            security_groups=_parts(outputs.get("SecurityGroups")),
            version=outputs["Version"],
            launcher_policy_arn=outputs["LauncherPolicyArn"],
        )
    except KeyError as missing:
        msg = (
            f"The stack `{found['StackName']}` in {region} is not embedtune's: it has no output "
            f"{missing}. Name another by `--stack`."
        )
        raise BackendError(msg) from None


def _parts(output: str | None) -> tuple[str, ...]:
    return tuple(output.split(",")) if output else ()


def _to_update(cloud: Any, name: str, say: Callable[[str], None]) -> Answer | None:  # noqa: ANN401
    """Return the stack that can be updated, if there is one; a stillborn one is removed."""
    found = cloudformation.describe(cloud, name)
    if found is None or found["StackStatus"] == ANNOUNCED:
        return None
    if found["StackStatus"] in STILLBORN:
        say(f"An earlier creation of `{name}` failed; what is left of it is removed first.")
        cloudformation.delete(cloud, found)
        return None
    cloudformation.require_usable(cloud, found)
    return found


def _given_before(found: Answer | None) -> dict[str, str]:
    given = (found or {}).get("Parameters", [])
    values = {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in given}
    # An older template may have asked for more.
    return {name: values[name] for name in PARAMETERS.values() if name in values}
