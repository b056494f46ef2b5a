import base64
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parameters import SSMProvider
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_handler.api import create_handler
from lambda_handler.asking import MAX_BODY_BYTES
from lambda_handler.registry import Registry

PATH = "/askline/registry"
ENDPOINT = "serv-hf-endpoint-biography"


def aws_error(code: str, message: str = "account 123456789012 is not amused") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


@dataclass
class Context:
    aws_request_id: str = "lambda-request"
    function_name: str = "askline-api"
    memory_limit_in_mb: int = 256
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:askline-api"


@dataclass
class Runtime:
    """A SageMaker runtime that answers as it is told."""

    reply: Any = field(
        default_factory=lambda: {"answers": [{"answer": "maths!", "confidence": 0.75}], "model_version": "m-2"}
    )
    asked: list[dict[str, Any]] = field(default_factory=list)

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        body = self.reply if isinstance(self.reply, bytes) else json.dumps(self.reply).encode()
        return {"Body": io.BytesIO(body)}


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

    def __post_init__(self) -> None:
        logger = Logger(service="test", level="CRITICAL", logger_handler=None)
        registry = Registry(PATH, SSMProvider(boto3_client=self.ssm), logger=logger, max_age=self.max_age)
        self.handler = create_handler(runtime=self.runtime, registry=registry, logger=logger)

    def __call__(self, event: Any) -> Any:
        return self.handler(event, Context())

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


@pytest.fixture
def api() -> Api:
    return Api(Runtime(), ParameterStore({f"{PATH}/biography": entry()}))


@pytest.mark.parametrize(
    "parts",
    [
        {"query": {"MLKey": ["biography"], "question": ["WHat is your passion?"]}},
        {"body": ASKED},
        {"method": "POST", "body": ASKED},
        {"method": "POST", "body": ASKED, "headers": {}},
        {"method": "POST", "body": ASKED, "headers": {"CONTENT-TYPE": "application/json; charset=UTF-8"}},
        {"body": base64.b64encode(json.dumps(ASKED).encode()).decode(), "is_base64": True},
        {"method": "POST", "body": "\ufeff" + json.dumps(ASKED)},
    ],
    ids=["query", "get-body", "post", "no-content-type", "charset", "base64", "byte-order-mark"],
)
def test_every_way_to_ask_gives_the_same_answer(api: Api, parts: dict[str, Any]) -> None:
    status, body, headers = api.send(**parts)

    assert status == 200
    assert body == {
        "answer": "maths!",
        "MLKey": "biography",
        "model_version": "m-2",
        "request_id": "gateway-request",
        "confidence": 0.75,
    }
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert api.runtime.asked[0]["EndpointName"] == ENDPOINT
    assert api.runtime.asked[0]["ContentType"] == api.runtime.asked[0]["Accept"] == "application/json"
    assert api.questions == ["WHat is your passion?"]


def test_a_direct_invoke_gives_the_same_body(api: Api) -> None:
    assert api(dict(ASKED)) == {
        "answer": "maths!",
        "MLKey": "biography",
        "model_version": "m-2",
        "request_id": "lambda-request",
        "confidence": 0.75,
    }


@pytest.mark.parametrize("event", [None, [], "text", 3, {}, {"MLKey": "biography"}, {"httpMethod": 1, "path": {}}])
def test_a_direct_invoke_of_something_else_is_a_problem(api: Api, event: Any) -> None:
    problem = api(event)

    assert (problem["status"], problem["type"]) == (400, "urn:askline:invalid-request")
    assert api.runtime.asked == []


def test_an_answer_is_encoded_once_and_keeps_its_letters(api: Api) -> None:
    api.runtime.reply = {"answers": [{"answer": 'Zoë said "γειά" 🎉'}], "model_version": "m"}

    response = api(rest_event(body=ASKED))

    assert 'Zoë said \\"γειά\\" 🎉' in response["body"]
    assert json.loads(response["body"])["answer"] == 'Zoë said "γειά" 🎉'
    assert "confidence" not in json.loads(response["body"])


def test_the_registry_names_the_version_where_the_model_does_not(api: Api) -> None:
    api.runtime.reply = {"answers": [{"answer": "x", "confidence": "high"}]}

    _, body, _ = api.send(body=ASKED)

    assert body["model_version"] == "m-1"
    assert "confidence" not in body


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("  Who\tis\r\nAda?\n", "Who is Ada?"),
        ("Zoe\u0308?", "Zo\u00eb?"),
        ("q" * 1000, "q" * 1000),
        (" " * 500 + "q" * 1000 + " " * 500, "q" * 1000),
        ("🎉" * 1000, "🎉" * 1000),
        ("\u202eשלום\u202c?", "\u202eשלום\u202c?"),
        ("'; DROP TABLE students; --", "'; DROP TABLE students; --"),
    ],
)
def test_a_question_is_asked_as_it_was_meant(api: Api, asked: str, sent: str) -> None:
    status, _, _ = api.send("POST", body={"MLKey": "biography", "question": asked})

    assert status == 200
    assert api.questions == [sent]


