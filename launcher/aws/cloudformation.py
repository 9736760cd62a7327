"""CloudFormation's operations, each begun and awaited, whatever is in the stack.

An answer is what a client returns: a stack, an event.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from job.core.errors import BackendError
from launcher.aws.sessions import error_code, error_message, flat, listed

# Up to two hours, as long as CloudFormation itself may wait for a resource.
POLLS = {"Delay": 5, "MaxAttempts": 1440}
# A change set was made and never executed: there is a name, and nothing else.
ANNOUNCED = "REVIEW_IN_PROGRESS"
# An update that failed was taken back: what was there before is there again.
USABLE = re.compile("(CREATE|IMPORT|UPDATE|UPDATE_ROLLBACK)_COMPLETE(_CLEANUP_IN_PROGRESS)?")
# The creation failed; such a stack can only be deleted.
STILLBORN = {"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"}
BEGINNINGS = {"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"}
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")

# boto3's clients have no types.
Client = Any
Answer = dict[str, Any]


def describe(cloud: Client, name: str) -> Answer | None:
    """Describe a stack by name or ARN, if there is one; a deleted one is known by its ARN alone."""
    from botocore.exceptions import ClientError

    try:
        found: Answer = cloud.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        # A malformed name has the same code.
        if error_code(error) == "ValidationError" and "does not exist" in error_message(error):
            return None
        raise
    return found


def require_usable(cloud: Client, found: Answer) -> None:
    """Raise `BackendError` with status, reason and remedy where a stack is half-made."""
    require_at_rest(found)
    name, status = found["StackName"], found["StackStatus"]
    if not USABLE.fullmatch(status):
        reason = _reason(cloud, found["StackId"])
        msg = f"The stack `{name}` is in the state {status}: {reason}. {_remedy(found)}"
        raise BackendError(msg)


def require_at_rest(found: Answer) -> None:
    """Raise `BackendError` where somebody is changing a stack."""
    status = found["StackStatus"]
    is_usable = status == ANNOUNCED or USABLE.fullmatch(status)
    if status.endswith("_IN_PROGRESS") and not is_usable:
        msg = (
            f"The stack `{found['StackName']}` is being changed ({status}); try again once "
            "`embedtune infra status` shows that it has ended."
        )
        raise BackendError(msg)


def deploy(
    cloud: Client, name: str, template: str, parameters: Mapping[str, str], *, is_new: bool
) -> bool:
    """Create or update a stack by a change set; false where there is nothing to change."""
    kind = "CREATE" if is_new else "UPDATE"
    made = cloud.create_change_set(
        StackName=name,
        ChangeSetName=f"embedtune-{time.time_ns()}",
        ChangeSetType=kind,
        TemplateBody=template,
        Parameters=[
            {"ParameterKey": key, "ParameterValue": parameters[key]} for key in sorted(parameters)
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    change_set, stack_id = made["Id"], made["StackId"]
    if refusal := _await(cloud, "change_set_create_complete", ChangeSetName=change_set):
        cloud.delete_change_set(ChangeSetName=change_set)
        reason = refusal.get("StatusReason", "no reason was given")
        if is_new:
            # Its name alone would stay behind.
            cloud.delete_stack(StackName=stack_id)
        elif any(text in reason for text in NO_CHANGES):
            return False
        msg = f"The stack `{name}` cannot be deployed: {flat(reason)}."
        raise BackendError(msg)
    # What a template retains on deletion would else stay behind after a failed creation.
    cloud.execute_change_set(ChangeSetName=change_set, RetainExceptOnCreate=True)
    if _await(cloud, f"stack_{kind.lower()}_complete", StackName=stack_id):
        msg = (
            f"The stack `{name}` failed, and what had been done was taken back: "
            f"{_reason(cloud, stack_id)}. Mend that, then `embedtune infra deploy` again."
        )
        raise BackendError(msg)
    return True


def delete(cloud: Client, found: Answer) -> None:
    """Delete a stack and wait until it is gone."""
    stack_id = found["StackId"]
    cloud.delete_stack(StackName=stack_id)
    if _await(cloud, "stack_delete_complete", StackName=stack_id):
        msg = (
            f"The stack `{found['StackName']}` was not deleted: {_reason(cloud, stack_id)}. Mend "
            "that, then `embedtune infra delete` again."
        )
        raise BackendError(msg)


def names_by_type(cloud: Client, stack_id: str) -> dict[str, str]:
    """Name what a stack has, whatever became of its creation: one resource of each type."""
    resources = listed(cloud, "list_stack_resources", "StackResourceSummaries", StackName=stack_id)
    return {
        resource["ResourceType"]: resource["PhysicalResourceId"]
        for resource in resources
        if resource["ResourceStatus"] != "DELETE_COMPLETE" and resource.get("PhysicalResourceId")
    }


def _await(cloud: Client, waiter: str, **subject: str) -> Answer | None:
    """Wait until something is as wanted; returns what AWS said last where it will never be."""
    from botocore.exceptions import ClientError, WaiterError

    try:
        cloud.get_waiter(waiter).wait(**subject, WaiterConfig=POLLS)
    except WaiterError as error:
        answer: Any = error.last_response
        if "Error" in answer:
            # No end of what was awaited: the question itself was refused.
            raise ClientError(answer, waiter) from None
        return dict(answer)
    return None


def _reason(cloud: Client, stack_id: str) -> str:
    """Say which resource failed first in the last operation, and why."""
    failures = []
    # The latest comes first.
    for event in listed(cloud, "describe_stack_events", "StackEvents", StackName=stack_id):
        status, reason = event["ResourceStatus"], flat(event.get("ResourceStatusReason", ""))
        # What was cancelled for the sake of another did not fail.
        if status.endswith("_FAILED") and "cancelled" not in reason:
            failures.append(f"{event['LogicalResourceId']} ({event['ResourceType']}): {reason}")
        if event.get("PhysicalResourceId") == stack_id and status in BEGINNINGS:
            break
    return failures[-1] if failures else "no reason was given"


def _remedy(found: Answer) -> str:
    if found["StackStatus"] in STILLBORN:
        return "`embedtune infra deploy` removes what is left and makes it anew."
    if found["StackStatus"] == "UPDATE_ROLLBACK_FAILED":
        return (
            "Mend that, then `aws cloudformation continue-update-rollback --stack-name "
            f"{found['StackName']}` and `embedtune infra deploy`."
        )
    return "Mend that, then `embedtune infra delete`."
