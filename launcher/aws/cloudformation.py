"""Create, update and delete any CloudFormation stack, and wait for the result.

An `Answer` is a dictionary that boto3 returns: a stack, an event.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from job.core.errors import BackendError
from launcher.aws.sessions import error_code, error_message, one_line, paginate

# Poll for up to two hours, as long as CloudFormation itself may wait for a resource.
POLLS = {"Delay": 5, "MaxAttempts": 1440}
# A change set was created but never executed: the stack has a name and no resources.
REVIEW_IN_PROGRESS = "REVIEW_IN_PROGRESS"
# UPDATE_ROLLBACK_COMPLETE counts as well: a failed update was rolled back to the previous state.
USABLE = re.compile("(CREATE|IMPORT|UPDATE|UPDATE_ROLLBACK)_COMPLETE(_CLEANUP_IN_PROGRESS)?")
# A stack whose creation failed can only be deleted.
CREATION_FAILED = {"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"}
START_STATUSES = {"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"}
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")

# boto3 generates its client classes at run time.
Client = Any
Answer = dict[str, Any]


def describe(cloud: Client, name: str) -> Answer | None:
    """Describe a stack by name or ARN, if it exists; a deleted stack is found by ARN only."""
    from botocore.exceptions import ClientError

    try:
        found: Answer = cloud.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        # A malformed name has the same error code.
        if error_code(error) == "ValidationError" and "does not exist" in error_message(error):
            return None
        raise
    return found


def require_usable(cloud: Client, found: Answer) -> None:
    """Raise `BackendError` with status, reason and fix if a stack is broken or changing."""
    require_idle(found)
    name, status = found["StackName"], found["StackStatus"]
    if not USABLE.fullmatch(status):
        reason = _reason(cloud, found["StackId"])
        msg = f"The stack `{name}` is in the state {status}: {reason}. {_fix(found)}"
        raise BackendError(msg)


def require_idle(found: Answer) -> None:
    """Raise `BackendError` while an operation on the stack is in progress."""
    status = found["StackStatus"]
    is_usable = status == REVIEW_IN_PROGRESS or USABLE.fullmatch(status)
    if status.endswith("_IN_PROGRESS") and not is_usable:
        msg = (
            f"The stack `{found['StackName']}` is being changed ({status}). Retry when "
            "`embedtune infra status` shows that the change has finished."
        )
        raise BackendError(msg)


def deploy(
    cloud: Client, name: str, template: str, parameters: Mapping[str, str], *, is_new: bool
) -> bool:
    """Create or update a stack through a change set; return false if nothing changes."""
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
    if refusal := _wait_for(cloud, "change_set_create_complete", ChangeSetName=change_set):
        cloud.delete_change_set(ChangeSetName=change_set)
        reason = refusal.get("StatusReason", "no reason given")
        if is_new:
            # Otherwise an empty stack with that name would remain.
            cloud.delete_stack(StackName=stack_id)
        elif any(text in reason for text in NO_CHANGES):
            return False
        msg = f"The stack `{name}` cannot be deployed: {one_line(reason)}."
        raise BackendError(msg)
    # Without this flag a failed creation leaves the resources whose deletion policy is Retain.
    cloud.execute_change_set(ChangeSetName=change_set, RetainExceptOnCreate=True)
    if _wait_for(cloud, f"stack_{kind.lower()}_complete", StackName=stack_id):
        msg = (
            f"The deployment of the stack `{name}` failed and was rolled back: "
            f"{_reason(cloud, stack_id)}. Fix that, then run `embedtune infra deploy` again."
        )
        raise BackendError(msg)
    return True


def delete(cloud: Client, found: Answer) -> None:
    """Delete a stack and wait for the deletion."""
    stack_id = found["StackId"]
    cloud.delete_stack(StackName=stack_id)
    if _wait_for(cloud, "stack_delete_complete", StackName=stack_id):
        msg = (
            f"The stack `{found['StackName']}` was not deleted: {_reason(cloud, stack_id)}. Fix "
            "that, then run `embedtune infra delete` again."
        )
        raise BackendError(msg)


def names_by_type(cloud: Client, stack_id: str) -> dict[str, str]:
    """Map each resource type of a stack to the name of a resource.

    There is only one bucket and one repository. Works for stacks whose creation failed as well.
    """
    resources = paginate(
        cloud, "list_stack_resources", "StackResourceSummaries", StackName=stack_id
    )
    return {
        resource["ResourceType"]: resource["PhysicalResourceId"]
        for resource in resources
        if resource["ResourceStatus"] != "DELETE_COMPLETE" and resource.get("PhysicalResourceId")
    }


def _wait_for(cloud: Client, waiter: str, **subject: str) -> Answer | None:
    """Wait for a boto3 waiter; return None on success, else the last response of AWS."""
    from botocore.exceptions import ClientError, WaiterError

    try:
        cloud.get_waiter(waiter).wait(**subject, WaiterConfig=POLLS)
    except WaiterError as error:
        answer: Any = error.last_response
        if "Error" in answer:
            # The polling request itself was refused, so the outcome is unknown.
            raise ClientError(answer, waiter) from None
        return dict(answer)
    return None


def _reason(cloud: Client, stack_id: str) -> str:
    """Return which resource failed first in the last operation, and why."""
    failures = []
    # Events come latest first.
    for event in paginate(cloud, "describe_stack_events", "StackEvents", StackName=stack_id):
        status, reason = event["ResourceStatus"], one_line(event.get("ResourceStatusReason", ""))
        # A resource is cancelled because another one failed.
        if status.endswith("_FAILED") and "cancelled" not in reason:
            failures.append(f"{event['LogicalResourceId']} ({event['ResourceType']}): {reason}")
        if event.get("PhysicalResourceId") == stack_id and status in START_STATUSES:
            break
    return failures[-1] if failures else "no reason given"


def _fix(found: Answer) -> str:
    if found["StackStatus"] in CREATION_FAILED:
        return "Run `embedtune infra deploy`: it deletes the remains and creates the stack again."
    if found["StackStatus"] == "UPDATE_ROLLBACK_FAILED":
        return (
            "Fix that, then run `aws cloudformation continue-update-rollback --stack-name "
            f"{found['StackName']}` and `embedtune infra deploy`."
        )
    return "Fix that, then run `embedtune infra delete`."
