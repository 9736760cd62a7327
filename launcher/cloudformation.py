"""CloudFormation's operations, begun and followed to their end, whatever is in the stack.

`cloud` is always a client of boto3, and an answer what it returns: a stack, an event.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from job.errors import BackendError
from launcher.aws import error_code, error_message

POLL_SECONDS = 2.0
# A change set was made and never executed: there is a name, and nothing else.
ANNOUNCED = "REVIEW_IN_PROGRESS"
USABLE = {
    "CREATE_COMPLETE",
    "IMPORT_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
    # The update failed and was taken back: what was there before is there again.
    "UPDATE_ROLLBACK_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
}
# The creation failed; such a stack can only be deleted.
STILLBORN = {"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"}
SUCCESS = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"}
BEGINNINGS = {"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"}
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")

Say = Callable[[str], None]
Answer = dict[str, Any]


def describe(cloud: Any, name: str) -> Answer | None:  # noqa: ANN401  boto3's clients have no types
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


def require_usable(cloud: Any, found: Answer) -> None:  # noqa: ANN401
    """Raise `BackendError` with status, reason and remedy where a stack is half-made."""
    require_at_rest(found)
    name, status = found["StackName"], found["StackStatus"]
    if status not in USABLE:
        events = _last_operation(_events(cloud, found["StackId"]), found["StackId"])
        msg = f"The stack `{name}` is in the state {status}: {_reason(events)}. {_remedy(found)}"
        raise BackendError(msg)


def require_at_rest(found: Answer) -> None:
    """Raise `BackendError` where somebody is changing a stack."""
    status = found["StackStatus"]
    if status.endswith("_IN_PROGRESS") and status not in USABLE | {ANNOUNCED}:
        msg = (
            f"The stack `{found['StackName']}` is being changed ({status}); try again once "
            "`embedtune infra status` shows that it has ended."
        )
        raise BackendError(msg)


def deploy(
    cloud: Any,  # noqa: ANN401
    name: str,
    template: str,
    parameters: Mapping[str, str],
    say: Say,
    *,
    is_new: bool,
) -> bool:
    """Create or update a stack by a change set; false where there is nothing to change."""
    made = cloud.create_change_set(
        StackName=name,
        ChangeSetName=f"embedtune-{time.time_ns()}",
        ChangeSetType="CREATE" if is_new else "UPDATE",
        TemplateBody=template,
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value}
            for key, value in sorted(parameters.items())
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    change_set, stack_id = made["Id"], made["StackId"]
    if not _is_made(cloud, change_set, name, stack_id, is_new=is_new):
        return False
    seen = {event["EventId"] for event in _events(cloud, stack_id)}
    # What a template retains on deletion would else stay behind after a failed creation.
    cloud.execute_change_set(ChangeSetName=change_set, RetainExceptOnCreate=True)
    events = _follow(cloud, stack_id, seen, say)
    if events[-1]["ResourceStatus"] not in SUCCESS:
        msg = (
            f"The stack `{name}` failed, and what had been done was taken back: {_reason(events)}. "
            "Mend that, then `embedtune infra deploy` again."
        )
        raise BackendError(msg)
    return True


def delete(cloud: Any, found: Answer, say: Say) -> None:  # noqa: ANN401
    """Delete a stack and wait until it is gone."""
    stack_id = found["StackId"]
    seen = {event["EventId"] for event in _events(cloud, stack_id)}
    cloud.delete_stack(StackName=stack_id)
    events = _follow(cloud, stack_id, seen, say)
    if events[-1]["ResourceStatus"] not in SUCCESS:
        msg = (
            f"The stack `{found['StackName']}` was not deleted: {_reason(events)}. Mend that, then "
            "`embedtune infra delete` again."
        )
        raise BackendError(msg)


def names_by_type(cloud: Any, stack_id: str) -> dict[str, str]:  # noqa: ANN401
    """Name what a stack has, whatever became of its creation: one resource of each type."""
    pages = cloud.get_paginator("list_stack_resources").paginate(StackName=stack_id)
    return {
        resource["ResourceType"]: resource["PhysicalResourceId"]
        for page in pages
        for resource in page["StackResourceSummaries"]
        if resource["ResourceStatus"] != "DELETE_COMPLETE" and resource.get("PhysicalResourceId")
    }


def _is_made(
    cloud: Any,  # noqa: ANN401
    change_set: str,
    name: str,
    stack_id: str,
    *,
    is_new: bool,
) -> bool:
    """Wait for a change set; false, and nothing left of it, where it would change nothing."""
    while True:
        found = cloud.describe_change_set(ChangeSetName=change_set)
        if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            break
        time.sleep(POLL_SECONDS)
    if found["Status"] == "CREATE_COMPLETE":
        return True
    reason = found.get("StatusReason", "no reason was given")
    cloud.delete_change_set(ChangeSetName=change_set)
    if is_new:
        # Its name alone would stay behind.
        cloud.delete_stack(StackName=stack_id)
    elif any(text in reason for text in NO_CHANGES):
        return False
    msg = f"The stack `{name}` cannot be deployed: {_flat(reason)}."
    raise BackendError(msg)


def _follow(cloud: Any, stack_id: str, seen: set[str], say: Say) -> list[Answer]:  # noqa: ANN401
    """Tell the events that come until the operation has ended; returns them, the end last.

    The end is an event as well: the stack's status may for a moment still be that of before.
    """
    told: list[Answer] = []
    while True:
        fresh = [event for event in _events(cloud, stack_id) if event["EventId"] not in seen]
        for event in reversed(fresh):
            seen.add(event["EventId"])
            told.append(event)
            say(_line(event))
            if _is_own(event, stack_id) and not event["ResourceStatus"].endswith("_IN_PROGRESS"):
                return told
        time.sleep(POLL_SECONDS)


def _events(cloud: Any, stack_id: str) -> list[Answer]:  # noqa: ANN401
    """List a stack's events, the latest first."""
    pages = cloud.get_paginator("describe_stack_events").paginate(StackName=stack_id)
    return [event for page in pages for event in page["StackEvents"]]


