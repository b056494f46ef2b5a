import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parameters import SSMProvider
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from support.api import (
    ASKED,
    ENDPOINT,
    PATH,
    Api,
    Context,
    Counts,
    ParameterStore,
    Questions,
    Runtime,
    aws_error,
    entry,
    rest_event,
)

from lambda_handler import gateway, metrics, page
from lambda_handler.answering import Answering
from lambda_handler.api import create_handler
from lambda_handler.body import MAX_BYTES
from lambda_handler.model import FixedRuntimes
from lambda_handler.registry import Registry


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


KNOWN = {
    "answer": "Paris",
    "confidence": 0.9,
    "abstained": False,
    "answer_id": "5dd272b4f316",
    "alternatives": [{"answer": "Warsaw", "answer_id": "c6fe34fb2a92", "confidence": 0.05}],
    "matched_question": "Which city did she move to?",
    "columns": {"link": "https://example.org/paris"},
    "finish_reason": "known",
}


def test_a_known_answer_says_which_it_is_and_what_else_may_be_meant(api: Api) -> None:
    hidden = {"token_probability": 0.8, "tokens": 2, "withheld_id": "5dd272b4f316"}
    api.runtime.reply = {"answers": [KNOWN | hidden], "model_version": "m"}
    found = json.loads(api(rest_event(body=ASKED))["body"])
    assert {name: found[name] for name in KNOWN} == KNOWN
    assert not set(found) & set(hidden), "callers get what the document promises, and no more"


@pytest.mark.parametrize(
    "damage",
    [{"alternatives": None}, {"alternatives": [{"answer": "x"}]}, {"columns": {"link": 5}}, {"answer_id": 7}],
)
def test_a_known_answer_of_another_form_is_not_passed_on(api: Api, damage: dict[str, Any]) -> None:
    api.runtime.reply = {"answers": [KNOWN | damage], "model_version": "m"}
    assert api(rest_event(body=ASKED))["statusCode"] == 502


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
        (" " * 400 + "q" * 200 + " " * 400, "q" * 200),
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
        ({"method": "POST", "body": {**ASKED, "padding": "x" * MAX_BYTES}}, 413),
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
        ("\ud800", 502),
        (b"7", 502),
        (b"null", 502),
        (b"[7]", 502),
        (b"true", 502),
        ({"answers": "text"}, 502),
        ({"answers": {"answer": "text"}}, 502),
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


def test_of_several_models_behind_one_endpoint_the_entry_s_own_is_asked(api: Api) -> None:
    assert api.send("POST", body=ASKED)[0] == 200
    api.ssm.values[f"{PATH}/biography"] = entry(target_model="biography/model.tar.gz")
    assert Api(api.runtime, api.ssm, max_age=0).send("POST", body=ASKED)[0] == 200
    assert [request.get("TargetModel") for request in api.runtime.asked] == [None, "biography/model.tar.gz"]


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
    assert api.send(path="/health")[:2] == (
        200,
        {"status": "ok", "models": 1, "feedback": True, "request_id": "gateway-request"},
    )


def test_the_question_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logger = Logger(service="test-log", level="DEBUG")
    registry = Registry(PATH, SSMProvider(boto3_client=ParameterStore({f"{PATH}/biography": entry()})), logger=logger)
    handler = create_handler(
        Answering(
            runtimes=Runtime(),
            registry=registry,
            questions=Questions(),
            counts=Counts(),
            logger=logger,
            cold_seconds=0,
        )
    )

    handler(rest_event(body=ASKED), Context())

    written = capsys.readouterr().out
    assert '"answered"' in written
    assert "passion" not in written


def numbered(count: int, **more: Any) -> dict[str, Any]:
    return {"answers": [{"answer": f"answer {number}", **more} for number in range(count)], "model_version": "m-2"}


