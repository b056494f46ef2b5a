"""The HTTP side: both planes of SageMaker, Application Auto Scaling and Service Quotas on one port."""

import asyncio
import json
import logging
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from askline.clients import LOCAL_ACCESS_KEY_ID, aws_client
from askline.records import Target
from local_cloud.guard import Guard, Scope, same
from local_cloud.sagemaker.alarms import Alarms
from local_cloud.sagemaker.api import permissions
from local_cloud.sagemaker.api.control import ControlPlane
from local_cloud.sagemaker.api.quotas import Quotas
from local_cloud.sagemaker.api.runtime import Runtime
from local_cloud.sagemaker.errors import ApiError
from local_cloud.sagemaker.metrics import Metrics
from local_cloud.sagemaker.scaling.autoscaling import AutoScaling
from local_cloud.sagemaker.scaling.scaler import Scaler
from local_cloud.sagemaker.serving.async_inference import AsyncInference
from local_cloud.sagemaker.serving.capture import Capture
from local_cloud.sagemaker.serving.endpoints import Endpoints
from local_cloud.sagemaker.serving.invocation import Invoker
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State
from local_cloud.sagemaker.training.jobs import TrainingJobs

log = logging.getLogger("local_cloud.sagemaker")

_JSON_1_1 = "application/x-amz-json-1.1"


class Plane(NamedTuple):
    """A service whose operations are told apart by the header ``X-Amz-Target``."""

    call: Callable[[str, Any], Awaitable[Record]]
    checks: Callable[[str, Any, Settings], Iterator[permissions.Check]]
    """What permissions an operation takes."""