def _last_operation(events: Sequence[Answer], stack_id: str) -> list[Answer]:
    """Take the events since the last operation began, in the order in which they came."""
    for count, event in enumerate(events, start=1):
        if _is_own(event, stack_id) and event["ResourceStatus"] in BEGINNINGS:
            return list(reversed(events[:count]))
    return list(reversed(events))


def _is_own(event: Answer, stack_id: str) -> bool:
    """Say whether an event is the stack's own, not one of its resources'."""
    return bool(event.get("PhysicalResourceId") == stack_id)


def _line(event: Answer) -> str:
    what = f"{event['LogicalResourceId']} ({event['ResourceType']})"
    line = f"{event['Timestamp']:%H:%M:%S}  {event['ResourceStatus']:<18}  {what}"
    reason = _flat(event.get("ResourceStatusReason", ""))
    return f"{line}  {reason}" if reason else line


def _reason(events: Iterable[Answer]) -> str:
    """Say which resource failed first, and why; what was cancelled for its sake did not fail."""
    for event in events:
        reason = _flat(event.get("ResourceStatusReason", ""))
        if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in reason:
            return f"{event['LogicalResourceId']} ({event['ResourceType']}): {reason}"
    return "no reason was given"


def _remedy(found: Answer) -> str:
    if found["StackStatus"] in STILLBORN:
        return "`embedtune infra deploy` removes what is left and makes it anew."
    if found["StackStatus"] == "UPDATE_ROLLBACK_FAILED":
        return (
            "Mend that, then `aws cloudformation continue-update-rollback --stack-name "
            f"{found['StackName']}` and `embedtune infra deploy`."
        )
    return "Mend that, then `embedtune infra delete`."


def _flat(reason: str) -> str:
    return " ".join(reason.split()).rstrip(".")