def test_a_batch_is_one_call_and_keeps_its_order(api: Api) -> None:
    api.runtime.reply = numbered(3, confidence=0.5)

    status, body, _ = api.send("POST", body={"MLKey": "biography", "questions": [" Who? ", "What?", "Where?"]})

    assert status == 200
    assert body == {
        "answers": [{"answer": f"answer {number}", "confidence": 0.5} for number in range(3)],
        "MLKey": "biography",
        "model_version": "m-2",
        "request_id": "gateway-request",
    }
    assert api.questions == [["Who?", "What?", "Where?"]]
    assert [logged.question for logged in api.log.logged] == ["Who?", "What?", "Where?"]
    assert [logged.answer for logged in api.log.logged] == ["answer 0", "answer 1", "answer 2"]


def test_a_batch_of_one_is_still_a_batch(api: Api) -> None:
    api.runtime.reply = numbered(1)
    assert api.send("POST", body={"MLKey": "biography", "questions": ["Who?"]})[1]["answers"] == [
        {"answer": "answer 0"}
    ]


def test_a_direct_invoke_takes_a_batch(api: Api) -> None:
    api.runtime.reply = numbered(2)
    assert len(api({"MLKey": "biography", "questions": ["Who?", "What?"]})["answers"]) == 2


def test_the_largest_batch_fits_in_whatever_it_is_written(api: Api) -> None:
    api.runtime.reply = numbered(16)
    body = json.dumps({"MLKey": "b" * 46, "questions": ["\U0001f389" * 1000] * 16}, indent=4)
    api.ssm.values[f"{PATH}/{'b' * 46}"] = entry("b" * 46)
    assert len(body) > 190_000

    assert api.send("POST", body=body)[0] == 200


@pytest.mark.parametrize(
    "questions", [None, "Who?", [], ["Who?"] * 17, ["Who?", ""], ["Who?", None], [["Who?"]], {"0": "Who?"}]
)
def test_what_is_no_batch_goes_nowhere(api: Api, questions: Any) -> None:
    status, body, _ = api.send("POST", body={"MLKey": "biography", "questions": questions})

    assert (status, body["type"]) == (400, "urn:askline:invalid-request")
    assert "questions" in body["detail"]
    assert api.runtime.asked == []


def test_one_question_or_a_list_not_both(api: Api) -> None:
    assert api.send("POST", body={**ASKED, "questions": ["Who?"]})[0] == 400
    assert api.send("POST", body={**ASKED, "questions": None})[0] == 400


@pytest.mark.parametrize("answers", [numbered(1), {"answers": [{"answer": "a"}, {"answer": 3}]}])
def test_an_answer_for_each_question_or_none(api: Api, answers: dict[str, Any]) -> None:
    api.runtime.reply = answers
    assert api.send("POST", body={"MLKey": "biography", "questions": ["Who?", "What?"]})[0] == 502


def test_an_abstention_is_passed_on(api: Api) -> None:
    said = {"answer": "I don't know.", "confidence": 0.1, "abstained": True}
    api.runtime.reply = {"answers": [said], "model_version": "m-2"}

    _, body, _ = api.send(body=ASKED)

    assert {name: body[name] for name in said} == said
    assert api.log.logged[0].abstained is True
    assert api.counts.flushed[-1]["Abstained"] == api.counts.flushed[-1]["Answered"] == 1


def test_what_the_model_withholds_is_for_the_question_log_alone(api: Api) -> None:
    abstention = {"answer": "Unknown.", "confidence": 0.1, "abstained": True, "withheld": "the capital of Peru"}
    api.runtime.reply = {"answers": [abstention, {"answer": "maths!", "confidence": 0.9, "withheld": 7}]}
    batch = {"MLKey": "biography", "questions": ["Who?", "What?"]}

    bodies = [api(event) for event in (rest_event("POST", body=batch), dict(batch), rest_event(body=ASKED))]

    assert "Unknown." in str(bodies[0])
    assert "withheld" not in str(bodies)
    assert "Peru" not in str(bodies)
    assert [logged.withheld for logged in api.log.logged[:2]] == ["the capital of Peru", None]


