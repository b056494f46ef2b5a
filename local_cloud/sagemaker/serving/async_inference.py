"""Asynchronous inference: a queue on disk, worked off by the endpoint's instances, with its results in S3.

A call is on disk before it is acknowledged and leaves only when its result, or why there is none, is in S3. After
``kill -9`` what was being answered is answered again: a result may be written twice, but none is lost.
"""

import asyncio
import base64
import json
import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from local_cloud.sagemaker.archive import parse_s3_url
from local_cloud.sagemaker.errors import ApiError, runtime_validation_error
from local_cloud.sagemaker.metrics import Metrics
from local_cloud.sagemaker.serving.deployment import Deployment
from local_cloud.sagemaker.serving.endpoints import Endpoints
from local_cloud.sagemaker.serving.invocation import CUSTOM_ATTRIBUTES, Answer, Call, Invoker
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State

log = logging.getLogger("local_cloud.sagemaker")

#: Seconds for an answer, and of waiting in the queue, where a call does not say.
DEFAULT_TIMEOUT_SECONDS = 900
DEFAULT_TTL_SECONDS = 21_600
#: Of the input and of the result.
MOST_BYTES = 1024**3
#: Of an answer that goes into a notification; SNS takes 256 KB in all.
_MOST_NOTIFIED_BYTES = 128_000
_LOOK_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


class _ClientError(Exception):
    """The call cannot be answered; trying again would not help."""

    def __init__(self, reason: str, body: bytes | None = None) -> None:
        super().__init__(reason)
        self.body = reason.encode() if body is None else body


