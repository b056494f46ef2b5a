"""The HTTP side: both planes of SageMaker on one port."""

import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from askline.clients import aws_client
from askline.records import Target
from local_cloud.sagemaker import permissions
from local_cloud.sagemaker.control import ControlPlane
from local_cloud.sagemaker.deployment import Settings
from local_cloud.sagemaker.endpoints import Endpoints
from local_cloud.sagemaker.errors import ApiError
from local_cloud.sagemaker.runtime import Runtime
from local_cloud.sagemaker.state import State

log = logging.getLogger("local_cloud.sagemaker")

_JSON_1_1 = "application/x-amz-json-1.1"
_TARGET_PREFIX = "SageMaker."


def create_app(settings: Settings) -> Starlette:
    """Return the application over the state folder.

    Raises
    ------
    StateError
        If a file in it is damaged.
    """
    target = Target(kind="local", region=settings.region, endpoints={"s3": settings.s3_url, "iam": settings.iam_url})
    # proxies={}: a proxy in the environment is not for the loopback addresses that these clients call.
    calls: dict[str, Any] = {"proxies": {}, "connect_timeout": 5, "read_timeout": 60}
    s3, iam = aws_client(target, "s3", **calls), aws_client(target, "iam", **calls)
    state = State(settings.state_dir)
    endpoints = Endpoints(state, settings, s3)
    control = ControlPlane(state, endpoints, settings, s3=s3, iam=iam)
    runtime = Runtime(state, endpoints, settings)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "endpoints": len(state.all("endpoint"))})

    async def control_plane(request: Request) -> Response:
        try:
            _check_signed(request)
            target_header = request.headers.get("x-amz-target", "")
            operation = target_header.removeprefix(_TARGET_PREFIX) if target_header.startswith(_TARGET_PREFIX) else ""
            asked = _parse(await request.body())
            await permissions.authorize(request, permissions.checks_of(operation, asked, settings), settings)
            await permissions.role_reads(iam, operation, asked, settings)
            answer = await control.call(operation, asked)
        except Exception as error:  # noqa: BLE001 - a caller gets InternalFailure, the log the traceback
            refusal = _refusal(error)
            content: dict[str, Any] = {"__type": refusal.code, "message": refusal.message}
            return JSONResponse(content, refusal.status, headers=_headers(), media_type=_JSON_1_1)
        return JSONResponse(answer, headers=_headers(), media_type=_JSON_1_1)

    async def invocations(request: Request) -> Response:
        try:
            _check_signed(request)
            await permissions.authorize(
                request, permissions.invocation(request.path_params["name"], settings), settings
            )
            answer = await runtime.invoke(request.path_params["name"], request)
        except Exception as error:  # noqa: BLE001 - a caller gets InternalFailure, the log the traceback
            refusal = _refusal(error)
            content = {"Message": refusal.message, **refusal.members}
            headers = _headers() | {"x-amzn-ErrorType": refusal.code}
            return JSONResponse(content, refusal.status, headers=headers)
        answer.headers.update(_headers())
        return answer

    async def unknown(request: Request) -> Response:
        message = f"the embedded SageMaker has no {request.method} {request.url.path}"
        headers = _headers() | {"x-amzn-ErrorType": "UnknownOperationException"}
        return JSONResponse({"Message": message}, 404, headers=headers)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await endpoints.restore()
        yield
        await endpoints.close()

    routes = [
        Route("/_askline/health", health, methods=["GET"]),
        Route("/", control_plane, methods=["POST"]),
        Route("/endpoints/{name}/invocations", invocations, methods=["POST"]),
        Route("/{path:path}", unknown, methods=["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _check_signed(request: Request) -> None:
    # Signatures are not checked: the address is loopback, and the keys are no secret. That there is one is checked.
    if "authorization" not in request.headers:
        raise ApiError("MissingAuthenticationToken", "The request has no Authorization header: sign it.", status=403)


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
