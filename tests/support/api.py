"""The API's handler with fakes behind it, for every test that sends it events."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parameters import SSMProvider
from botocore.exceptions import ClientError

from lambda_handler.answering import Answering
from lambda_handler.api import create_handler
from lambda_handler.feedback import Feedback
from lambda_handler.metrics import METRICS
from lambda_handler.question_log import Asked
from lambda_handler.registry import Registry
from lambda_handler.waiting import Clock

PATH = "/askline/registry"
ENDPOINT = "serv-hf-endpoint-biography"


def aws_error(code: str, message: str = "account 123456789012 is not amused") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


@dataclass
class Time:
    """A clock that moves only when somebody sleeps, or when a call is made to take long."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.sleep, chance=lambda: 0.5)


@dataclass
class Context:
    time: Time = field(default_factory=Time)
    ends: float = 1028.0
    aws_request_id: str = "lambda-request"
    function_name: str = "askline-api"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:askline-api"

    def get_remaining_time_in_millis(self) -> int:
        return int((self.ends - self.time.now) * 1000)


@dataclass
class Runtime:
    """A SageMaker runtime that answers as it is told; a list of replies is used up from its front."""

    reply: Any = field(
        default_factory=lambda: {"answers": [{"answer": "maths!", "confidence": 0.75}], "model_version": "m-2"}
    )
    asked: list[dict[str, Any]] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    shortest_seconds: float = 5.0

    def within(self, seconds: float) -> "Runtime":
        self.allowed.append(seconds)
        return self

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        reply = self.reply.pop(0) if isinstance(self.reply, list) and self.reply else self.reply
        if isinstance(reply, Exception):
            raise reply
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        return {"Body": io.BytesIO(body)}


@dataclass
class Counts:
    """Metrics that stay here."""

    now: dict[str, float] = field(default_factory=dict)
    flushed: list[dict[str, float]] = field(default_factory=list)

    def add(self, name: str, value: float = 1) -> None:
        assert name in METRICS
        self.now[name] = self.now.get(name, 0) + value

    def flush(self) -> None:
        self.flushed.append(self.now)
        self.now = {}


@dataclass
class Questions:
    """A question log that stays here."""

    enabled: bool = True
    logged: list[Asked] = field(default_factory=list)
    verdicts: list[Feedback] = field(default_factory=list)

    def asked_together(self, batch: Iterable[Asked]) -> None:
        self.logged.extend(batch)

    def feedback(self, feedback: Feedback) -> None:
        self.verdicts.append(feedback)


@dataclass
class ParameterStore:
    """The two calls of SSM that Powertools makes."""

    values: dict[str, str]
    asked: list[str] = field(default_factory=list)
    failure: ClientError | None = None

    def get_parameter(self, *, Name: str, **_: Any) -> dict[str, Any]:  # noqa: N803 - boto3's own name
        self.asked.append(Name)
        if self.failure:
            raise self.failure
        if Name not in self.values:
            raise aws_error("ParameterNotFound")
        return {"Parameter": {"Name": Name, "Value": self.values[Name]}}

    def get_paginator(self, operation: str) -> "ParameterStore":
        assert operation == "get_parameters_by_path"
        return self

    def paginate(self, *, Path: str, **_: Any) -> list[dict[str, Any]]:  # noqa: N803 - boto3's own name
        self.asked.append(Path)
        if self.failure:
            raise self.failure
        return [{"Parameters": [{"Name": name, "Value": value} for name, value in self.values.items()]}]


@dataclass
class Api:
    runtime: Runtime
    ssm: ParameterStore
    max_age: int = 60
    cold_seconds: float = 20.0
    time: Time = field(default_factory=Time)
    counts: Counts = field(default_factory=Counts)
    log: Questions = field(default_factory=Questions)

    def __post_init__(self) -> None:
        logger = Logger(service="test", level="CRITICAL", logger_handler=None)
        registry = Registry(PATH, SSMProvider(boto3_client=self.ssm), logger=logger, max_age=self.max_age)
        self.handler = create_handler(
            Answering(
                runtimes=self.runtime,
                registry=registry,
                questions=self.log,
                counts=self.counts,
                logger=logger,
                cold_seconds=self.cold_seconds,
                clock=self.time.clock,
            )
        )

    def __call__(self, event: Any) -> Any:
        return self.handler(event, Context(self.time, self.time.now + 28))

    def send(self, method: str = "GET", path: str = "/", **parts: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        response = self(rest_event(method, path, **parts))
        headers = {name: values[0] for name, values in response["multiValueHeaders"].items()}
        return response["statusCode"], json.loads(response["body"]), headers

    @property
    def questions(self) -> list[str]:
        return [json.loads(request["Body"])["inputs"] for request in self.runtime.asked]


def rest_event(
    method: str = "GET",
    path: str = "/",
    *,
    query: dict[str, list[str]] | None = None,
    body: Any = None,
    headers: dict[str, str] | None = None,
    is_base64: bool = False,
) -> dict[str, Any]:
    """What a REST API sends to its function, nulls and all."""
    text = json.dumps(body) if body is not None and not isinstance(body, str) else body
    return {
        "resource": "/" if path == "/" else "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers if headers is not None else {"Content-Type": "application/json", "Host": "x"},
        "multiValueHeaders": None,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} if query else None,
        "multiValueQueryStringParameters": query,
        "pathParameters": None if path == "/" else {"proxy": path.strip("/")},
        "stageVariables": None,
        "requestContext": {"requestId": "gateway-request", "stage": "default", "accountId": "123456789012"},
        "body": text,
        "isBase64Encoded": is_base64,
    }


def entry(mlkey: str = "biography", **changes: Any) -> str:
    value = {
        "mlkey": mlkey,
        "endpoint": f"serv-hf-endpoint-{mlkey}",
        "model_version": "m-1",
        "archive_sha256": "a" * 64,
        "dataset": "data/sample",
        "exact_match": 0.7,
        "promoted_at": "2026-01-01T00:00:00+00:00",
        "run_id": "run",
    }
    return json.dumps({**value, **changes})


ASKED = {"MLKey": "biography", "question": "WHat is your passion?"}
