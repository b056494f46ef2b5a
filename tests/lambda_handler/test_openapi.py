"""The API's description of itself: valid, equal to the code, enough for a client, and kept to by the running API."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import REPOSITORY
from hypothesis.configuration import storage_directory
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import validate
from support.api import PATH, Api, ParameterStore, Runtime, entry, rest_event
from support.loopback import Reply, serving
from support.runtime import answering, runtime_behind

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.records import Target
from lambda_handler import api, asking, body, feedback, fields, metrics, openapi, problem
from tasks.deploy_api.call import dialable
from tasks.deploy_api.deploy_api import deploy_api
from tasks.workplace import Workplace

DOCUMENT: dict[str, Any] = json.loads(openapi.document())
SCHEMAS = DOCUMENT["components"]["schemas"]
#: Requests that the running API must answer as described.
REQUESTS = 2_000


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path, method.upper()): operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_every_route_is_described_and_no_other() -> None:
    described = {(path, method) for path, method in operations()}
    served = {
        (path, method) for path, methods in api.ALLOWED.items() for method in methods.split(", ") if method != "HEAD"
    }
    assert described == served
    names = [operation["operationId"] for operation in operations().values()]
    assert len(set(names)) == len(names)


def test_the_limits_are_the_codes_own() -> None:
    mlkey, question = SCHEMAS["MLKey"], SCHEMAS["Question"]
    assert mlkey["pattern"] == f"^{fields.MLKEY.pattern}$"
    assert mlkey["maxLength"] == fields.MAX_MLKEY_CHARACTERS
    assert question["pattern"] == asking.QUESTION.pattern
    assert question["maxLength"] == asking.MAX_QUESTION_CHARACTERS
    for schema, name in (("AskBatch", "questions"), ("BatchAnswer", "answers")):
        assert SCHEMAS[schema]["properties"][name]["maxItems"] == asking.MAX_QUESTIONS
    verdict = SCHEMAS["Feedback"]["properties"]
    assert (verdict["index"]["minimum"], verdict["index"]["maximum"]) == (0, asking.MAX_QUESTIONS - 1)
    assert verdict["comment"]["maxLength"] == feedback.MAX_COMMENT_CHARACTERS
    assert verdict["answer"]["maxLength"] == feedback.MAX_ANSWER_CHARACTERS
    assert verdict["comment"]["pattern"] == verdict["answer"]["pattern"] == fields.TEXT.pattern
    assert verdict["request_id"]["pattern"] == f"^{feedback.REQUEST_ID.pattern}$"
    limit = f"{body.MAX_BYTES:,} bytes"
    assert limit in DOCUMENT["components"]["responses"]["TooLarge"]["description"]
    for path in ("/", "/feedback"):
        assert limit in DOCUMENT["paths"][path]["post"]["requestBody"]["description"]


def test_every_problem_is_described() -> None:
    kinds = {kind.removeprefix("urn:askline:") for kind in SCHEMAS["Problem"]["properties"]["type"]["enum"]}
    assert kinds == {*problem.KINDS, *problem.GATEWAY}
    described = {
        example["value"]["type"].removeprefix("urn:askline:"): (
            example["value"].get("status"),
            example["value"]["title"],
        )
        for response in DOCUMENT["components"]["responses"].values()
        for example in response["content"]["application/problem+json"]["examples"].values()
    }
    of_the_gateway = {kind: described.pop(kind) for kind in problem.GATEWAY if kind in described}
    assert of_the_gateway["gateway"]
    assert {kind: status for kind, (status, _) in of_the_gateway.items()}.items() <= problem.GATEWAY.items()
    assert described == problem.KINDS
    for response in ("Throttled", "NotReady"):
        assert DOCUMENT["components"]["responses"][response]["headers"]["Retry-After"]["required"]
    assert {metrics.of_problem(kind) for kind in problem.KINDS} <= set(metrics.METRICS)


def test_every_status_that_asking_can_end_in_is_described() -> None:
    statuses = {str(status) for status, _ in problem.KINDS.values()}
    for method in ("GET", "POST"):
        assert statuses <= set(operations()["/", method]["responses"])


def resolved(schema: Any) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            found: Any = DOCUMENT
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return resolved(found)
        return {name: resolved(value) for name, value in schema.items()}
    return [resolved(item) for item in schema] if isinstance(schema, list) else schema


def contents(node: Any) -> list[dict[str, Any]]:
    """Every media type in the document that has examples."""
    if isinstance(node, list):
        return [found for item in node for found in contents(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if "examples" in node and "schema" in node else []
    return own + [found for value in node.values() for found in contents(value)]


def test_every_example_is_what_it_is_an_example_of() -> None:
    found = contents(DOCUMENT)
    assert len(found) > 15
    for content in found:
        validator = OAS30Validator(resolved(content["schema"]))
        for example in content["examples"].values():
            validator.validate(example["value"])


@pytest.mark.parametrize(
    "text",
    [
        *("a", "Who?", "\U0001f389", " a ", "a\n", "\ta", "שלום", "\u202eשלום\u202c", "e\u0301", "-", "\u0301"),
        *("", " ", "\n", "\t\r\n", "\u00a0", "\u200b", "\u2028", "\ufeff", "\ufe0f", "\u00ad"),
        *("a\x00", "\x0ba", "a\x1f", "\x7f", "\x85a", "q" * 1000, "q" * 1001, " " * 1000, " " + "q" * 1000),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_the_schema_and_the_code_agree_on_what_a_question_is(text: str) -> None:
    api_ = Api(Runtime(), ParameterStore({f"{PATH}/biography": entry()}))
    status, _, _ = api_.send("POST", body={"MLKey": "biography", "question": text})
    assert OAS30Validator(resolved(SCHEMAS["Question"])).is_valid(text) is (status == 200)


class Template(yaml.SafeLoader):
    """Reads CloudFormation's YAML; what its functions would give is not known here."""


