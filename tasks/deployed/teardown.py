"""Taking down what the pipeline has made: first the list, then the act, in an order that a later call can finish.

::

    plan = plan_teardown(inventory, mlkey="biography")
    carry_out(plan, target=target, wait_seconds=900)

How it scales, endpoint, configurations, models, registry entry, archives: what is left after a crash still carries its
tags and its MLKey, and so stands in the next call's list. Buckets and roles are never deleted.
"""

import time
from datetime import timedelta
from typing import Any

from askline.clients import aws_client
from askline.errors import DeployError
from askline.progress import Progress, quiet
from askline.records import Record, Target
from tasks.aws.errors import explained, or_none
from tasks.deploy_api import cloudformation
from tasks.deploy_serverless import autoscaling, registry
from tasks.deploy_serverless.endpoint import PASSING, POLL_SECONDS, delete_endpoint, describe
from tasks.deployed.inventory import Inventory, Kind, Resource, inventory_of
from tasks.deployed.orphans import ALL, Orphan, find_orphans

ORDER: tuple[Kind, ...] = ("scaling", "endpoint", "endpoint configuration", "model", "registry entry", "archive")
STACK_SECONDS = 900


class LeftAlone(Record):
    """What stays, and why."""

    what: str
    why: str


class ApiStack(Record):
    """The CloudFormation stack of the API."""

    name: str
    stack_id: str
    status: str
    managed: bool


class Teardown(Record):
    """What would go, in the order in which it goes, and what stays."""

    going: tuple[Resource, ...]
    left: tuple[LeftAlone, ...]
    stack: ApiStack | None = None
    """The API's stack, where it is to go too."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to delete."""
        return not self.going and self.stack is None


def plan_teardown(
    inventory: Inventory,
    *,
    mlkey: str | None = None,
    orphans: tuple[Orphan, ...] = (),
    archives: bool = False,
) -> Teardown:
    """Decide what goes: all of one MLKey, or the orphans. No call is made.

    Only what carries the pipeline's tags goes, and only if nothing that stays refers to it.

    Parameters
    ----------
    mlkey
        The MLKey to take down; None for the orphans.
    archives
        Delete archives too.
    """
    left: list[LeftAlone] = []
    if mlkey is None:
        wanted = [orphan.resource for orphan in orphans if not orphan.recent]
        left += [
            LeftAlone(what=str(orphan.resource), why="it is recent and may belong to a deployment under way")
            for orphan in orphans
            if orphan.recent
        ]
    else:
        wanted = [found for found in inventory.resources if found.mlkey == mlkey]
    going: dict[str, Resource] = {}
    for kind in ORDER:
        for found in (found for found in wanted if found.kind == kind):
            why = _why_not(found, inventory, set(going), archives=archives)
            if why is None:
                going[found.name] = found
            else:
                left.append(LeftAlone(what=str(found), why=why))
    return Teardown(going=tuple(going.values()), left=tuple(left))


def _why_not(found: Resource, inventory: Inventory, going: set[str], *, archives: bool) -> str | None:
    if not found.managed:
        return "it does not carry the tag askline:managed=true"
    if found.kind == "scaling":
        return None  # the endpoint goes after it, or is gone
    if found.kind == "endpoint":
        others = [
            entry.mlkey
            for entry in inventory.of("registry entry").values()
            if found.name in entry.uses and entry.mlkey != found.mlkey
        ]
        if others:
            return f"it answers for {', '.join(map(str, others))} too"
    if found.kind == "registry entry":
        endpoints = inventory.of("endpoint")
        standing = [
            name
            for name in found.uses
            if name in endpoints and name not in going and endpoints[name].mlkey == found.mlkey
        ]
        return f"the endpoint {standing[0]}, which it names, stays" if standing else None
    users = [
        str(other)
        for other in inventory.resources
        if found.name in other.uses and other.name not in going and other.kind != "registry entry"
    ]
    if users:
        return f"the {users[0]} uses it and stays"
    if found.kind == "archive" and not archives:
        return "archives are kept unless --archives is given"
    return None


def find_stack(name: str, *, target: Target) -> ApiStack | None:
    """Return the API's stack, or None if there is none.

    Raises
    ------
    CloudError
        If CloudFormation refuses.
    """
    with explained(f"look up the stack {name}"):
        found = cloudformation.describe(aws_client(target, "cloudformation"), name)
    if found is None:
        return None
    managed = any(tag["Key"] == cloudformation.OWNER_TAG for tag in found.get("Tags", ()))
    return ApiStack(name=name, stack_id=found["StackId"], status=found["StackStatus"], managed=managed)