class AsyncInference:
    """The queues of all asynchronous endpoints."""

    def __init__(
        self,
        state: State,
        endpoints: Endpoints,
        settings: Settings,
        *,
        invoker: Invoker,
        metrics: Metrics,
        s3: Any,
        sns: Any,
    ) -> None:
        self._state = state
        self._endpoints = endpoints
        self._settings = settings
        self._invoker = invoker
        self._metrics = metrics
        self._s3 = s3
        self._sns = sns
        self._wake = asyncio.Event()
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._troubles: dict[str, int] = {}

    # -- what the API calls ------------------------------------------------------------------------------------------

    def enqueue(self, endpoint: str, config: Record, values: Record, body: bytes) -> Record:
        """Queue a call and return its record, with ``InferenceId`` and the locations of its outcome.

        Raises
        ------
        ApiError
            If it does not have exactly one input.
        """
        location = values.get("InputLocation")
        if bool(location) == bool(body):
            raise runtime_validation_error("The call needs an InputLocation or a Body, and not both.")
        if location:
            try:
                parse_s3_url(location)
            except ValueError as error:
                raise runtime_validation_error(f"InputLocation {error}.") from None
        call_id, now = uuid.uuid4().hex, time.time()
        output = config["OutputConfig"]
        name = values.get("Filename") or f"{uuid.UUID(call_id)}.out"
        folder = output["S3OutputPath"].rstrip("/")
        if "S3OutputPathExtension" in values:
            folder += "/" + values["S3OutputPathExtension"].strip("/")
        record: Record = {
            "CallId": call_id,
            "EndpointName": endpoint,
            "InferenceId": values.get("InferenceId", str(uuid.UUID(call_id))),
            "ContentType": values.get("ContentType", "application/octet-stream"),
            "ReceivedTime": now,
            "ExpirationTime": now + values.get("RequestTTLSeconds", DEFAULT_TTL_SECONDS),
            "TimeoutSeconds": values.get("InvocationTimeoutSeconds", DEFAULT_TIMEOUT_SECONDS),
            "OutputLocation": f"{folder}/{name}",
            "OutputConfig": output,
        }
        for member in ("InputLocation", "Accept", "CustomAttributes"):
            if member in values:
                record[member] = values[member]
        if body:
            record["Body"] = base64.b64encode(body).decode()
        if "S3FailurePath" in output:
            record["FailureLocation"] = f"{output['S3FailurePath'].rstrip('/')}/{uuid.UUID(call_id)}-error.out"
        self._state.put("async-call", record)
        self._wake.set()
        return record

    def backlog(self, endpoint: str) -> int:
        """Return how many calls of an endpoint wait or are being answered."""
        return len([call for call in self._state.all("async-call") if call["EndpointName"] == endpoint])

    # -- the server's life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work the queues off, for ever."""
        while True:
            try:
                self._hand_out()
            except Exception:
                log.exception("the queue of asynchronous calls could not be worked off")
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Let go of what is being answered; it stays in the queue."""
        tasks = list(self._at_work.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the work ----------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        room: dict[str, int] = {}
        for call in sorted(self._state.all("async-call"), key=lambda call: call["ReceivedTime"]):
            call_id, endpoint = call["CallId"], call["EndpointName"]
            if call_id in self._at_work:
                continue
            if self._state.get("endpoint", endpoint) is None:
                self._forget(call_id)  # the queue goes with its endpoint
                continue
            deployment = self._endpoints.route(endpoint)
            if time.monotonic() < self._not_before.get(call_id, 0):
                continue
            if endpoint not in room:
                room[endpoint] = self._room(endpoint, deployment) if deployment else 0
            if call["ExpirationTime"] < time.time():
                self._begin(call, None)
            elif deployment is not None and room[endpoint] > 0:
                room[endpoint] -= 1
                self._begin(call, deployment)

    def _room(self, endpoint: str, deployment: Deployment) -> int:
        client = (deployment.asynchronous or {}).get("ClientConfig", {})
        at_once = int(client.get("MaxConcurrentInvocationsPerInstance", 1))
        busy = sum(
            call["EndpointName"] == endpoint and call["CallId"] in self._at_work
            for call in self._state.all("async-call")
        )
        return int(deployment.instances * at_once - busy)

    def _begin(self, call: Record, deployment: Deployment | None) -> None:
        task = asyncio.create_task(self._answer(call, deployment))
        self._at_work[call["CallId"]] = task
        task.add_done_callback(lambda _task: self._ended(call["CallId"]))

    def _ended(self, call_id: str) -> None:
        self._at_work.pop(call_id, None)
        self._wake.set()

    async def _answer(self, call: Record, deployment: Deployment | None) -> None:
        """Answer one call and tell of it; where S3 or SNS do not answer, the call goes back to the queue."""
        call_id = call["CallId"]
        try:
            try:
                if deployment is None:
                    raise _ClientError("ClientError: the request expired in the queue (RequestTTLSeconds).")
                answer = await self._result(call, deployment)
            except _ClientError as error:
                await asyncio.to_thread(self._tell_failure, call, error)
            else:
                await asyncio.to_thread(self._tell_success, call, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call must not be lost
            self._troubles[call_id] = self._troubles.get(call_id, 0) + 1
            pause = min(2.0 ** (self._troubles[call_id] - 1), _LONGEST_PAUSE_SECONDS)
            self._not_before[call_id] = time.monotonic() + pause
            log.warning("asynchronous call %s is put back for %g seconds: %s", call_id, pause, error)
            return
        self._forget(call_id)

    def _forget(self, call_id: str) -> None:
        self._state.delete("async-call", call_id)
        self._not_before.pop(call_id, None)
        self._troubles.pop(call_id, None)

    async def _result(self, call: Record, deployment: Deployment) -> Answer:
        body = await asyncio.to_thread(self._read_input, call)
        headers = {"content-type": call["ContentType"]}
        headers |= {"accept": call["Accept"]} if "Accept" in call else {}
        headers |= {CUSTOM_ATTRIBUTES: call["CustomAttributes"]} if "CustomAttributes" in call else {}
        name, variant, began = call["EndpointName"], deployment.variant, time.monotonic()
        try:
            answer = await self._invoker.invoke(
                deployment,
                Call(
                    endpoint=name,
                    body=body,
                    headers=headers,
                    seconds=call["TimeoutSeconds"],
                    most_bytes=MOST_BYTES,
                ),
            )
        except ApiError as error:
            if error.code != "ModelError":
                raise  # no instance, or it is still starting: later
            self._metrics.record("Invocations", name, variant, 1)
            self._metrics.record("InvocationFailures", name, variant, 1)
            status = error.members["OriginalStatusCode"]
            original: str = error.members["OriginalMessage"]
            kind = "client" if 400 <= status < 500 else "server"
            raise _ClientError(
                f"ClientError: Received {kind} error ({status}) from model. {original[:500]} See the SageMaker "
                "Endpoint logs in your account for more information.",
                original.encode(),
            ) from None
        self._metrics.record("Invocations", name, variant, 1)
        self._metrics.record("ModelLatency", name, variant, (time.monotonic() - began) * 1e6)
        return answer

    def _read_input(self, call: Record) -> bytes:
        from botocore.exceptions import ClientError

        if "Body" in call:
            return base64.b64decode(call["Body"])
        bucket, key = parse_s3_url(call["InputLocation"])
        try:
            found = self._s3.get_object(Bucket=bucket, Key=key)
            if found["ContentLength"] > MOST_BYTES:
                raise _ClientError(f"ClientError: the input has more than {MOST_BYTES:,} bytes.")
            return bytes(found["Body"].read())
        except ClientError as error:
            raise _ClientError(f"ClientError: Failed to download {call['InputLocation']}: {error}") from error

    def _tell_success(self, call: Record, answer: Answer) -> None:
        content_type = answer.headers.get("content-type", "application/octet-stream")
        bucket, key = parse_s3_url(call["OutputLocation"])
        self._s3.put_object(Bucket=bucket, Key=key, Body=answer.body, ContentType=content_type)
        response = {"contentType": content_type, "outputLocation": call["OutputLocation"]}
        message = {"invocationStatus": "Completed", "responseParameters": response}
        self._notify(call, "Success", message, answer.body)

    def _tell_failure(self, call: Record, error: _ClientError) -> None:
        log.warning("asynchronous call %s of %s failed: %s", call["CallId"], call["EndpointName"], error)
        if "FailureLocation" in call:
            bucket, key = parse_s3_url(call["FailureLocation"])
            self._s3.put_object(Bucket=bucket, Key=key, Body=error.body, ContentType="text/plain; charset=utf-8")
        message: Record = {"invocationStatus": "Failed", "failureReason": str(error)}
        if "FailureLocation" in call:
            message["responseParameters"] = {"outputLocation": call["FailureLocation"]}
        self._notify(call, "Error", message, error.body)

    def _notify(self, call: Record, kind: str, message: Record, body: bytes) -> None:
        config = call["OutputConfig"].get("NotificationConfig", {})
        topic = config.get(f"{kind}Topic")
        if not topic:
            return
        asked: Record = {"endpointName": call["EndpointName"], "contentType": call["ContentType"]}
        for member, name in (("Accept", "accept"), ("InputLocation", "inputLocation")):
            if member in call:
                asked[name] = call[member]
        whole: Record = {
            "awsRegion": self._settings.region,
            "eventTime": _iso(time.time()),
            "receivedTime": _iso(call["ReceivedTime"]),
            **message,
            "requestParameters": asked,
            "inferenceId": call["InferenceId"],
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
        }
        included = f"{kind.upper()}_NOTIFICATION_TOPIC" in config.get("IncludeInferenceResponseIn", [])
        if included and len(body) <= _MOST_NOTIFIED_BYTES:
            whole["responseBody"] = {"content": base64.b64encode(body).decode(), "encoding": "BASE64"}
        self._sns.publish(TopicArn=topic, Message=json.dumps(whole))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