BAD_QUESTIONS = [None, "", "   ", "\u200b\u200b", "q" * 1001, 3, ["a"], {"a": 1}, True, "nul\x00", "bell\x07", "\ud83c"]
BAD_MLKEYS: list[Any] = [
    *(
        None,
        "",
        " biography",
        "biography\n",
        "-a",
        "a-",
        "a_b",
        "ä",
        "a" * 47,
        "../../secret",
        "a/b",
        "*",
        7,
        ["a"],
        {},
    ),
    *("biography'; --", "%2e%2e", "biography\x00", "arn:aws:sagemaker:us-east-1:1:endpoint/x"),
]


@pytest.mark.parametrize(
    ("mlkey", "question"), [("biography", bad) for bad in BAD_QUESTIONS] + [(bad, "Who?") for bad in BAD_MLKEYS]
)
def test_what_is_no_question_goes_nowhere(api: Api, mlkey: Any, question: Any) -> None:
    status, body, headers = api.send("POST", body={"MLKey": mlkey, "question": question})

    assert (status, body["type"], body["status"]) == (400, "urn:askline:invalid-request", 400)
    assert headers["Content-Type"] == "application/problem+json; charset=utf-8"
    assert body["detail"]
    assert body["request_id"] == "gateway-request"
    assert api.runtime.asked == []
    assert api.ssm.asked == []


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({}, 400),
        ({"method": "POST"}, 400),
        ({"method": "POST", "body": " \n"}, 400),
        ({"method": "POST", "body": "{"}, 400),
        ({"method": "POST", "body": "[" * 60_000}, 400),
        ({"method": "POST", "body": [ASKED]}, 400),
        ({"method": "POST", "body": "null"}, 400),
        ({"method": "POST", "body": "%%%", "is_base64": True}, 400),
        ({"method": "POST", "body": base64.b64encode(b"\xff\xfe").decode(), "is_base64": True}, 400),
        ({"query": {"MLKey": ["biography", "other"], "question": ["Who?"]}}, 400),
        ({"query": {"MLKey": ["biography"]}, "body": ASKED}, 400),
        ({"method": "POST", "body": {**ASKED, "padding": "x" * MAX_BODY_BYTES}}, 413),
        ({"method": "POST", "body": ASKED, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"method": "POST", "body": ASKED, "headers": {"content-type": "text/plain"}}, 415),
        ({"method": "POST", "body": ASKED, "headers": {"content-type": "application/json; charset=utf-16"}}, 415),
        ({"path": "/nothing/here"}, 404),
        ({"path": "/../../etc/passwd"}, 404),
        ({"method": "DELETE"}, 405),
        ({"method": "POST", "path": "/models", "body": ASKED}, 405),
        ({"method": "OPTIONS", "path": "/health"}, 405),
    ],
)
def test_a_wrong_request_gets_its_status(api: Api, parts: dict[str, Any], status: int) -> None:
    found, body, headers = api.send(**parts)

    assert (found, body["status"]) == (status, status)
    assert headers["Content-Type"].startswith("application/problem+json")
    assert api.runtime.asked == []
    if status == 405:
        assert headers["Allow"]


def test_an_unknown_mlkey_is_404(api: Api) -> None:
    status, body, _ = api.send("POST", body={"MLKey": "nobody", "question": "Who?"})

    assert (status, body["type"]) == (404, "urn:askline:unknown-mlkey")
    assert api.runtime.asked == []


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (aws_error("ThrottlingException"), 429),
        (aws_error("ModelNotReadyException"), 503),
        (aws_error("ServiceUnavailable"), 503),
        (aws_error("ValidationError", "Endpoint x of account 123456789012 not found."), 503),
        (aws_error("ModelError"), 502),
        (aws_error("AccessDeniedException"), 500),
        (ReadTimeoutError(endpoint_url="https://runtime"), 504),
        (EndpointConnectionError(endpoint_url="https://runtime"), 503),
        (ConnectTimeoutError(endpoint_url="https://runtime"), 503),
        (ConnectionClosedError(endpoint_url="https://runtime"), 503),
        (b"not json", 502),
        (b"", 502),
        ([], 502),
        ({"answers": []}, 502),
        ({"answers": [{"answer": None}]}, 502),
        ({"answers": [{"answer": b"x".hex(), "confidence": 1}, 3], "model_version": 7}, 200),
        ({"answers": ["text"]}, 502),
        ({"answers": [{"answer": "\ud800"}]}, 502),
        (b"[" * 100_000, 502),
    ],
)
def test_what_the_endpoint_does_has_a_documented_status(api: Api, reply: Any, status: int) -> None:
    api.runtime.reply = reply

    found, body, headers = api.send("POST", body=ASKED)

    assert found == status
    assert ("Retry-After" in headers) == (status in (429, 503))
    assert "123456789012" not in json.dumps(body)
    assert "serv-hf" not in json.dumps(body)
    assert "Traceback" not in json.dumps(body)


def test_the_api_recovers_by_itself(api: Api) -> None:
    api.runtime.reply = aws_error("ModelError")
    assert api.send("POST", body=ASKED)[0] == 502
    api.runtime.reply = Runtime().reply
    assert api.send("POST", body=ASKED)[0] == 200


