"""The question log: what was asked, what was answered and what people thought of it, as JSON Lines in S3.

A serverless endpoint captures no data, so the function writes its own. It is off unless ``ASKLINE_QUESTION_LOG`` names
a place (``s3://bucket/prefix``); ``ASKLINE_QUESTION_LOG_REDACT`` says what is left out of it (``none``, ``personal``,
the default, or ``text``).

One object is written for each call of the function, before it answers: Lambda freezes the process between two calls
and ends it without a word, so anything kept for later could be lost. Keys hold no user text and are never written
twice::

    <prefix>/asked/mlkey=<MLKey>/date=<YYYY-MM-DD>/<HHMMSS>-<random>.jsonl
    <prefix>/feedback/mlkey=<MLKey>/date=<YYYY-MM-DD>/<HHMMSS>-<random>.jsonl
"""

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from aws_lambda_powertools import Logger
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError

from lambda_handler.feedback import Feedback
from lambda_handler.problem import Problem

Redaction = Literal["none", "personal", "text"]
CHOICES: Final[tuple[Redaction, ...]] = ("none", "personal", "text")

#: Message of the log line that stands for one question that was answered but not logged; a metric filter counts it.
LOST: Final = "question not logged"
#: Seconds without a further try after S3 did not take a question, so that a broken log slows one answer, not each.
REST_SECONDS: Final = 30.0
#: Of a longer text only the beginning is kept. No trained answer comes near it.
MAX_CHARACTERS: Final = 10_000
#: Seconds after which someone whose feedback was not stored may try again.
RETRY_AFTER_SECONDS: Final = 5

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([!-~]*))?")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and its answer."""

    request_id: str
    mlkey: str
    question: str
    answer: str
    confidence: float | None
    abstained: bool
    model_version: str | None
    seconds: float
    withheld: str | None = None
    """What the model would have said, where it abstained: not for callers, but for whoever labels the question."""
    answer_id: str | None = None
    """Which known answer was given; None where it declined, or wrote freely."""
    matched_question: str | None = None
    """The known question that this one was taken for."""


class QuestionLog(Protocol):
    """Where questions and feedback go."""

    @property
    def enabled(self) -> bool:
        """Whether anything is written."""

    def asked_together(self, batch: Iterable[Asked]) -> None:
        """Write the questions of one call, all of one MLKey, down in one object. Never raises."""

    def feedback(self, feedback: Feedback) -> None:
        """Write a verdict down.

        Raises
        ------
        Problem
            ``not-ready`` if it could not be written; ``unknown-path`` if the log is off.
        """


def from_environment(
    make_s3: Callable[[], Any], environ: Mapping[str, str] = os.environ, *, logger: Logger
) -> QuestionLog:
    """Return the log that the environment asks for.

    A place that is none turns the log off, a redaction that is none means the strictest one; both are errors in the
    function's log. Neither stops the API from answering.

    Parameters
    ----------
    make_s3
        Makes the boto3 client of ``s3``; called once, now, and only if the log is on: the first question should not
        wait for it. The client should make one attempt with short time-outs: they are what an answer waits for S3.
    """
    location = environ.get("ASKLINE_QUESTION_LOG", "").strip()
    if not location:
        return _Off()
    found = _LOCATION.fullmatch(location)
    if found is None:
        logger.error("ASKLINE_QUESTION_LOG is no s3://bucket/prefix; nothing is logged", extra={"value": location})
        return _Off()
    wanted = environ.get("ASKLINE_QUESTION_LOG_REDACT", "").strip() or "personal"
    redaction = next((choice for choice in CHOICES if choice == wanted), None)
    if redaction is None:
        logger.error(
            f"ASKLINE_QUESTION_LOG_REDACT is not one of {', '.join(CHOICES)}; no text is logged",
            extra={"value": wanted},
        )
        redaction = "text"
    s3 = make_s3()
    _send_at_once(s3)
    return S3QuestionLog(s3, bucket=found[1], prefix=(found[2] or "").strip("/"), redaction=redaction, logger=logger)


def _send_at_once(s3: Any) -> None:
    """Keep boto3 from asking S3 first whether it may send: a round trip more, for a few hundred bytes."""
    if meta := getattr(s3, "meta", None):
        meta.events.register("before-sign.s3.PutObject", _unexpect)


def _unexpect(request: Any, **_: Any) -> None:
    del request.headers["Expect"]


class _Off:
    """The log that is not kept."""

    enabled = False

    def asked_together(self, batch: Iterable[Asked]) -> None:
        """Forget them."""

    def feedback(self, feedback: Feedback) -> None:
        """Refuse: nobody would read it."""
        raise Problem("unknown-path", "This API does not collect feedback.")


