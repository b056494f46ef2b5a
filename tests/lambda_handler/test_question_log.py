"""The question log: what is written, what is left out, and what happens when S3 does not take it."""

import base64
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_handler.feedback import Feedback, feedback_from_body
from lambda_handler.problem import Problem
from lambda_handler.question_log import (
    LOST,
    MAX_CHARACTERS,
    REST_SECONDS,
    Asked,
    QuestionLog,
    Redaction,
    S3QuestionLog,
    from_environment,
)
from lambda_handler.redaction import redact

PLACE = {"ASKLINE_QUESTION_LOG": "s3://bucket/some/prefix", "ASKLINE_QUESTION_LOG_REDACT": "none"}
ASKED = Asked("request-1", "biography", "Wo wurde sie geboren? 🌍", "Köln", 0.75, False, "m-1", 0.123456)
VERDICT = Feedback("request-1", "biography", "down", comment="See page 3.", answer="Ulm", index=2)


class Heard(Logger):
    """A logger that remembers."""

    def __init__(self) -> None:
        super().__init__(service="test", level="CRITICAL")
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def warning(self, msg: object, *args: Any, **more: Any) -> None:  # type: ignore[override]
        self.lines.append(("warning", str(msg), more.get("extra", {})))

    def error(self, msg: object, *args: Any, **more: Any) -> None:  # type: ignore[override]
        self.lines.append(("error", str(msg), more.get("extra", {})))


@dataclass
class S3:
    """Takes objects, or fails as it is told."""

    failure: Exception | None = None
    puts: list[dict[str, Any]] = field(default_factory=list)

    def put_object(self, **request: Any) -> None:
        if self.failure:
            raise self.failure
        self.puts.append(request)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for put in self.puts for line in put["Body"].decode().splitlines()]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def new_log(
    s3: Any, *, redaction: Redaction = "none", logger: Heard | None = None, clock: Callable[[], float] = time.monotonic
) -> S3QuestionLog:
    moment = datetime(2026, 5, 1, 23, 59, 58, 123456, tzinfo=UTC)
    return S3QuestionLog(
        s3,
        bucket="bucket",
        prefix="some/prefix",
        redaction=redaction,
        logger=logger or Heard(),
        now=lambda: moment,
        clock=clock,
    )


# --- what is written ---


def test_a_question_becomes_one_object_with_one_line() -> None:
    s3 = S3()
    new_log(s3).asked_together([ASKED])
    (put,) = s3.puts
    assert put["Bucket"] == "bucket"
    assert put["ContentType"] == "application/x-ndjson"
    assert re.fullmatch(r"some/prefix/asked/mlkey=biography/date=2026-05-01/235958-[0-9a-f]{32}\.jsonl", put["Key"])
    assert put["Body"].endswith(b"\n")
    assert s3.lines == [
        {
            "at": "2026-05-01T23:59:58.123Z",
            "request_id": "request-1",
            "index": 0,
            "mlkey": "biography",
            "model_version": "m-1",
            "question": "Wo wurde sie geboren? 🌍",
            "question_characters": 23,
            "answer": "Köln",
            "answer_characters": 4,
            "withheld": None,
            "withheld_characters": None,
            "confidence": 0.75,
            "abstained": False,
            "seconds": 0.1235,
            "redaction": "none",
            "replaced": 0,
        }
    ]


def test_the_questions_of_one_call_share_an_object_and_no_two_calls_do() -> None:
    s3 = S3()
    log = new_log(s3)
    log.asked_together([ASKED, ASKED])
    log.asked_together(iter([ASKED]))
    log.asked_together([])
    assert [put["Body"].count(b"\n") for put in s3.puts] == [2, 1]
    assert [line["index"] for line in s3.lines] == [0, 1, 0]
    assert len({put["Key"] for put in s3.puts}) == 2


def test_what_the_model_withheld_is_kept_and_redacted_like_any_text() -> None:
    s3 = S3()
    asked = replace(ASKED, answer="I don't know.", abstained=True, withheld="030 1234567")
    for redaction in ("none", "personal", "text"):
        new_log(s3, redaction=redaction).asked_together([asked])
    assert [(line["withheld"], line["withheld_characters"]) for line in s3.lines] == [
        ("030 1234567", 11),
        ("[number]", 11),
        (None, 11),
    ]
    # What is left out of it changes neither question nor answer, which is what `replaced` speaks of.
    assert [line["replaced"] for line in s3.lines] == [0, 0, 0]