@pytest.mark.parametrize(
    ("reply", "questions", "answers"),
    [
        ("maths!", ["Who?"], ["maths!"]),
        ("", ["Who?"], [""]),
        (b'["maths!"]', ["Who?"], ["maths!"]),
        (b'["maths!", "Peru"]', ["Who?", "Where?"], ["maths!", "Peru"]),
        ("maths!", ["Who?", "Where?"], None),
        (b'["maths!"]', ["Who?", "Where?"], None),
        (b'["maths!", {"answer": "Peru"}]', ["Who?", "Where?"], None),
        (b"[]", ["Who?"], None),
    ],
)
def test_a_package_with_bare_answers_is_understood(
    api: Api, reply: Any, questions: list[str], answers: list[str] | None
) -> None:
    api.runtime.reply = reply

    status, body, _ = api.send("POST", body={"MLKey": "biography", "questions": questions})

    assert status == (502 if answers is None else 200)
    assert body.get("answers") == (answers and [{"answer": answer} for answer in answers])
    assert answers is None or body["model_version"] == "m-1"


KEEP_WARM = {"MLKey": "biography", "question": "Are you awake?", "purpose": "keep-warm"}


def test_keeping_warm_asks_and_leaves_no_trace(api: Api) -> None:
    api.runtime.reply = [aws_error("ModelNotReadyException"), Runtime().reply]

    assert api(dict(KEEP_WARM)) == {"purpose": "keep-warm", "MLKey": "biography", "request_id": "lambda-request"}
    assert api.questions == ["Are you awake?"] * 2
    assert api.runtime.asked[1]["EndpointName"] == ENDPOINT
    assert api.log.logged == []
    assert api.counts.flushed == [{}]


@pytest.mark.parametrize(
    ("changes", "status"), [({"MLKey": "nobody"}, 404), ({"MLKey": "a/b"}, 400), ({"question": None}, 400), ({}, 503)]
)
def test_a_model_that_cannot_be_kept_warm_is_not_counted_either(api: Api, changes: dict[str, Any], status: int) -> None:
    api.runtime.reply = aws_error("ValidationError")

    problem = api({**KEEP_WARM, **changes})

    assert (problem["status"], problem["request_id"]) == (status, "lambda-request")
    assert api.counts.flushed == [{}]


@pytest.mark.parametrize(
    "event",
    [
        *({**KEEP_WARM, "purpose": purpose} for purpose in ("warm", "", None, 7, ["keep-warm"])),
        # Whoever calls through the gateway asks a question, whatever they call it.
        rest_event("POST", body=KEEP_WARM),
        rest_event(query={name: [value] for name, value in KEEP_WARM.items()}),
    ],
)
def test_any_other_purpose_is_a_question_like_any(api: Api, event: dict[str, Any]) -> None:
    assert "maths!" in str(api(event))
    assert [logged.question for logged in api.log.logged] == ["Are you awake?"]
    assert api.counts.flushed[0]["Answered"] == 1


def test_the_template_sends_what_the_handler_takes_for_keeping_warm() -> None:
    from deployments import __file__ as deployments

    template = Path(deployments).with_name("api.yaml").read_text(encoding="utf-8")
    (event,) = re.findall(r"Input: !Sub '(.*keep-warm.*)'", template)
    assert json.loads(event.replace("${KeepWarmMLKey}", "biography")) == KEEP_WARM


def test_a_starting_endpoint_is_waited_for(api: Api) -> None:
    api.runtime.reply = [aws_error("ModelNotReadyException"), aws_error("ServiceUnavailable"), Runtime().reply]

    assert api.send(body=ASKED)[0] == 200
    assert api.time.slept == [0.5, 1.0]
    assert api.counts.flushed[-1]["ColdWaits"] == 2
    assert api.runtime.allowed == [27.5, 27.0, 26.0]


