"""An endpoint as SageMaker tells of it: whether it is there, at rest, and how it is deleted."""

import time
from collections.abc import Callable
from typing import Any

from askline.errors import DeployError
from tasks.aws.errors import explained, or_none

#: Endpoint statuses that pass by themselves.
PASSING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
#: Seconds between two looks at the endpoint.
POLL_SECONDS = {"local": 0.5, "aws": 10.0}
DELETE_SECONDS = 180


def describe(call: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
    """Return what a Describe call answers; None where there is no such thing.

    Raises
    ------
    DeployError
        If AWS refuses.
    """
    with explained(f"look up {next(iter(name.values()))}", error_type=DeployError):
        found: dict[str, Any] | None = or_none(call, **name)
    return found


def delete_endpoint(client: Any, name: str, *, poll: float) -> None:
    """Delete an endpoint at rest and wait until it is gone: only then is its name free.

    Raises
    ------
    DeployError
        If AWS refuses, or it is still there after three minutes.
    """
    with explained(f"delete the endpoint {name}", error_type=DeployError):
        or_none(client.delete_endpoint, EndpointName=name)
    deadline = time.monotonic() + DELETE_SECONDS
    while describe(client.describe_endpoint, EndpointName=name) is not None:
        if time.monotonic() > deadline:
            raise DeployError(f"the endpoint {name} is not deleted after {DELETE_SECONDS} s; deploy again later")
        time.sleep(poll)