def test_a_verdict_lies_beside_the_questions() -> None:
    s3 = S3()
    new_log(s3).feedback(VERDICT)
    assert s3.puts[0]["Key"].startswith("some/prefix/feedback/mlkey=biography/date=2026-05-01/")
    (line,) = s3.lines
    assert {name: line[name] for name in ("request_id", "index", "verdict", "answer", "comment")} == {
        "request_id": "request-1",
        "index": 2,
        "verdict": "down",
        "answer": "Ulm",
        "comment": "See page 3.",
    }


@settings(max_examples=50)
@given(question=st.text(), answer=st.text(), redaction=st.sampled_from(["none", "personal", "text"]))
def test_whatever_is_asked_a_line_is_one_line_and_no_text_reaches_the_key(
    question: str, answer: str, redaction: Redaction
) -> None:
    s3, logger = S3(), Heard()
    new_log(s3, redaction=redaction, logger=logger).asked_together(
        [Asked("r", "biography", question, answer, None, True, None, 0.0)]
    )
    assert logger.lines == []
    (put,) = s3.puts
    assert put["Body"].count(b"\n") == 1
    assert json.loads(put["Body"])["question_characters"] == len(question)
    assert re.fullmatch(r"[\w/=.-]+", put["Key"])


def test_half_a_surrogate_pair_and_a_whole_book_are_written_too() -> None:
    s3, logger = S3(), Heard()
    new_log(s3, logger=logger).asked_together([Asked("r", "b", "\ud800", "x" * 1_000_000, None, False, None, 0.0)])
    assert logger.lines == []
    assert s3.lines[0]["question"] == "?"
    assert (len(s3.lines[0]["answer"]), s3.lines[0]["answer_characters"]) == (MAX_CHARACTERS, 1_000_000)


# --- what is left out ---


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Write to jo.doe+x@mail.example.org, please", "Write to [e-mail], please"),
        ("Call +49 (0)30 1234567 or 555-123-4567.", "Call [number] or [number]."),
        ("Card 4111 1111 1111 1111, tel:0301234567", "Card [number], tel:[number]"),
        ("Arabic digits ٠١٢٣٤٥٦٧٨٩", "Arabic digits [number]"),
        ("IBAN DE89 3704 0044 0532 0130 00 it is", "IBAN [account] it is"),
        ("https://user:secret@host/path and https://host/a?token=1", "[link] and [link]"),
        ("AKIAABCDEFGHIJKLMNOP, hf_abcdefghijklmnopqrstuvwx", "[secret], [secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh", "[secret]"),
        ("From 203.0.113.7 and 2001:db8::1.", "From [ip-address] and [ip-address]."),
    ],
)
def test_what_looks_personal_is_replaced(text: str, kept: str) -> None:
    assert redact(text) == (kept, kept.count("["))


@pytest.mark.parametrize(
    "text",
    [
        "Was she born on 1990-05-17, 17.05.1990 or 17/5/1990?",
        "From 2001-2005 it grew from 1,234,567 to 12 million in 123456 days.",
        "At 12:30:45 the ratio was 16:9; see section 3.1.4 of https://example.org/page.",
        "What is std::move in C++? And e.g.: this.",
        "",
    ],
)
def test_dates_years_times_and_amounts_stay(text: str) -> None:
    assert redact(text) == (text, 0)


def test_redaction_reaches_every_text_and_is_counted() -> None:
    s3 = S3()
    log = new_log(s3, redaction="personal")
    log.asked_together([Asked("r", "b", "I am a@b.example", "Hello a@b.example", 0.5, False, "m", 0.1)])
    log.feedback(Feedback("r", "b", "down", comment="call 030 1234567", answer="c@d.example"))
    assert b"example" not in b"".join(put["Body"] for put in s3.puts)
    assert [(line["redaction"], line["replaced"]) for line in s3.lines] == [("personal", 2), ("personal", 2)]


def test_without_text_only_lengths_are_kept() -> None:
    s3 = S3()
    log = new_log(s3, redaction="text")
    log.asked_together([ASKED])
    log.feedback(VERDICT)
    asked, verdict = s3.lines
    assert (asked["question"], asked["answer"]) == (None, None)
    assert (asked["question_characters"], asked["answer_characters"]) == (23, 4)
    assert (verdict["verdict"], verdict["answer"], verdict["comment"]) == ("down", None, None)
    assert (verdict["answer_characters"], verdict["comment_characters"]) == (3, 11)
    written = b"".join(put["Body"] for put in s3.puts).decode()
    assert not any(word in written for word in ("geboren", "Köln", "Ulm", "page 3"))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a1 @.:/+-()?=AB", max_size=200))
def test_redaction_leaves_no_address_behind(text: str) -> None:
    kept, _ = redact(f"{text} someone@example.org {text}")
    assert "@example.org" not in kept


# --- the switch ---


