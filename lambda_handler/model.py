"""Asking a SageMaker endpoint, with every way in which that fails mapped to a documented problem.

An endpoint that is scaling from zero is met with a bounded wait; see :mod:`lambda_handler.waiting`.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aws_lambda_powertools import Logger
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ReadTimeoutError
from botocore.exceptions import ConnectionError as NoConnectionError

from lambda_handler.problem import Problem
from lambda_handler.waiting import Patience

#: Seconds after which a throttled caller, and one who met a model that is not ready, may try again.
RETRY_AFTER_THROTTLED = 1
RETRY_AFTER_NOT_READY = 10
#: SageMaker's own limit for a serverless endpoint; sixteen long answers, each with three others, stay below it.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024

_THROTTLED = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
#: The endpoint is there and its container is starting: worth waiting for.
_STARTING = {"ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException"}
#: SageMaker failed before the model saw the question: worth another try.
_STUMBLED = {"InternalDependencyException", "InternalFailure"}
#: A missing endpoint and one that is being created are both a ValidationError, and both last for minutes.
_ABSENT = {"ValidationError", "ValidationException"}


class Runtimes(Protocol):
    """The clients of ``sagemaker-runtime``, by how long a call of theirs may take."""

    @property
    def shortest_seconds(self) -> float:
        """The least that any of them may take."""

    def within(self, seconds: float) -> Any:
        """Return the most patient client whose call ends within ``seconds``, or the least patient one."""


class FixedRuntimes:
    """Clients made when they are needed, with these read time-outs.

    botocore sets a client's time-out when it is made, so a second try, with less time left, needs another client.

    Parameters
    ----------
    make
        Makes a client from its read time-out in seconds.
    model_seconds
        The first and longest time-out; its client is made at once.
    connect_seconds
        What connecting may take on top.
    """

    def __init__(self, make: Callable[[float], Any], *, model_seconds: float, connect_seconds: float) -> None:
        self._make = make
        self._connect_seconds = connect_seconds
        self._steps = [model_seconds, *(step for step in (16.0, 8.0, 4.0) if step < model_seconds)]
        self._clients = {model_seconds: make(model_seconds)}
        self.shortest_seconds = self._steps[-1] + connect_seconds

    def within(self, seconds: float) -> Any:
        """Return the most patient client whose call ends within ``seconds``, or the least patient one."""
        fitting = (step for step in self._steps if step + self._connect_seconds <= seconds)
        step = next(fitting, self._steps[-1])
        if step not in self._clients:
            self._clients[step] = self._make(step)
        return self._clients[step]


@dataclass(frozen=True, slots=True)
class Known:
    """Which of the known answers was given, and which others may be meant."""

    answer_id: str | None
    """None where it declined."""
    alternatives: tuple[dict[str, object], ...]
    """Each with ``answer``, ``answer_id`` and ``confidence``."""
    matched_question: str | None
    """The known question that this one was taken for."""
    columns: dict[str, str]
    """What else the data says with the answer, such as a link."""
    finish_reason: str

    def members(self) -> dict[str, object]:
        """Return it as callers get it."""
        return {
            "answer_id": self.answer_id,
            "alternatives": list(self.alternatives),
            "matched_question": self.matched_question,
            "columns": self.columns,
            "finish_reason": self.finish_reason,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered to one question."""

    text: str
    confidence: float | None
    abstained: bool | None
    """Whether the package put its "I don't know" in place of an answer of too little confidence; None if it does not
    say."""
    withheld: str | None = None
    """What it would have said instead, where the package tells: for the question log, never for callers."""
    known: "Known | None" = None
    """Which known answer it is, where the package says nothing else."""

    def members(self) -> dict[str, object]:
        """Return it as callers get it, without what the package does not give."""
        members: dict[str, object] = {"answer": self.text}
        if self.confidence is not None:
            members["confidence"] = self.confidence
        if self.abstained is not None:
            members["abstained"] = self.abstained
        return members if self.known is None else members | self.known.members()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered to one call: an answer for each question, in their order."""

    answers: tuple[Answer, ...]
    model_version: str | None


def ask(
    runtimes: Runtimes,
    *,
    endpoint: str,
    questions: Sequence[str],
    patience: Patience,
    logger: Logger,
    target_model: str | None = None,
) -> Reply:
    """Ask ``endpoint`` in one call, again while it is starting and there is time, and return its answers.

    The questions go as they were asked; the prompt template is the archive's own.

    Parameters
    ----------
    endpoint
        Name from the registry.
    target_model
        Which of its models, where it has several; from the registry too.

    Raises
    ------
    Problem
        ``throttled``, ``not-ready``, ``model-failed`` or ``model-timeout``; ``internal`` if the call itself is wrong,
        such as a missing permission.
    """
    payload = json.dumps({"inputs": questions[0] if len(questions) == 1 else list(questions)}, ensure_ascii=False)
    while True:
        try:
            body = _invoke(runtimes.within(patience.left()), endpoint, payload.encode(), target_model)
            break
        except ReadTimeoutError:
            logger.warning("the endpoint took too long", extra={"endpoint": endpoint})
            raise Problem("model-timeout", "The model did not answer in time; a shorter question may help.") from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            logger.warning("the endpoint refused", extra={"endpoint": endpoint, "code": code, "error": str(error)})
            if code not in _STARTING | _STUMBLED:
                raise _problem(code) from None
            brief = code in _STUMBLED
        except (NoConnectionError, HTTPClientError) as error:
            logger.warning("the endpoint cannot be reached", extra={"endpoint": endpoint, "error": str(error)})
            brief = True
        except BotoCoreError as error:
            logger.error("the endpoint cannot be called", extra={"endpoint": endpoint, "error": str(error)})
            raise Problem("internal", "The model cannot be called; the log says why.") from None
        if not patience.pause(brief=brief, call_seconds=runtimes.shortest_seconds):
            raise _not_ready()
    reply = _reply(body, len(questions))
    if reply is None:
        logger.error("the endpoint's answer is not usable", extra={"endpoint": endpoint, "bytes": len(body)})
        raise Problem("model-failed", "The model's answer does not have the agreed form.")
    return reply


def _invoke(runtime: Any, endpoint: str, payload: bytes, target_model: str | None) -> bytes:
    whom = {"EndpointName": endpoint} | ({} if target_model is None else {"TargetModel": target_model})
    response = runtime.invoke_endpoint(**whom, ContentType="application/json", Accept="application/json", Body=payload)
    body: bytes = response["Body"].read(MAX_RESPONSE_BYTES)
    return body


def _not_ready() -> Problem:
    return Problem(
        "not-ready",
        "The model is starting or is being replaced; try again.",
        {"Retry-After": str(RETRY_AFTER_NOT_READY)},
    )


def _problem(code: str) -> Problem:
    if code in _THROTTLED:
        return Problem("throttled", "Try again, with growing pauses.", {"Retry-After": str(RETRY_AFTER_THROTTLED)})
    if code in _ABSENT:
        return _not_ready()
    if code == "ModelError":
        return Problem("model-failed", "The model failed on this question.")
    return Problem("internal", "The model cannot be called; the log says why.")


def _reply(body: bytes, count: int) -> Reply | None:
    """Read the package's JSON with ``count`` answers; None where it is not that.

    ``{"answers": [{"answer": str, "confidence": float, "abstained": bool, "withheld": str}], "model_version": str}``;
    only ``answer`` must be there. A package with bare answers gives one string, or a list of strings.
    """
    try:
        document = json.loads(body)
        if isinstance(document, dict):
            answers, version = tuple(map(_answer, document["answers"][:count])), document.get("model_version")
        else:
            bare = [document] if isinstance(document, str) else document
            answers, version = tuple(Answer(_text(text), None, None) for text in bare[:count]), None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return Reply(answers, version if isinstance(version, str) else None) if len(answers) == count else None


def _answer(item: dict[str, Any]) -> Answer:
    confidence, abstained, withheld = (item.get(name) for name in ("confidence", "abstained", "withheld"))
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not math.isfinite(confidence):
        confidence = None
    return Answer(
        text=_text(item["answer"]),
        confidence=None if confidence is None else float(confidence),
        abstained=abstained if isinstance(abstained, bool) else None,
        withheld=withheld if isinstance(withheld, str) else None,
        known=_known(item) if "answer_id" in item else None,
    )


def _known(item: dict[str, Any]) -> Known:
    """Read what comes with a known answer.

    Raises
    ------
    TypeError, KeyError, AttributeError
        If it is not of the agreed form.
    """
    return Known(
        answer_id=_text_or_none(item["answer_id"]),
        alternatives=tuple(
            {
                "answer": _text(each["answer"]),
                "answer_id": _text(each["answer_id"]),
                "confidence": float(each["confidence"]),
            }
            for each in item["alternatives"]
        ),
        matched_question=_text_or_none(item["matched_question"]),
        columns={_text(name): _text(value) for name, value in item["columns"].items()},
        finish_reason=_text(item["finish_reason"]),
    )


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("an answer is a string")
    value.encode()  # halves of surrogate pairs cannot be sent on
    return value