class S3QuestionLog:
    """The log in S3.

    Parameters
    ----------
    s3
        boto3 client of ``s3``, or anything with its ``put_object``.
    bucket, prefix
        Where the objects go.
    redaction
        What is left out.
    """

    enabled = True

    def __init__(
        self,
        s3: Any,
        *,
        bucket: str,
        prefix: str,
        redaction: Redaction,
        logger: Logger,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._redaction = redaction
        self._redact = _nothing_replaced
        if redaction == "personal":
            # Its patterns take a while to compile, which a function that keeps no questions should not wait for.
            from lambda_handler.redaction import redact

            self._redact = redact
        self._logger = logger
        self._now = now
        self._clock = clock
        self._rests_until = float("-inf")

    def asked_together(self, batch: Iterable[Asked]) -> None:
        """Write the questions of one call down, in one object.

        Never raises; what is lost is a line :data:`LOST` in the function's log.
        """
        together: list[Asked] = []
        try:
            together.extend(batch)
            if not together:
                return
            if self._clock() < self._rests_until:
                self._lose(together, "S3 failed a moment ago")
                return
            self._put(
                "asked", together[0].mlkey, [self._question(index, asked) for index, asked in enumerate(together)]
            )
        except Exception as error:  # noqa: BLE001 - an answer is worth more than its log
            self._rests_until = self._clock() + REST_SECONDS
            self._lose(together, _reason(error))

    def feedback(self, feedback: Feedback) -> None:
        """Write a verdict down.

        Raises
        ------
        Problem
            ``not-ready`` if S3 did not take it.
        """
        try:
            self._put("feedback", feedback.mlkey, [self._verdict(feedback)])
        except (BotoCoreError, ClientError, OSError) as error:
            self._logger.error(
                "feedback not stored", extra={"answer_request_id": feedback.request_id, "reason": _reason(error)}
            )
            raise Problem(
                "not-ready",
                "Your feedback could not be stored; try again.",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            ) from None

    def _put(self, kind: str, mlkey: str, records: list[dict[str, object]]) -> None:
        now = self._now()
        name = f"{now:%H%M%S}-{uuid.uuid4().hex}.jsonl"
        key = "/".join(filter(None, [self._prefix, kind, f"mlkey={mlkey}", f"date={now:%Y-%m-%d}", name]))
        at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines = (json.dumps({"at": at, **record}, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        request = {
            "Bucket": self._bucket,
            "Key": key,
            "Body": "".join(lines).encode("utf-8", "replace"),
            "ContentType": "application/x-ndjson",
        }
        try:
            self._s3.put_object(**request)
        except ConnectionClosedError:
            # The kept connection died while Lambda slept; that shows at once, and a new one is opened.
            self._s3.put_object(**request)

    def _question(self, index: int, asked: Asked) -> dict[str, object]:
        texts, replaced = self._texts(question=asked.question, answer=asked.answer)
        # Its replacements do not count: whoever trains on question and answer need not mind them.
        withheld, _ = self._texts(withheld=asked.withheld)
        known: dict[str, object] = {}
        if asked.answer_id is not None:
            known["answer_id"] = asked.answer_id
        if asked.matched_question is not None:
            known["matched_question"] = self._texts(matched=asked.matched_question)[0]["matched"]
        return {
            "request_id": asked.request_id,
            "index": index,
            "mlkey": asked.mlkey,
            "model_version": asked.model_version,
            **texts,
            **withheld,
            **known,
            "confidence": asked.confidence,
            "abstained": asked.abstained,
            "seconds": round(asked.seconds, 4),
            "redaction": self._redaction,
            "replaced": replaced,
        }

    def _verdict(self, feedback: Feedback) -> dict[str, object]:
        texts, replaced = self._texts(answer=feedback.answer, comment=feedback.comment)
        return {
            "request_id": feedback.request_id,
            "index": feedback.index,
            "mlkey": feedback.mlkey,
            "verdict": feedback.verdict,
            **texts,
            "redaction": self._redaction,
            "replaced": replaced,
        }

    def _texts(self, **texts: str | None) -> tuple[dict[str, object], int]:
        """Return each text, as much of it as may be kept, with its length; and how many places were replaced."""
        kept: dict[str, object] = {}
        replaced = 0
        for name, text in texts.items():
            kept[f"{name}_characters"] = None if text is None else len(text)
            if text is None or self._redaction == "text":
                kept[name] = None
            else:
                kept[name], found = self._redact(text[:MAX_CHARACTERS])
                replaced += found
        return kept, replaced

    def _lose(self, together: list[Asked], reason: str) -> None:
        for asked in together:
            self._logger.warning(LOST, extra={"answer_request_id": asked.request_id, "reason": reason})


def _nothing_replaced(text: str) -> tuple[str, int]:
    return text, 0


def _reason(error: Exception) -> str:
    """Name an error without its message, which may quote what was written."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code") or "ClientError")
    return type(error).__name__