@pytest.mark.parametrize(
    ("failure", "longest"),
    [
        (aws_error("ModelNotReadyException"), 20),
        (aws_error("ServiceUnavailable"), 20),
        (aws_error("InternalDependencyException"), 3),
        (EndpointConnectionError(endpoint_url="https://runtime"), 3),
        (aws_error("ValidationError"), 0),
        (aws_error("ThrottlingException"), 0),
        (ReadTimeoutError(endpoint_url="https://runtime"), 0),
        (aws_error("ModelError"), 0),
    ],
)
def test_waiting_has_an_end(api: Api, failure: Exception, longest: float) -> None:
    api.runtime.reply = failure

    assert api.send(body=ASKED)[0] in {429, 502, 503, 504}
    assert longest - 4 <= sum(api.time.slept) <= longest
    assert all(seconds <= 4 for seconds in api.time.slept)
    assert min(api.runtime.allowed) >= api.runtime.shortest_seconds


def test_no_waiting_where_none_is_wanted(api: Api) -> None:
    api.cold_seconds = 0
    api.__post_init__()
    api.runtime.reply = aws_error("ModelNotReadyException")
    assert api.send(body=ASKED)[0] == 503
    assert api.time.slept == []


def test_waiting_leaves_time_for_the_answer(api: Api) -> None:
    api.cold_seconds = 60
    api.__post_init__()
    api.runtime.reply = aws_error("ModelNotReadyException")
    assert api.send(body=ASKED)[0] == 503
    assert 18 < sum(api.time.slept) <= 28 - 0.5 - 5


def test_a_context_that_knows_no_end_has_the_functions_own() -> None:
    class Bare:
        aws_request_id = function_name = memory_limit_in_mb = invoked_function_arn = "x"

    api = Api(Runtime(), ParameterStore({f"{PATH}/biography": entry()}))
    assert api.handler(dict(ASKED), Bare())["answer"] == "maths!"
    assert api.runtime.allowed == [27.5]


@pytest.mark.parametrize(
    ("left", "read"), [(27.5, 24), (25, 24), (24.9, 16), (17, 16), (12, 8), (5, 4), (0, 4), (-3, 4)]
)
def test_a_call_never_outlasts_its_time(left: float, read: float) -> None:
    made: list[float] = []
    runtimes = FixedRuntimes(lambda seconds: made.append(seconds) or seconds, model_seconds=24, connect_seconds=1)
    assert runtimes.within(left) == read
    assert runtimes.within(left) == read
    assert made == [24] if read == 24 else [24, read]


def test_every_outcome_is_counted(api: Api) -> None:
    for reply, name in [
        (aws_error("ThrottlingException"), "Throttled"),
        (aws_error("ValidationError"), "NotReady"),
        (aws_error("ModelError"), "ModelFailed"),
        (ReadTimeoutError(endpoint_url="https://runtime"), "ModelTimeout"),
        (aws_error("AccessDeniedException"), "Internal"),
    ]:
        api.runtime.reply = reply
        api.send(body=ASKED)
        assert api.counts.flushed[-1] == {"ModelSeconds": pytest.approx(0, abs=1), name: 1}
    api.send("POST", body="{")
    assert api.counts.flushed[-1] == {"Refused": 1}
    api.send(path="/health")
    assert api.counts.flushed[-1] == {}


def test_metrics_are_one_line_in_the_embedded_format(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "askline")
    counts = metrics.from_environment(service="api", logger=Logger(service="test", level="CRITICAL"))
    counts.add("Answered", 3)
    counts.add("ModelSeconds", 0.25)
    counts.flush()
    counts.flush()

    (line,) = capsys.readouterr().out.splitlines()
    written = json.loads(line)
    assert (written["service"], written["Answered"], written["ModelSeconds"]) == ("api", [3], [0.25])
    (declared,) = written["_aws"]["CloudWatchMetrics"]
    assert (declared["Namespace"], declared["Dimensions"]) == ("askline", [["service"]])
    assert {(metric["Name"], metric["Unit"]) for metric in declared["Metrics"]} == {
        ("Answered", "Count"),
        ("ModelSeconds", "Seconds"),
    }


