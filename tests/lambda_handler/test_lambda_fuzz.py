"""Whatever event the function gets, it answers with a documented status and asks no endpoint beyond the registry."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.api import ENDPOINT, PATH, Api, ParameterStore, Runtime, entry, rest_event

MEANT = {200, 202, 400, 404, 405, 413, 415}
ROUTES = ["/", "/models", "/health", "/openapi.json", "/feedback"]

#: What people, and people who mean ill, have put into such fields.
HOSTILE = [
    *("", " ", "null", "undefined", "NaN", "-1", "0", "true", "[]", "{}", "biography", "Who?"),
    *("\U0001f600" * 50, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "Zoe\u0308", "\ufe0f", "\ufeff"),
    *("\u202eשלום\u202c", "مرحبا", "\u200f\u200e", "\u2066x\u2069"),
    *("\x00", "biography\x00", "bell\x07", "\x1b[31m", "\r\nSet-Cookie: a=b", "\x85", "\ud83c", "\udfff"),
    *("'; DROP TABLE students; --", "1 OR 1=1", '" UNION SELECT * FROM users --', "$(id)", "`id`", "{{7*7}}", "%s%n"),
    *("../../etc/passwd", "..\\..\\secret", "%2e%2e%2f", "a/../b", "/askline/registry/biography", "biography/", "./"),
    *("arn:aws:sagemaker:us-east-1:1:endpoint/x", "serv-hf-endpoint-biography", "biography-", "-biography", "*", "?"),
    *("<script>alert(1)</script>", "javascript:alert(1)", "http://169.254.169.254/", "a" * 47, "x" * 1001),
]
#: Once for each place, not within nested values: it is the same there, and slow.
LARGE = "x" * 1_000_000
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.sampled_from([*HOSTILE, LARGE]) | st.text()
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "MLKey": st.just("biography") | TEXTS | VALUES,
        "question": TEXTS | VALUES,
        "questions": st.lists(TEXTS | VALUES, max_size=18) | VALUES,
        "request_id": TEXTS | VALUES,
        "verdict": st.sampled_from(["up", "down"]) | VALUES,
        "comment": TEXTS | VALUES,
    },
)
BODIES = FIELDS.map(json.dumps) | TEXTS | VALUES | st.binary().map(lambda raw: base64.b64encode(raw).decode())
GATEWAY_EVENTS = st.fixed_dictionaries(
    {
        "httpMethod": st.sampled_from(["GET", "POST"])
        | st.sampled_from(["HEAD", "PUT", "OPTIONS", "get", ""])
        | st.text(max_size=5),
        "path": st.sampled_from(ROUTES) | st.sampled_from(["", "/models/", "//", "/%2e%2e", "/../x"]) | TEXTS,
    },
    optional={
        "body": BODIES,
        "headers": st.dictionaries(
            st.sampled_from(["content-type", "Content-Type", "Accept", "accept", "x"]), TEXTS | VALUES
        )
        | VALUES,
        "queryStringParameters": FIELDS | VALUES,
        "multiValueQueryStringParameters": FIELDS
        | st.dictionaries(st.sampled_from(["MLKey", "question"]), st.lists(TEXTS, max_size=2))
        | VALUES,
        "multiValueHeaders": VALUES,
        "pathParameters": VALUES,
        "requestContext": VALUES | st.fixed_dictionaries({"requestId": TEXTS | VALUES}),
        "isBase64Encoded": st.booleans() | VALUES,
    },
)


def check(event: Any) -> int:
    """Send the event and return the status; fail if anything but what is documented happened."""
    api = Api(Runtime(), ParameterStore({f"{PATH}/biography": entry()}))
    api.runtime.reply = {"answers": [{"answer": "maths!"}] * 16}

    response = api(event)

    json.dumps(response, ensure_ascii=False, allow_nan=False).encode()
    assert {request["EndpointName"] for request in api.runtime.asked} <= {ENDPOINT}
    assert all(re.fullmatch(PATH + r"(/[a-zA-Z0-9-]{1,46})?", name) for name in api.ssm.asked)
    status = response.get("statusCode", response.get("status", 200))
    assert status in MEANT
    return int(status)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(event=VALUES | FIELDS | GATEWAY_EVENTS)
def test_no_event_breaks_it_or_reaches_beyond_the_registry(event: Any) -> None:
    check(event)


@pytest.mark.parametrize("text", [*HOSTILE, LARGE], ids=lambda text: ascii(text)[:30])
def test_hostile_text_is_refused_as_a_key_and_only_asked_as_a_question(text: str) -> None:
    events = [
        rest_event("POST", body=json.dumps({"MLKey": text, "question": "Who?"})),
        rest_event(query={"MLKey": [text], "question": ["Who?"]}),
        {"MLKey": text, "question": "Who?"},
        rest_event("POST", "/feedback", body=json.dumps({"MLKey": text, "request_id": "r", "verdict": "up"})),
    ]
    assert [check(event) for event in events] in (
        [200, 200, 200, 202] if text == "biography" else [400] * 4,
        # Formed like a key and not in the registry; or too much for any body.
        [404, 404, 404, 202],
        [413, 400, 400, 413],
    )
    question = {"MLKey": "biography", "question": text}
    assert check(question) in (200, 400)
    assert check(rest_event("POST", body=json.dumps(question))) in (200, 400, 413)
    assert check(rest_event(query={name: [value] for name, value in question.items()})) in (200, 400)
    assert check(rest_event(path=f"/{text}")) in (200, 400, 404, 405)