def test_the_registry_is_read_through_a_cache(api: Api) -> None:
    for _ in range(3):
        api.send("POST", body=ASKED)
    assert api.ssm.asked == [f"{PATH}/biography"]


def test_a_promotion_is_seen_when_the_cache_has_aged(api: Api) -> None:
    young = Api(api.runtime, api.ssm, max_age=0)
    young.send("POST", body=ASKED)
    api.ssm.values[f"{PATH}/biography"] = entry(endpoint="serv-hf-endpoint-biography-2")
    young.send("POST", body=ASKED)
    assert [request["EndpointName"] for request in api.runtime.asked] == [ENDPOINT, "serv-hf-endpoint-biography-2"]


def test_a_known_model_answers_while_the_registry_cannot_be_read(api: Api) -> None:
    young = Api(api.runtime, api.ssm, max_age=0)
    assert young.send("POST", body=ASKED)[0] == 200
    api.ssm.failure = aws_error("ThrottlingException")
    assert young.send("POST", body=ASKED)[0] == 200
    assert young.send("POST", body={**ASKED, "MLKey": "other"})[0] == 503
    status, body, headers = young.send(path="/health")
    assert (status, body["type"]) == (503, "urn:askline:not-ready")
    assert headers["Retry-After"]


@pytest.mark.parametrize(
    "value", ["{", "[]", entry("other"), entry(endpoint=None), entry(endpoint=""), entry(model_version=1)]
)
def test_a_broken_registry_entry_asks_no_endpoint(api: Api, value: str) -> None:
    api.ssm.values = {f"{PATH}/biography": value}

    status, body, _ = api.send("POST", body=ASKED)

    assert (status, body["type"]) == (500, "urn:askline:internal")
    assert api.runtime.asked == []
    assert api.send(path="/models")[1]["models"] == []


def test_models_are_listed_without_what_callers_need_not_know(api: Api) -> None:
    api.ssm.values[f"{PATH}/another"] = entry("another")

    status, body, _ = api.send(path="/models")

    assert status == 200
    assert [model["MLKey"] for model in body["models"]] == ["another", "biography"]
    assert set(body["models"][0]) == {"MLKey", "model_version", "dataset", "exact_match", "promoted_at"}


def test_health_says_that_the_registry_can_be_read(api: Api) -> None:
    assert api.send(path="/health")[:2] == (200, {"status": "ok", "models": 1, "request_id": "gateway-request"})


def test_the_question_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logger = Logger(service="test-log", level="DEBUG")
    registry = Registry(PATH, SSMProvider(boto3_client=ParameterStore({f"{PATH}/biography": entry()})), logger=logger)
    handler = create_handler(runtime=Runtime(), registry=registry, logger=logger)

    handler(rest_event(body=ASKED), Context())

    written = capsys.readouterr().out
    assert '"answered"' in written
    assert "passion" not in written


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NASTY = st.sampled_from([*BAD_QUESTIONS, *BAD_MLKEYS, "biography", "Who?", "%00", "\U0001f600", "x" * 1_000_000])
FIELDS = st.fixed_dictionaries(
    {}, optional={"MLKey": st.just("biography") | NASTY | JSON_VALUES, "question": NASTY | st.text() | JSON_VALUES}
)
GATEWAY_EVENTS = st.fixed_dictionaries(
    {
        "httpMethod": st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "get", ""]) | st.text(max_size=5),
        "path": st.sampled_from(["/", "", "/models", "/health", "/models/", "//", "/%2e%2e"]) | st.text(max_size=20),
    },
    optional={
        "body": FIELDS.map(json.dumps) | st.text() | JSON_VALUES,
        "headers": st.dictionaries(st.sampled_from(["content-type", "Content-Type", "x"]), JSON_VALUES) | JSON_VALUES,
        "queryStringParameters": FIELDS | JSON_VALUES,
        "multiValueQueryStringParameters": FIELDS
        | st.dictionaries(st.sampled_from(["MLKey", "question"]), st.lists(NASTY | st.text(), max_size=2))
        | JSON_VALUES,
        "multiValueHeaders": JSON_VALUES,
        "requestContext": JSON_VALUES | st.fixed_dictionaries({"requestId": JSON_VALUES}),
        "isBase64Encoded": st.booleans() | JSON_VALUES,
    },
)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(event=JSON_VALUES | FIELDS | GATEWAY_EVENTS)
def test_no_event_breaks_it_or_reaches_beyond_the_registry(event: Any) -> None:
    api = Api(Runtime(), ParameterStore({f"{PATH}/biography": entry()}))

    response = api(event)

    status = response.get("statusCode", response.get("status", 200))
    assert status in {200, 400, 404, 405, 413, 415}
    json.dumps(response, ensure_ascii=False, allow_nan=False).encode()
    assert {request["EndpointName"] for request in api.runtime.asked} <= {ENDPOINT}
    assert all(re.fullmatch(PATH + r"(/[a-zA-Z0-9-]{1,46})?", name) for name in api.ssm.asked)