def create_app(settings: Settings) -> Starlette:
    """Return the application over the state folder.

    Raises
    ------
    StateError
        If a file in it is damaged.
    """
    services = {
        "s3": settings.s3_url,
        "iam": settings.iam_url,
        "sns": settings.sns_url,
        "cloudwatch": settings.cloudwatch_url,
        "logs": settings.cloudwatch_url,
    }
    target = Target(kind="local", region=settings.region, endpoints=services)
    # proxies={}: a proxy in the environment is not for the loopback addresses that these clients call.
    calls: dict[str, Any] = {"proxies": {}, "connect_timeout": 5, "read_timeout": 60, "max_pool_connections": 50}
    s3, iam, sns, cloudwatch, logs = (aws_client(target, service, **calls) for service in services)
    state, metrics = State(settings.state_dir), Metrics(settings.minute_seconds)
    alarms, quotas = Alarms(cloudwatch, metrics), Quotas(settings, state)
    endpoints = Endpoints(state, settings, s3, alarms)
    invoker, capture = Invoker(settings), Capture(settings, s3)
    queue = AsyncInference(state, endpoints, settings, invoker=invoker, metrics=metrics, s3=s3, sns=sns)
    scaling = AutoScaling(state, settings)
    scaler = Scaler(state, endpoints, settings, queue=queue, metrics=metrics, alarms=alarms, quotas=quotas)
    training = TrainingJobs(state, settings, s3=s3, iam=iam, logs=logs)
    control = ControlPlane(
        state,
        endpoints,
        settings,
        quotas=quotas,
        alarms=alarms,
        scaled=scaling.scaled_variant,
        others=training.operations,
        s3=s3,
        iam=iam,
    )
    runtime = Runtime(state, endpoints, settings, invoker=invoker, queue=queue, capture=capture, metrics=metrics)
    planes = {
        "SageMaker": Plane(control.call, permissions.checks_of),
        "AnyScaleFrontendService": Plane(scaling.call, permissions.scaling_checks),
        "ServiceQuotasV20190624": Plane(quotas.call, _of_no_resource("servicequotas")),
    }

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "endpoints": len(state.all("endpoint"))})

    async def control_plane(request: Request) -> Response:
        try:
            _check_signed(request, settings)
            service, _, operation = request.headers.get("x-amz-target", "").partition(".")
            plane = planes.get(service, planes["SageMaker"])
            if service not in planes:
                operation = ""
            asked = _parse(await request.body())
            await permissions.authorize(request, plane.checks(operation, asked, settings), settings)
            if service == "SageMaker":
                await permissions.role_reads(iam, operation, asked, settings)
            answer = await plane.call(operation, asked)
        except Exception as error:  # noqa: BLE001 - a caller gets InternalFailure, the log the traceback
            refusal = _refusal(error)
            content: dict[str, Any] = {"__type": refusal.code, "message": refusal.message}
            return JSONResponse(content, refusal.status, headers=_headers(), media_type=_JSON_1_1)
        return JSONResponse(answer, headers=_headers(), media_type=_JSON_1_1)

    async def invocations(request: Request) -> Response:
        name, asynchronous = request.path_params["name"], request.url.path.endswith("/async-invocations")
        try:
            _check_signed(request, settings)
            taken = permissions.invocation(name, settings, asynchronous=asynchronous)
            await permissions.authorize(request, taken, settings)
            answer = await (runtime.invoke_async if asynchronous else runtime.invoke)(name, request)
        except Exception as error:  # noqa: BLE001 - a caller gets InternalFailure, the log the traceback
            refusal = _refusal(error)
            content = {"Message": refusal.message, **refusal.members}
            headers = _headers() | {"x-amzn-ErrorType": refusal.code}
            return JSONResponse(content, refusal.status, headers=headers)
        answer.headers.update(_headers())
        return answer

    async def interrupt(request: Request) -> Response:
        try:
            _check_signed(request, settings)
            training.interrupt(request.path_params["name"])
        except ApiError as error:
            return JSONResponse({"Message": error.message}, error.status)
        return JSONResponse({})

    async def unknown(request: Request) -> Response:
        message = f"the embedded SageMaker has no {request.method} {request.url.path}"
        headers = _headers() | {"x-amzn-ErrorType": "UnknownOperationException"}
        return JSONResponse({"Message": message}, 404, headers=headers)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await endpoints.restore()
        await training.restore()
        tasks = [asyncio.create_task(work) for work in (queue.run(), capture.run(), scaler.run())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await training.close()
        await queue.close()
        await endpoints.close()

    routes = [
        Route("/_askline/health", health, methods=["GET"]),
        Route("/_askline/training-jobs/{name}/interrupt", interrupt, methods=["POST"]),
        Route("/", control_plane, methods=["POST"]),
        Route("/endpoints/{name}/invocations", invocations, methods=["POST"]),
        Route("/endpoints/{name}/async-invocations", invocations, methods=["POST"]),
        Route("/{path:path}", unknown, methods=["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Guard, _no_key)])


def _of_no_resource(service: str) -> Callable[[str, Any, Settings], Iterator[permissions.Check]]:
    """Return the permissions of a service whose operations are allowed as such, on all resources."""

    def checks(operation: str, _request: Any, _settings: Settings) -> Iterator[permissions.Check]:
        yield permissions.Check(f"{service}:{operation}", "*")

    return checks


def _check_signed(request: Request, settings: Settings) -> None:
    """Refuse a caller who does not know the access key with which this service was started.

    The signature is not checked here: knowing the key's id is knowing the cloud's secret. Where permissions are
    enforced there are more keys than this one, and IAM decides about each.
    """
    signed = re.search(r"Credential=([^/,\s]+)/", request.headers.get("authorization", ""))
    if signed is None:
        raise ApiError("MissingAuthenticationToken", "The request has no Authorization header: sign it.", status=403)
    if settings.authorize_url is None and not same(signed[1], own_key()):
        raise ApiError(
            "UnrecognizedClientException",
            "The security token included in the request is invalid: use the keys of python -m local_cloud env.",
            status=403,
        )


def own_key() -> str:
    """Return the id of the access key with which this service calls the others, and others call it."""
    return os.environ.get("AWS_ACCESS_KEY_ID", LOCAL_ACCESS_KEY_ID)


def _no_key(_headers: dict[str, str], _scope: Scope) -> None:
    """Leave the key to the routes, which refuse in SageMaker's own words."""


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", f"the request is not JSON: {error}") from None


def _refusal(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    log.error("a request failed", exc_info=error)
    return ApiError(
        "InternalFailure", f"the embedded SageMaker failed with {type(error).__name__}: {error}", status=500
    )


def _headers() -> dict[str, str]:
    return {"x-amzn-RequestId": str(uuid.uuid4())}
