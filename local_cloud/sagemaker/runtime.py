"""The runtime: InvokeEndpoint, with the service's limits on size, time and concurrency."""

import asyncio
import logging

import httpx
from starlette.requests import Request
from starlette.responses import Response

from local_cloud.sagemaker.archive import ArchiveError
from local_cloud.sagemaker.container import ContainerError
from local_cloud.sagemaker.deployment import Deployment, NotReadyError, Settings
from local_cloud.sagemaker.endpoints import Endpoints
from local_cloud.sagemaker.errors import ApiError, runtime_validation_error
from local_cloud.sagemaker.state import State
from local_cloud.sagemaker.validation import service_model, validate

log = logging.getLogger("local_cloud.sagemaker")

#: Most bytes in and out: 4 MB for a serverless endpoint, 6 MB (the service model's limit) for instances.
SERVERLESS_BYTES = 4 * 1024**2
INSTANCE_BYTES = 6 * 1024**2

_CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_DRAIN_BYTES = 64 * 1024**2


class Runtime:
    """Answers ``POST /endpoints/{name}/invocations``."""

    def __init__(self, state: State, endpoints: Endpoints, settings: Settings) -> None:
        self._state = state
        self._endpoints = endpoints
        self._settings = settings

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
        _check_headers(name, request)
        deployment = self._deployment(name)
        variant = deployment.facts["Variant"]["VariantName"]
        wanted = request.headers.get("x-amzn-sagemaker-target-variant", variant)
        if wanted != variant:
            raise runtime_validation_error(f"Variant {wanted} was not found in endpoint {name}; it has {variant}.")
        if request.headers.get("x-amzn-sagemaker-target-model"):
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
        async with deployment.call():
            answer = await self._forward(name, deployment, request, body, variant=variant, most=most)
            if answer is None:
                # The container had died without our having noticed. Nothing was sent, so a new one may get the call.
                answer = await self._forward(name, deployment, request, body, variant=variant, most=most)
            if answer is None:
                raise self._model_error(name, 0, "The container could not be reached.")
            return answer

    async def _forward(
        self, name: str, deployment: Deployment, request: Request, body: bytes, *, variant: str, most: int
    ) -> Response | None:
        """Put the call to the container; None says that nobody was there to take it."""
        try:
            container = await deployment.awake()
        except NotReadyError:
            seconds = self._settings.cold_seconds
            raise ApiError(
                "ModelNotReadyException",
                f"The container of endpoint {name} is still starting after {seconds:g} seconds. Try again.",
                status=429,
            ) from None
        except (ContainerError, ArchiveError) as error:
            raise self._model_error(name, 0, f"The container {error}") from None
        passed_on = ("content-type", "accept", _CUSTOM_ATTRIBUTES)
        headers = {header: request.headers[header] for header in passed_on if header in request.headers}
        try:
            async with asyncio.timeout(self._settings.invocation_seconds):
                answer = await container.client.post("/invocations", content=body, headers=headers, timeout=None)
        except TimeoutError:
            # Handlers run one at a time: what waits behind this call would wait for ever.
            seconds = self._settings.invocation_seconds
            await container.kill(f"did not answer a call within {seconds:g} seconds and was stopped")
            raise self._model_error(
                name,
                0,
                f"Your invocation timed out while waiting for a response from container primary ({seconds:g} seconds).",
            ) from None
        except httpx.HTTPError as error:
            await container.ended()
            if isinstance(error, httpx.ConnectError):
                return None
            raise self._model_error(name, 0, f"The container {container.death()}.") from None
        if answer.status_code >= 400:
            raise self._model_error(name, answer.status_code, answer.text)
        if len(answer.content) > most:
            raise self._model_error(
                name, 0, f"The answer has {len(answer.content):,} bytes; at most {most:,} are passed on."
            )
        kept = {
            header: answer.headers[header]
            for header in ("content-type", _CUSTOM_ATTRIBUTES)
            if header in answer.headers
        }
        return Response(answer.content, headers=kept | {"x-Amzn-Invoked-Production-Variant": variant})

    def _deployment(self, name: str) -> Deployment:
        record = self._state.get("endpoint", name)
        account = self._settings.account
        if record is None:
            raise runtime_validation_error(f"Endpoint {name} of account {account} not found.")
        deployment = self._endpoints.active(name)
        if deployment is None or record["EndpointStatus"] not in ("InService", "Updating"):
            raise runtime_validation_error(
                f"Endpoint {name} of account {account} is not in service: its status is {record['EndpointStatus']}."
            )
        return deployment

    def _model_error(self, name: str, status: int, message: str) -> ApiError:
        region, account = self._settings.region, self._settings.account
        kind = "client" if 400 <= status < 500 else "server"
        group = f"/aws/sagemaker/Endpoints/{name}"
        log_file = self._settings.state_dir / "logs" / f"{name}.log"
        return ApiError(
            "ModelError",
            f'Received {kind} error ({status}) from primary with message "{message}". See {log_file}.',
            status=424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{region}:{account}:log-group:{group}",
        )


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


def _check_headers(name: str, request: Request) -> None:
    shape = service_model("sagemaker-runtime").operation_model("InvokeEndpoint").input_shape
    values = {"EndpointName": name, "Body": ""}  # the body is bytes, and has limits of its own
    for member, member_shape in shape.members.items():
        if member_shape.serialization.get("location") == "header":
            header = request.headers.get(member_shape.serialization["name"])
            if header is not None:
                values[member] = header
    validate(shape, values, code="ValidationError")