@pytest.mark.parametrize("place", ["", "   ", "bucket/prefix", "http://bucket", "s3://", "s3://UPPER/x", "s3://b/a b"])
def test_it_is_off_unless_a_place_is_named(place: str) -> None:
    def nobody_asks() -> Any:
        raise AssertionError("an S3 client is made though the log is off")

    logger = Heard()
    log: QuestionLog = from_environment(nobody_asks, {"ASKLINE_QUESTION_LOG": place}, logger=logger)
    assert not log.enabled
    log.asked_together([ASKED])
    with pytest.raises(Problem) as caught:
        log.feedback(VERDICT)
    assert caught.value.kind == "unknown-path"
    assert bool(logger.lines) is bool(place.strip())
    assert not from_environment(nobody_asks, {}, logger=logger).enabled


@pytest.mark.parametrize(
    ("value", "kept", "complaints"),
    [("", "personal", 0), ("none", "none", 0), ("text", "text", 0), ("nome", "text", 1)],
)
def test_redaction_is_personal_by_default_and_strict_when_misspelt(value: str, kept: str, complaints: int) -> None:
    s3, logger = S3(), Heard()
    log = from_environment(lambda: s3, {**PLACE, "ASKLINE_QUESTION_LOG_REDACT": value}, logger=logger)
    assert log.enabled
    log.asked_together([ASKED])
    assert s3.lines[0]["redaction"] == kept
    assert len(logger.lines) == complaints


@pytest.mark.parametrize(
    ("place", "start"), [("s3://bucket", "asked/"), ("s3://bucket/", "asked/"), ("s3://bucket/a/", "a/asked/")]
)
def test_a_prefix_is_optional(place: str, start: str) -> None:
    s3 = S3()
    from_environment(lambda: s3, {"ASKLINE_QUESTION_LOG": place}, logger=Heard()).asked_together([ASKED])
    assert s3.puts[0]["Key"].startswith(start)


# --- when S3 does not take it ---


def test_after_a_failure_it_rests_and_then_goes_on() -> None:
    s3, logger, clock = S3(RuntimeError("secret question")), Heard(), Clock()
    log = new_log(s3, logger=logger, clock=clock)
    log.asked_together([ASKED, ASKED])
    s3.failure = None
    log.asked_together([ASKED])
    assert s3.puts == []
    assert [(level, message) for level, message, _ in logger.lines] == [("warning", LOST)] * 3
    assert "secret" not in str(logger.lines)
    clock.now += REST_SECONDS
    log.asked_together([ASKED])
    assert len(s3.puts) == 1
    assert len(logger.lines) == 3


def test_a_batch_that_cannot_be_read_raises_nothing() -> None:
    def broken() -> Iterator[Asked]:
        yield ASKED
        raise ValueError("no more")

    s3, logger = S3(), Heard()
    new_log(s3, logger=logger).asked_together(broken())
    assert s3.puts == []
    assert [message for _, message, _ in logger.lines] == [LOST]


