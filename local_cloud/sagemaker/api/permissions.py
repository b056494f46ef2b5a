"""Whether a caller may do what it asks, by IAM's policies: ``python -m local_cloud up --enforce-iam``.

The actions and resources of each operation are SageMaker's own (Service Authorization Reference); the signature, the
caller and its policies are judged by MiniStack, whose IAM holds them. Root's keys, ``test``, may do everything.
"""

import asyncio
import base64
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import httpx
from starlette.requests import Request

from local_cloud.sagemaker.errors import ApiError, validation_error

#: What the ARN of a name has in front of it, by the member that holds the name.
_RESOURCE = {
    "ModelName": "model",
    "EndpointConfigName": "endpoint-config",
    "EndpointName": "endpoint",
    "TrainingJobName": "training-job",
}
#: Operations with more than one named resource: the one that is made or changed comes first.
_LISTS = re.compile(r"List(Models|EndpointConfigs|Endpoints|TrainingJobs)$")
_TAGS = "Tags"
_PASSED_TO = {"iam:passedtoservice": "sagemaker.amazonaws.com"}


class Settings(Protocol):
    """What this module reads of the server's settings."""

    @property
    def region(self) -> str: ...  # noqa: D102
    @property
    def account(self) -> str: ...  # noqa: D102
    @property
    def authorize_url(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True)
class Check:
    """One action on one resource that a request takes."""

    action: str
    resource: str
    context: dict[str, Any] = field(default_factory=dict)


def checks_of(operation: str, request: Any, settings: Settings) -> Iterator[Check]:
    """Yield what a control plane request takes; the first one is the operation itself.

    Serverless and other endpoints alike: CreateEndpoint and UpdateEndpoint are allowed on the endpoint *and* on its
    configuration, a role needs ``iam:PassRole``, and tags on a new resource need ``sagemaker:AddTags``.
    """
    members = request if isinstance(request, dict) else {}
    action = f"sagemaker:{operation}"
    if _LISTS.fullmatch(operation):  # these take no resource
        yield Check(action, "*")
        return
    if operation in ("AddTags", "ListTags", "DeleteTags"):
        yield Check(action, str(members.get("ResourceArn", "*")), _tag_context(members))
        return
    named = [_arn(kind, members[member], settings) for member, kind in _RESOURCE.items() if member in members]
    if operation in ("CreateEndpoint", "UpdateEndpoint"):
        own, config = _arn("endpoint", members.get("EndpointName"), settings), named[0] if len(named) > 1 else None
        yield Check(action, own, _tag_context(members))
        if config is not None:
            yield Check(action, config, _tag_context(members))
        named = [own]
    else:
        named = named[:1] or ["*"]
        yield Check(action, named[0], _tag_context(members))
    if members.get(_TAGS):
        yield Check("sagemaker:AddTags", named[0], _tag_context(members))
    for member in ("ExecutionRoleArn", "RoleArn"):
        if members.get(member):
            yield Check("iam:PassRole", str(members[member]), dict(_PASSED_TO))


async def authorize(request: Request, checks: Iterator[Check], settings: Settings) -> None:
    """Return if the caller may; without enforcement it always may.

    Raises
    ------
    ApiError
        ``AccessDeniedException`` that names user and action, or what is wrong with the signature.
    """
    if settings.authorize_url is None:
        return
    question = {
        "method": request.method,
        "path": request.scope.get("raw_path", request.url.path.encode()).decode("latin-1"),
        "query": request.url.query,
        "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
        "body": base64.b64encode(await request.body()).decode(),
        "checks": [asdict(check) for check in checks],
    }
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            key = {"authorization": f"Bearer {os.environ.get('AWS_ACCESS_KEY_ID', '')}"}
            answer = (await client.post(settings.authorize_url, json=question, headers=key)).json()
    except (httpx.HTTPError, ValueError) as error:
        raise ApiError("InternalFailure", f"IAM cannot be asked: {error!r}", status=500) from error
    if answer:
        status = 500 if answer["code"] == "InternalFailure" else 400 if answer["code"].startswith("Access") else 403
        raise ApiError(answer["code"], answer["message"], status=status)


async def role_reads(iam: Any, operation: str, request: Any, settings: Settings) -> None:
    """Have CreateModel check that the execution role may read the model data, as SageMaker does.

    Raises
    ------
    ApiError
        If it may not.
    """
    if settings.authorize_url is None or operation != "CreateModel":
        return
    role = request.get("ExecutionRoleArn")
    containers = [request.get("PrimaryContainer"), *(request.get("Containers") or [])]
    urls = [container["ModelDataUrl"] for container in containers if container and container.get("ModelDataUrl")]
    for url in urls if role else ():
        resource = "arn:aws:s3:::" + url.removeprefix("s3://")
        found = await asyncio.to_thread(
            iam.simulate_principal_policy,
            PolicySourceArn=role,
            ActionNames=["s3:GetObject"],
            ResourceArns=[resource],
        )
        if found["EvaluationResults"][0]["EvalDecision"] != "allowed":
            raise validation_error(
                f'Could not access model data at {url}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
                f"object is located in {settings.region}."
            )


def scaling_checks(operation: str, request: Any, settings: Settings) -> Iterator[Check]:
    """Yield what a request to Application Auto Scaling takes: looking has no resource, changing a scalable target."""
    action = f"application-autoscaling:{operation}"
    if operation.startswith("Describe"):
        yield Check(action, "*")
        return
    place = f"arn:aws:application-autoscaling:{settings.region}:{settings.account}:scalable-target"
    name = request.get("ResourceId", "*") if isinstance(request, dict) else "*"
    yield Check(action, f"{place}/{name}")


def invocation(endpoint: str, settings: Settings, *, asynchronous: bool = False) -> Iterator[Check]:
    """Yield what a call of the runtime takes."""
    action = "sagemaker:InvokeEndpointAsync" if asynchronous else "sagemaker:InvokeEndpoint"
    yield Check(action, _arn("endpoint", endpoint, settings))


def _arn(kind: str, name: Any, settings: Settings) -> str:
    return f"arn:aws:sagemaker:{settings.region}:{settings.account}:{kind}/{name}"


def _tag_context(members: dict[str, Any]) -> dict[str, Any]:
    tags = members.get(_TAGS)
    if not isinstance(tags, list) or not tags:
        return {}
    pairs = {tag["Key"]: tag["Value"] for tag in tags if isinstance(tag, dict) and "Key" in tag and "Value" in tag}
    context: dict[str, Any] = {f"aws:requesttag/{key}".lower(): value for key, value in pairs.items()}
    return context | {"aws:tagkeys": list(pairs)}
