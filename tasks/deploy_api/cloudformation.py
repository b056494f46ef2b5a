"""Bringing one CloudFormation stack to a template and its parameters, from whatever state it is in."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from askline.errors import CloudError, DeployError

Action = Literal["created", "updated", "unchanged"]

#: Marks the stacks that are ours; a stack without it is somebody else's and is left alone.
OWNER_TAG = "askline:stack"

#: Nothing can be made of a stack in these states but a new one. None of them serves anybody.
_DEAD = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS"}
_GOOD = {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
_POLL_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Stack:
    """A stack that is up."""

    stack_id: str
    outputs: dict[str, str]
    action: Action


def bring_up(
    client: Any,
    *,
    name: str,
    template: str,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    wait_seconds: float,
    progress: Callable[[str], None] = lambda message: None,
) -> Stack:
    """Create the stack, or update it, and wait until it is done.

    A stack that never came up (``ROLLBACK_COMPLETE``), or of which there is only a change set
    (``REVIEW_IN_PROGRESS``), is deleted and made again; an operation that is under way is waited for first.

    Parameters
    ----------
    client
        boto3 client of ``cloudformation``.
    template
        The template's text; it may create IAM roles without names of their own.
    wait_seconds
        For all of it together.
    progress
        Called with a few words when the stack's status changes.

    Raises
    ------
    DeployError
        If the stack fails (its failed events are listed), is not done in time, or is not ours.
    CloudError
        If CloudFormation refuses the call.
    """
    from botocore.exceptions import ClientError

    waiting = _Waiting(client, name, time.monotonic() + wait_seconds, progress)
    try:
        standing = waiting.until_settled()
        if standing is not None:
            _expect_ours(standing)
            if standing["StackStatus"] in _DEAD:
                client.delete_stack(StackName=standing["StackId"])
                waiting.until_deleted(standing["StackId"])
                standing = None
        token = f"askline-{uuid.uuid4()}"
        request = {
            "StackName": name,
            "TemplateBody": template,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": [{"Key": key, "Value": value} for key, value in {**tags, OWNER_TAG: name}.items()],
            "ClientRequestToken": token,
        }
        action: Action = "created" if standing is None else "updated"
        if standing is None:
            client.create_stack(**request, OnFailure="ROLLBACK")
        elif not _update(client, request):
            return Stack(standing["StackId"], _outputs(standing), "unchanged")
        stack = waiting.until_settled()
        if stack is None or stack["StackStatus"] not in _GOOD:
            status = "gone" if stack is None else stack["StackStatus"]
            raise DeployError(
                f"the CloudFormation stack {name} could not be {action}; it is {status}. What failed:\n"
                + _failures(client, stack["StackId"] if stack else name, token)
            )
    except ClientError as error:
        details = error.response.get("Error", {})
        code = details.get("Code", "")
        raise CloudError(
            f"CloudFormation refused the stack {name}: {code}: {details.get('Message', error)}",
            retryable=code
            in {"Throttling", "ThrottlingException", "ServiceUnavailable", "OperationInProgressException"},
        ) from error
    return Stack(stack["StackId"], _outputs(stack), action)


def describe(client: Any, name: str) -> dict[str, Any] | None:
    """Return the stack's description, or None if there is no such stack."""
    from botocore.exceptions import ClientError

    try:
        stacks: list[dict[str, Any]] = client.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        # CloudFormation has no code of its own for it.
        if error.response.get("Error", {}).get("Code") == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    # Asked by id, it also describes deleted stacks.
    return stacks[0] if stacks and stacks[0]["StackStatus"] != "DELETE_COMPLETE" else None


@dataclass
class _Waiting:
    client: Any
    name: str
    deadline: float
    progress: Callable[[str], None]
    _said: str = ""

    def until_settled(self) -> dict[str, Any] | None:
        """Return the stack once no operation is under way, or None if there is none."""
        turn = 0
        while True:
            stack = describe(self.client, self.name)
            if stack is None:
                return None
            status = stack["StackStatus"]
            self._say(status)
            if status == "REVIEW_IN_PROGRESS" or not status.endswith("_IN_PROGRESS"):
                if status == "UPDATE_ROLLBACK_FAILED":
                    raise DeployError(
                        f"the CloudFormation stack {self.name} is UPDATE_ROLLBACK_FAILED: an update and its rollback "
                        f"failed earlier. Run aws cloudformation continue-update-rollback --stack-name {self.name}, "
                        "then this again."
                    )
                return stack
            turn = self._pause(turn, status)

    def until_deleted(self, stack_id: str) -> None:
        turn = 0
        while (stack := describe(self.client, stack_id)) is not None:
            self._say(stack["StackStatus"])
            if stack["StackStatus"] == "DELETE_FAILED" and turn:
                raise DeployError(
                    f"the failed CloudFormation stack {self.name} cannot be deleted: "
                    f"{_reason(stack, 'StackStatusReason')}. Delete it in the console, then run this again."
                )
            turn = self._pause(turn, stack["StackStatus"])

    def _say(self, status: str) -> None:
        if status != self._said:
            self._said = status
            self.progress(f"{self.name} {status.lower().replace('_', ' ')}")

    def _pause(self, turn: int, status: str) -> int:
        if time.monotonic() >= self.deadline:
            raise DeployError(
                f"the CloudFormation stack {self.name} is still {status}; it goes on without us. "
                "Look at its events, and run this again when it is done.",
                retryable=True,
            )
        time.sleep(_POLL_SECONDS[min(turn, len(_POLL_SECONDS) - 1)])
        return turn + 1


def _expect_ours(stack: Mapping[str, Any]) -> None:
    if not any(tag["Key"] == OWNER_TAG for tag in stack.get("Tags", ())):
        raise DeployError(
            f"there is a CloudFormation stack {stack['StackName']} that askline did not make (it has no tag "
            f"{OWNER_TAG}); updating it would delete what is in it. Choose another name with --api.stack-name."
        )


def _update(client: Any, request: Mapping[str, Any]) -> bool:
    """Start the update; False if nothing would change."""
    from botocore.exceptions import ClientError

    try:
        client.update_stack(**request)
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return False
        raise
    return True


def _outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _failures(client: Any, stack: str, token: str) -> str:
    """Return this operation's failed events, the first cause first, one a line."""
    from botocore.exceptions import ClientError

    try:
        pages = client.get_paginator("describe_stack_events").paginate(StackName=stack)
        events = [event for page in pages for event in page["StackEvents"]]
    except ClientError as error:
        return f"  (the events cannot be read: {error})"
    lines = [
        f"  {event['LogicalResourceId']} ({event['ResourceType']}): {_reason(event, 'ResourceStatusReason')}"
        for event in reversed(events)
        if event.get("ClientRequestToken", token) == token
        and event["ResourceStatus"].endswith("_FAILED")
        and "cancelled" not in _reason(event, "ResourceStatusReason")
    ]
    return "\n".join(lines) or "  (no failed event; look at the stack in the console)"


def _reason(described: Mapping[str, Any], key: str) -> str:
    return str(described.get(key) or "no reason given")
