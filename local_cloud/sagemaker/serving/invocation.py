"""One call of a container: put to an instance, bounded in time and size, and its answer or what went wrong."""

import asyncio
from dataclasses import dataclass

import httpx

from local_cloud.sagemaker.archive import ArchiveError
from local_cloud.sagemaker.errors import ApiError, runtime_validation_error
from local_cloud.sagemaker.serving.container import ContainerError
from local_cloud.sagemaker.serving.deployment import Deployment, NoCapacityError
from local_cloud.sagemaker.serving.worker import NotReadyError, Worker
from local_cloud.sagemaker.settings import Settings

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is put to a container."""

    endpoint: str
    body: bytes
    headers: dict[str, str]
    """Content type, accepted type and custom attributes, as far as the caller gave them."""
    seconds: float
    """For the answer."""
    most_bytes: int
    """Of the answer."""
    target_model: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a container answered."""

    body: bytes
    headers: dict[str, str]


class Invoker:
    """Puts calls to the containers of deployments."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def invoke(self, deployment: Deployment, call: Call) -> Answer:
        """Hand a call to one of the deployment's instances and return the answer.

        Raises
        ------
        ApiError
            ModelNotReadyException for a cold start that takes too long, ModelError for whatever goes wrong in the
            container, ValidationError where there is no instance, or no such target model.
        """
        async with deployment.call():
            for _ in range(2):
                try:
                    worker = await deployment.worker(call.target_model)
                except NoCapacityError as error:
                    raise runtime_validation_error(str(error)) from None
                async with worker.call():
                    answer = await self._forward(worker, call)
                if answer is not None:
                    return answer
                # The container had died without our having noticed. Nothing was sent, so a new one may get the call.
            raise self._model_error(call, 0, "The container could not be reached.")

    async def _forward(self, worker: Worker, call: Call) -> Answer | None:
        """Put the call to the container; None says that nobody was there to take it."""
        try:
            container = await worker.awake()
        except NotReadyError:
            seconds = self._settings.cold_seconds
            raise ApiError(
                "ModelNotReadyException",
                f"The container of endpoint {call.endpoint} is still starting after {seconds:g} seconds. Try again.",
                status=429,
            ) from None
        except (ContainerError, ArchiveError) as error:
            raise self._model_error(call, 0, f"The container {error}") from None
        try:
            async with asyncio.timeout(call.seconds):
                answer = await container.client.post(
                    "/invocations", content=call.body, headers=call.headers, timeout=None
                )
        except TimeoutError:
            # Handlers run one at a time: what waits behind this call would wait for ever.
            await container.kill(f"did not answer a call within {call.seconds:g} seconds and was stopped")
            raise self._model_error(
                call,
                0,
                "Your invocation timed out while waiting for a response from container primary "
                f"({call.seconds:g} seconds).",
            ) from None
        except httpx.HTTPError as error:
            await container.ended()
            if isinstance(error, httpx.ConnectError):
                return None
            raise self._model_error(call, 0, f"The container {container.death()}.") from None
        if answer.status_code >= 400:
            raise self._model_error(call, answer.status_code, answer.text)
        if len(answer.content) > call.most_bytes:
            raise self._model_error(
                call, 0, f"The answer has {len(answer.content):,} bytes; at most {call.most_bytes:,} are passed on."
            )
        kept = ("content-type", CUSTOM_ATTRIBUTES)
        return Answer(answer.content, {name: answer.headers[name] for name in kept if name in answer.headers})

    def _model_error(self, call: Call, status: int, message: str) -> ApiError:
        region, account = self._settings.region, self._settings.account
        kind = "client" if 400 <= status < 500 else "server"
        group = f"/aws/sagemaker/Endpoints/{call.endpoint}"
        log_file = self._settings.state_dir / "logs" / f"{call.endpoint}.log"
        return ApiError(
            "ModelError",
            f'Received {kind} error ({status}) from primary with message "{message}". See {log_file}.',
            status=424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{region}:{account}:log-group:{group}",
        )