def carry_out(plan: Teardown, *, target: Target, wait_seconds: float, progress: Progress = quiet) -> tuple[str, ...]:
    """Delete what the plan lists and return it, one thing each; what is gone already counts as deleted.

    Parameters
    ----------
    wait_seconds
        How long to wait for an endpoint that is being created or changed: SageMaker deletes none of these.

    Raises
    ------
    DeployError
        If an endpoint does not come to rest, or is not gone in time.
    CloudError
        If AWS refuses; the next call goes on from there.
    """
    total = len(plan.going) + (plan.stack is not None)
    done: list[str] = []
    for found in plan.going:
        _delete(found, target, wait_seconds)
        done.append(str(found))
        progress(len(done) / total, f"deleted the {found}")
    if plan.stack is not None:
        _delete_stack(plan.stack, target)
        done.append(f"stack {plan.stack.name}")
        progress(1.0, f"deleted the stack {plan.stack.name}")
    return tuple(done)


def sweep(endpoint: str, mlkey: str, *, target: Target) -> tuple[str, ...]:
    """Delete the models and configurations that neither the endpoint nor any promotion needs; return them.

    A run that was killed between two calls leaves such, and the next one has no use for them. Only one deployment of
    the MLKey may be under way, the caller's own.

    Raises
    ------
    CloudError
        If AWS refuses.
    """
    inventory = inventory_of(endpoint, mlkey, target=target)
    kinds = ("endpoint configuration", "model")
    left = find_orphans(inventory, keep=ALL, grace=timedelta(0))
    plan = plan_teardown(inventory, orphans=tuple(orphan for orphan in left if orphan.resource.kind in kinds))
    return carry_out(plan, target=target, wait_seconds=0)


def _delete(found: Resource, target: Target, wait_seconds: float) -> None:
    if found.kind == "registry entry":
        registry.forget(found.name.rpartition("/")[2], target)
        return
    if found.kind == "archive":
        bucket, _, key = found.name.removeprefix("s3://").partition("/")
        with explained(f"delete {found.name} (s3:DeleteObject)"):
            aws_client(target, "s3").delete_object(Bucket=bucket, Key=key)
        return
    if found.kind == "scaling":
        autoscaling.remove(found.uses[0], target=target)
        return
    client = aws_client(target, "sagemaker")
    if found.kind == "endpoint":
        _delete_endpoint(client, found.name, wait_seconds, POLL_SECONDS[target.kind])
    elif found.kind == "endpoint configuration":
        with explained(f"delete the {found}"):
            or_none(client.delete_endpoint_config, EndpointConfigName=found.name)
    else:
        with explained(f"delete the {found}"):
            or_none(client.delete_model, ModelName=found.name)


def _delete_endpoint(client: Any, name: str, wait_seconds: float, poll: float) -> None:
    """Delete an endpoint, once it has come to rest, and wait until it is gone."""
    deadline = time.monotonic() + wait_seconds
    while True:
        found = describe(client.describe_endpoint, EndpointName=name)
        if found is None:
            return
        status = found["EndpointStatus"]
        if status == "Deleting" or status not in PASSING:
            break
        if time.monotonic() > deadline:
            raise DeployError(
                f"the endpoint {name} is still {status}: a deployment is under way, and SageMaker deletes no endpoint "
                "meanwhile. Run this again when it is done.",
                retryable=True,
            )
        time.sleep(poll)
    delete_endpoint(client, name, poll=poll)


def _delete_stack(stack: ApiStack, target: Target) -> None:
    from botocore.exceptions import WaiterError

    client = aws_client(target, "cloudformation")
    delay = 1 if target.kind == "local" else 10
    try:
        with explained(f"delete the stack {stack.name}"):
            client.delete_stack(StackName=stack.stack_id)
            client.get_waiter("stack_delete_complete").wait(
                StackName=stack.stack_id, WaiterConfig={"Delay": delay, "MaxAttempts": STACK_SECONDS // delay}
            )
    except WaiterError as error:
        raise DeployError(
            f"the stack {stack.name} could not be deleted: {error}. Its events say why: aws cloudformation "
            f"describe-stack-events --stack-name {stack.name}"
        ) from error
