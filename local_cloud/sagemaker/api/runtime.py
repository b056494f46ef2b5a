"""The runtime: InvokeEndpoint and InvokeEndpointAsync, with the service's limits on size, time and concurrency."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from local_cloud.sagemaker.api.validation import service_model, validate
from local_cloud.sagemaker.errors import ApiError, runtime_validation_error
from local_cloud.sagemaker.metrics import Metrics
from local_cloud.sagemaker.serving.async_inference import AsyncInference
from local_cloud.sagemaker.serving.capture import Capture
from local_cloud.sagemaker.serving.deployment import Deployment
from local_cloud.sagemaker.serving.endpoints import Endpoints
from local_cloud.sagemaker.serving.invocation import CUSTOM_ATTRIBUTES, Call, Invoker
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import State

#: Most bytes in and out: 4 MB for a serverless endpoint, 6 MB (the service model's limit) for instances.
SERVERLESS_BYTES = 4 * 1024**2
INSTANCE_BYTES = 6 * 1024**2

_DRAIN_BYTES = 64 * 1024**2
_PASSED_ON = ("content-type", "accept", CUSTOM_ATTRIBUTES)


class Runtime:
    """Answers ``POST /endpoints/{name}/invocations`` and ``/async-invocations``."""

    def __init__(
        self,
        state: State,
        endpoints: Endpoints,
        settings: Settings,
        *,
        invoker: Invoker,
        queue: AsyncInference,
        capture: Capture,
        metrics: Metrics,
    ) -> None:
        self._state = state
        self._endpoints = endpoints
        self._settings = settings
        self._invoker = invoker
        self._queue = queue
        self._capture = capture
        self._metrics = metrics

    async def invoke(self, name: str, request: Request) -> Response:
        """Hand one request to the endpoint's container and pass its answer on.

        Raises
        ------
        ApiError
            ValidationError for a wrong request or an endpoint that is not there or not in service,
            ThrottlingException above MaxConcurrency, ModelNotReadyException for a cold start that takes too long,
            ModelError for whatever goes wrong in the container.
        """
        body, whole = await _read(request, INSTANCE_BYTES)
        _check_headers("InvokeEndpoint", name, request)
        deployment = self._deployment(name)
        if deployment.asynchronous:
            raise runtime_validation_error(
                f"Endpoint {name} is configured for asynchronous inference: call InvokeEndpointAsync."
            )
        wanted = request.headers.get("x-amzn-sagemaker-target-variant", deployment.variant)
        if wanted != deployment.variant:
            raise runtime_validation_error(
                f"Variant {wanted} was not found in endpoint {name}; it has {deployment.variant}."
            )
        target_model = request.headers.get("x-amzn-sagemaker-target-model")
        if target_model and deployment.facts["Container"].get("Mode") != "MultiModel":
            raise runtime_validation_error(
                f"Endpoint {name} is not a multi-model endpoint and does not support TargetModel."
            )
        most = SERVERLESS_BYTES if deployment.serverless else INSTANCE_BYTES
        if not whole or len(body) > most:
            raise runtime_validation_error(
                "1 validation error detected: Value at 'body' failed to satisfy constraint: "
                f"Member must have length less than or equal to {most}"
            )
        if deployment.serverless and deployment.in_flight >= deployment.serverless["MaxConcurrency"]:
            limit = deployment.serverless["MaxConcurrency"]
            raise ApiError(
                "ThrottlingException", f"Rate exceeded: endpoint {name} answers {limit} calls at once (MaxConcurrency)."
            )
        call = Call(
            endpoint=name,
            body=body,
            headers={header: request.headers[header] for header in _PASSED_ON if header in request.headers},
            seconds=self._settings.invocation_seconds,
            most_bytes=most,
            target_model=target_model,
        )
        began = time.monotonic()
        try:
            answer = await self._invoker.invoke(deployment, call)
        except ApiError as error:
            self._count(name, deployment, began, error)
            raise
        self._count(name, deployment, began, None)
        self._capture.offer(name, deployment, call, answer, request.headers.get("x-amzn-sagemaker-inference-id"))
        return Response(answer.body, headers=answer.headers | {"x-Amzn-Invoked-Production-Variant": deployment.variant})

    async def invoke_async(self, name: str, request: Request) -> Response:
        """Queue one request and answer at once where its result will be.

        Raises
        ------
        ApiError
            ValidationError for a wrong request, or an endpoint that is not there, not in service or not asynchronous.
        """
        body, whole = await _read(request, INSTANCE_BYTES)
        values = _check_headers("InvokeEndpointAsync", name, request)
        if not whole:
            raise runtime_validation_error("Value at 'body' failed to satisfy constraint: it is too long")
        if body:
            validate(_body_shape(), body.decode("latin-1"), code="ValidationError")
        deployment = self._deployment(name)
        if not deployment.asynchronous:
            raise runtime_validation_error(
                f"Endpoint {name} is not configured for asynchronous inference (AsyncInferenceConfig)."
            )
        queued = self._queue.enqueue(name, deployment.asynchronous, values, body)
        headers = {"X-Amzn-SageMaker-OutputLocation": queued["OutputLocation"]}
        if "FailureLocation" in queued:
            headers["X-Amzn-SageMaker-FailureLocation"] = queued["FailureLocation"]
        return JSONResponse({"InferenceId": queued["InferenceId"]}, 202, headers=headers)

    def _count(self, name: str, deployment: Deployment, began: float, error: ApiError | None) -> None:
        variant = deployment.variant
        original = error.members.get("OriginalStatusCode", error.status) if error else 200
        self._metrics.record("Invocations", name, variant, 1)
        self._metrics.record("Invocation4XXErrors", name, variant, float(400 <= original < 500))
        self._metrics.record("Invocation5XXErrors", name, variant, float(bool(error) and not 400 <= original < 500))
        if not deployment.serverless and deployment.instances:
            self._metrics.record("InvocationsPerInstance", name, variant, 1 / deployment.instances)
        if error is None:
            self._metrics.record("ModelLatency", name, variant, (time.monotonic() - began) * 1e6)

    def _deployment(self, name: str) -> Deployment:
        record = self._state.get("endpoint", name)
        account = self._settings.account
        if record is None:
            raise runtime_validation_error(f"Endpoint {name} of account {account} not found.")
        deployment = self._endpoints.route(name)
        if deployment is None or record["EndpointStatus"] not in ("InService", "Updating", "RollingBack"):
            raise runtime_validation_error(
                f"Endpoint {name} of account {account} is not in service: its status is {record['EndpointStatus']}."
            )
        return deployment


async def _read(request: Request, most: int) -> tuple[bytes, bool]:
    """Read the body; the second value says whether it was whole. What is beyond the limit is read and dropped.

    A client that is still sending when it is refused sees a broken connection instead of the refusal.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        if size > _DRAIN_BYTES:
            break
    return b"".join(chunks), size <= most


def _body_shape() -> Any:
    return service_model("sagemaker-runtime").operation_model("InvokeEndpointAsync").input_shape.members["Body"]


def _check_headers(operation: str, name: str, request: Request) -> dict[str, Any]:
    """Hold the name and the headers against the service model; return them by the model's names."""
    shape = service_model("sagemaker-runtime").operation_model(operation).input_shape
    values: dict[str, Any] = {"EndpointName": name, "Body": ""}  # the body is bytes, and has limits of its own
    for member, member_shape in shape.members.items():
        if member_shape.serialization.get("location") == "header":
            header = request.headers.get(member_shape.serialization["name"])
            if header is not None:
                values[member] = int(header) if member_shape.type_name == "integer" and _integer(header) else header
    validate(shape, values, code="ValidationError")
    return values


def _integer(text: str) -> bool:
    return text.lstrip("-").isdecimal() and text.isascii()