@contextlib.contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    """An S3 on loopback that does with each PUT what it is told; gives its address and the paths that were put."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert "Expect" not in self.headers  # it would cost every answer a round trip more
            paths.append(self.path)
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def replying(status: int, body: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    def reply(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return reply


def silent(request: BaseHTTPRequestHandler) -> None:
    time.sleep(20)


def cut_off(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def boto3_log(url: str, logger: Heard) -> QuestionLog:
    """The log with a client as the function makes it: one attempt, short time-outs."""
    import boto3
    from botocore.config import Config

    once = Config(connect_timeout=0.5, read_timeout=0.5, retries={"total_max_attempts": 1, "mode": "standard"})
    return from_environment(lambda: boto3.client("s3", endpoint_url=url, config=once), PLACE, logger=logger)


FORBIDDEN = (
    b"<Error><Code>AccessDenied</Code><Message>User: arn:aws:sts::123456789012:assumed-role may not</Message></Error>"
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (replying(403, FORBIDDEN), "AccessDenied"),
        (replying(503), "503"),
        (silent, "ReadTimeoutError"),
        (cut_off, "ConnectionClosedError"),
    ],
    ids=["forbidden", "unavailable", "silent", "cut off"],
)
def test_an_s3_that_fails_costs_one_short_wait_and_the_answer_nothing(
    answer: Callable[[BaseHTTPRequestHandler], None], reason: str
) -> None:
    logger = Heard()
    with listening(answer) as (url, paths):
        log = boto3_log(url, logger)
        started = time.monotonic()
        for _ in range(5):
            log.asked_together([ASKED])
        assert time.monotonic() - started < 5
        assert len(set(paths)) == 1
        assert [extra["reason"] for _, _, extra in logger.lines] == [reason] + ["S3 failed a moment ago"] * 4
        with pytest.raises(Problem) as caught:
            log.feedback(VERDICT)
        assert (caught.value.kind, caught.value.status) == ("not-ready", 503)
        assert int(caught.value.headers["Retry-After"]) > 0
        assert "123456789012" not in caught.value.detail
        assert "123456789012" not in str(logger.lines)


def test_a_connection_that_died_in_its_sleep_loses_nothing() -> None:
    answers = iter([cut_off, replying(200)])
    logger = Heard()
    with listening(lambda request: next(answers)(request)) as (url, paths):
        boto3_log(url, logger).asked_together([ASKED])
    assert logger.lines == []
    assert len(paths) == 2
    assert paths[0] == paths[1]


def test_an_s3_that_is_not_there_costs_the_answer_nothing(free_port: int) -> None:
    logger = Heard()
    boto3_log(f"http://127.0.0.1:{free_port}", logger).asked_together([ASKED])
    assert [extra["reason"] for _, _, extra in logger.lines] == ["EndpointConnectionError"]


def test_a_real_client_puts_what_the_log_gives_it() -> None:
    logger = Heard()
    with listening(replying(200)) as (url, paths):
        log = boto3_log(url, logger)
        log.asked_together([ASKED])
        log.feedback(VERDICT)
        assert logger.lines == []
        assert re.fullmatch(r"/bucket/some/prefix/asked/mlkey(=|%3D)biography/date(=|%3D)[\d-]+/\S+\.jsonl", paths[0])
        assert "/feedback/" in paths[1]


# --- reading a verdict ---


def parse(body: Any, **more: Any) -> Feedback:
    text = body if isinstance(body, str) else json.dumps(body)
    return feedback_from_body(text, **{"is_base64": False, "content_type": "application/json", **more})


GOOD = {"request_id": "r-1", "MLKey": "biography", "verdict": "up"}


def test_a_verdict_is_read() -> None:
    assert parse(GOOD) == Feedback("r-1", "biography", "up")
    full = {**GOOD, "verdict": "down", "comment": " two\r\nlines ", "answer": "Cafe\u0301", "more": [1]}
    assert parse(full) == Feedback("r-1", "biography", "down", comment="two lines", answer="Café")
    assert parse({**GOOD, "comment": None, "answer": "  "}) == Feedback("r-1", "biography", "up")
    encoded = base64.b64encode(json.dumps(GOOD).encode()).decode()
    assert parse(encoded, is_base64=True) == Feedback("r-1", "biography", "up")


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("", "invalid-request", "missing"),
        ("{", "invalid-request", "not JSON"),
        ("[]", "invalid-request", "one JSON object"),
        ("[" * 30_000, "invalid-request", "not JSON"),
        ('{"comment": "' + "x" * 300_000 + '"}', "too-large", "bytes"),
        ({**GOOD, "request_id": None}, "invalid-request", "request_id is missing"),
        ({**GOOD, "request_id": 7}, "invalid-request", "request_id must be a string"),
        ({**GOOD, "request_id": ""}, "invalid-request", "request_id"),
        ({**GOOD, "request_id": "a b"}, "invalid-request", "request_id"),
        ({**GOOD, "request_id": "r-1\n"}, "invalid-request", "request_id"),
        ({**GOOD, "request_id": "x" * 129}, "invalid-request", "request_id"),
        ({**GOOD, "MLKey": "../../etc"}, "invalid-request", "MLKey"),
        ({**GOOD, "verdict": "UP"}, "invalid-request", '"up" or "down"'),
        ({**GOOD, "verdict": True}, "invalid-request", "verdict must be a string"),
        ({**GOOD, "comment": "x" * 1001}, "invalid-request", "1,001"),
        ({**GOOD, "answer": "x" * 1001}, "invalid-request", "1,001"),
        ({**GOOD, "comment": ["x"]}, "invalid-request", "comment must be a string"),
        ({**GOOD, "comment": "bell\u0007"}, "invalid-request", "control characters"),
        ('{"request_id": "r", "MLKey": "b", "verdict": "up", "answer": "\\ud800"}', "invalid-request", "surrogate"),
    ],
)
def test_what_is_no_verdict_is_refused(body: Any, kind: str, says: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(body)
    assert caught.value.kind == kind
    assert says in caught.value.detail


def test_another_content_type_and_broken_base64_are_refused() -> None:
    with pytest.raises(Problem) as caught:
        parse(GOOD, content_type="text/plain")
    assert caught.value.kind == "unsupported-media-type"
    with pytest.raises(Problem) as caught:
        parse("%%%", is_base64=True)
    assert caught.value.kind == "invalid-request"