Template.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


def refusals() -> dict[str, dict[str, Any]]:
    """What the template has API Gateway answer by itself: the problem document by the response's name."""
    found = {}
    for name, resource in yaml.load((REPOSITORY / "deployments" / "api.yaml").read_text(), Template)[
        "Resources"
    ].items():
        if resource["Type"] == "AWS::ApiGateway::GatewayResponse":
            told = json.loads(resource["Properties"]["ResponseTemplates"]["application/json"])
            assert str(told.get("status", "")) == resource["Properties"].get("StatusCode", ""), name
            found[name] = told
    return found


def test_every_refusal_of_the_gateway_is_one_that_a_generated_client_knows() -> None:
    told = refusals()
    assert len(told) > 8
    validator = OAS30Validator(resolved(SCHEMAS["Problem"]))
    for name, body_ in told.items():
        validator.validate(body_)
        kind = body_["type"].removeprefix("urn:askline:")
        known = {**problem.GATEWAY, **{kind: status for kind, (status, _) in problem.KINDS.items()}}
        assert known[kind] == body_.get("status"), name
        if "status" in body_:
            assert all(str(body_["status"]) in operations()["/", method]["responses"] for method in ("GET", "POST"))
    assert {body_["type"].removeprefix("urn:askline:") for body_ in told.values()} >= {*problem.GATEWAY}


@pytest.mark.parametrize(
    ("auth", "schemes"),
    [
        ("NONE", set()),
        ("AWS_IAM", {"sigv4"}),
        ("KEY", {"apiKey"}),
        ("COGNITO_USER_POOLS", {"jwt"}),
        (None, {"sigv4", "apiKey", "jwt"}),
    ],
)
def test_the_document_names_the_way_to_authorise_of_this_api_and_no_other(auth: str | None, schemes: set[str]) -> None:
    served = json.loads(openapi.document("https://x.example/default/", auth))
    validate(served)
    assert set(served["components"].get("securitySchemes", {})) == schemes
    assert {name for each in served["security"] for name in each} == schemes
    assert served["servers"] == [{"url": "https://x.example/default/"}]


def test_feedback_is_not_offered_where_it_is_switched_off() -> None:
    served = json.loads(openapi.document(feedback=False))
    validate(served)
    assert {*DOCUMENT["paths"]} - {*served["paths"]} == {"/feedback"}


@pytest.mark.parametrize(
    ("host", "whole", "expected"),
    [
        ("abc.execute-api.eu-west-1.amazonaws.com", "/default/openapi.json", "https://{host}/default/"),
        ("api.example.org", "/qa/openapi.json", "https://{host}/qa/"),
        ("api.example.org", "/openapi.json", "https://{host}/"),
        ("abc.execute-api.localhost:4566", "/default/openapi.json", "http://{host}/default/"),
        ("127.0.0.1:4566", "/default/openapi.json", None),
        ('evil.example/"><script>', "/default/openapi.json", None),
        ("", "/default/openapi.json", None),
        ("api.example.org", None, None),
    ],
)
def test_the_address_is_the_one_that_was_asked(host: str, whole: str | None, expected: str | None) -> None:
    event = rest_event(path="/openapi.json", headers={"Host": host})
    event["requestContext"]["path"] = whole
    response = Api(Runtime(), ParameterStore({}))(event)
    url = json.loads(response["body"])["servers"][0]["url"]
    assert url == (expected.format(host=host) if expected else "./")
    assert response["multiValueHeaders"]["Vary"] == ["Host"]