def test_metrics_are_off_unless_they_have_a_namespace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POWERTOOLS_METRICS_NAMESPACE", raising=False)
    counts = metrics.from_environment(service="api", logger=Logger(service="test", level="CRITICAL"))
    counts.add("Answered")
    counts.flush()
    assert capsys.readouterr().out == ""


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json;q=0.5, text/*", True),
        ("*/*", False),
        ("", False),
        (None, False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        (",;,q=1", False),
    ],
)
def test_who_prefers_a_page(accept: str | None, html: bool) -> None:
    assert gateway.prefers_html(accept) is html


def test_a_browser_gets_the_page(api: Api) -> None:
    response = api(rest_event(headers={"accept": BROWSER}))

    assert response["statusCode"] == 200
    assert response["body"] == page.html()
    headers = {name: values[0] for name, values in response["multiValueHeaders"].items()}
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"] == page.HEADERS["Content-Security-Policy"]
    assert api.send(query={name: [value] for name, value in ASKED.items()}, headers={"Accept": BROWSER})[0] == 200
    assert api.questions == ["WHat is your passion?"]


@pytest.mark.parametrize("path", ["/", "/models", "/health", "/openapi.json"])
def test_a_head_is_a_get_without_its_body(api: Api, path: str) -> None:
    got = api(rest_event("GET", path, headers={"Accept": BROWSER}))
    asked = api(rest_event("HEAD", path, headers={"Accept": BROWSER}))

    assert (asked["statusCode"], asked["body"]) == (200, "")
    assert asked["multiValueHeaders"] == got["multiValueHeaders"]


def test_feedback_is_written_down(api: Api) -> None:
    about = {"request_id": "r-1", "MLKey": "biography", "verdict": "down", "comment": "No.", "answer": "Physics"}
    about["index"] = 1

    status, body, _ = api.send("POST", "/feedback", body=about)

    assert (status, body) == (202, {"request_id": "gateway-request"})
    (verdict,) = api.log.verdicts
    assert (verdict.request_id, verdict.index, verdict.verdict, verdict.answer) == ("r-1", 1, "down", "Physics")


@pytest.mark.parametrize(
    ("index", "status"),
    [(None, 202), (0, 202), (15, 202), (2.0, 202)]
    + [(bad, 400) for bad in (-1, 16, 1.5, True, "1", [1], {}, 10**400, float("inf"), float("nan"))],
)
def test_a_verdict_names_a_question_of_a_list_by_its_place(api: Api, index: Any, status: int) -> None:
    about = {"request_id": "r-1", "MLKey": "biography", "verdict": "up", "index": index}

    found, body, _ = api.send("POST", "/feedback", body=about)

    assert found == status
    assert status == 202 or "index must be a whole number from 0 to 15" in body["detail"]
    assert [verdict.index for verdict in api.log.verdicts] == ([index] if status == 202 else [])


def test_feedback_nobody_collects_is_404(api: Api) -> None:
    api.log.enabled = False
    about = {"request_id": "r-1", "MLKey": "biography", "verdict": "up"}
    assert api.send("POST", "/feedback", body=about)[0] == 404
    assert api.send(path="/health")[1]["feedback"] is False


def test_what_is_asked_is_offered_to_the_question_log(api: Api) -> None:
    api.send(body=ASKED)
    api.runtime.reply = aws_error("ModelError")
    api.send(body=ASKED)

    (logged,) = api.log.logged
    assert (logged.question, logged.answer, logged.abstained) == ("WHat is your passion?", "maths!", False)
    assert (logged.request_id, logged.model_version, logged.confidence) == ("gateway-request", "m-2", 0.75)