def test_it_is_served_as_it_is_and_may_be_kept_a_while() -> None:
    response = Api(Runtime(), ParameterStore({}))(rest_event(path="/openapi.json"))
    assert json.loads(response["body"]) == DOCUMENT
    assert response["multiValueHeaders"]["Cache-Control"] == ["max-age=300"]


@pytest.mark.slow
def test_schemathesis_finds_no_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The API over real HTTP, with models by every other name; two runs at once, as generating takes the time."""
    runtime = Runtime(reply={"answers": [{"answer": "x", "confidence": 0.5, "abstained": False}] * 16})
    # Schemathesis knows the document's own example; keys of one letter are what it likes to begin with.
    known = ["biography", *"0123456789", *"acegikmoqsuwy", *"ACEGIKMOQSUWY"]
    handler = Api(runtime, ParameterStore({f"{PATH}/{mlkey}": entry(mlkey) for mlkey in known}))
    one_at_a_time = threading.Lock()
    answered: Counter[int] = Counter()

    def counted(event: Any) -> Any:
        with one_at_a_time:
            response = handler(event)
            answered[response["statusCode"]] += 1
            return response

    with serving(counted) as url:
        runs = [
            schemathesis(url, tmp_path / "asking", "--include-path", "/", "--max-examples", "480"),
            schemathesis(url, tmp_path / "rest", "--exclude-path", "/", "--max-examples", "860"),
        ]
        reports = [(run.communicate(timeout=500)[0], run.returncode) for run in runs]

    for report, returncode in reports:
        assert returncode == 0, report[-6000:]
    with capsys.disabled():
        by_status = ", ".join(f"{number} x {status}" for status, number in sorted(answered.items()))
        sys.stdout.write(f"\nschemathesis: {answered.total():,} requests without a violation: {by_status}\n")
    assert answered.total() >= REQUESTS
    assert set(answered) <= {200, 202, 400, 404, 405, 413, 415}
    assert min(answered[200], answered[202], answered[400], answered[404]) > 50


def reply(mlkey: str, request: dict[str, Any]) -> Reply:
    inputs = request["inputs"]
    return answering(*(inputs if isinstance(inputs, list) else [inputs]))


@pytest.fixture(scope="module")
def deployed(cloud: Target) -> Iterator[str]:
    """The API on the embedded cloud's gateway, in front of a SageMaker runtime that answers whatever it is asked."""
    with runtime_behind(cloud, "biography", "0", bucket="askline-test-openapi", reply=reply) as target:
        config = ApiConfig(stack_name="askline-api-openapi")
        yield deploy_api(config, bucket="askline-test-openapi", prefix="api", tags={}, place=Workplace(target)).url


@pytest.mark.slow
def test_schemathesis_finds_no_violation_through_the_gateway(deployed: str, tmp_path: Path) -> None:
    url, headers = dialable(deployed)
    # What a gateway does with methods that nobody described is its own affair.
    options = ["--max-examples", "40", "--exclude-checks", "unsupported_method"]
    run = schemathesis(url, tmp_path / "gateway", *options, "--header", f"Host: {headers['Host']}")
    report, _ = run.communicate(timeout=300)

    assert run.returncode == 0, report[-6000:]


@pytest.mark.slow
def test_schemathesis_finds_no_violation_with_a_key(cloud: Target, tmp_path: Path) -> None:
    with runtime_behind(cloud, "biography", bucket="askline-test-openapi-key", reply=reply) as target:
        config = ApiConfig(stack_name="askline-api-openapi-key", auth="key")
        api_ = deploy_api(config, bucket="askline-test-openapi-key", prefix="api", tags={}, place=Workplace(target))
        key = aws_client(target, "apigateway").get_api_key(apiKey=api_.api_key_id, includeValue=True)["value"]
        url, headers = dialable(api_.url)
        described = httpx.get(f"{url}openapi.json", headers={**headers, "x-api-key": key}).json()
        assert described["security"] == [{"apiKey": []}]
        assert described["servers"] == [{"url": api_.url}]
        assert "/feedback" not in described["paths"]
        refused = httpx.get(f"{url}health", headers=headers)
        assert refused.status_code == 403
        options = ["--max-examples", "10", "--exclude-checks", "unsupported_method,ignored_auth"]
        options += ["--header", f"Host: {headers['Host']}", "--header", f"x-api-key: {key}"]
        run = schemathesis(url, tmp_path / "key", *options)
        report, _ = run.communicate(timeout=300)
    assert run.returncode == 0, report[-6000:]


def schemathesis(url: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}openapi.json", "--url", url),
            *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color", *options),
            # Keeping examples for a next run, which there is not, took half of the processor time.
            *("--generation-database", "none"),
        ],
        cwd=folder,
        # Tables of Unicode, which take seconds to make, lie where the other tests' hypothesis keeps them.
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(storage_directory().path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
