"""Asking a SageMaker endpoint one question, with every way in which that fails mapped to a documented problem."""

import json
import math
from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools import Logger
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ReadTimeoutError
from botocore.exceptions import ConnectionError as NoConnectionError

from lambda_handler.problem import Problem

#: Seconds after which a throttled caller, and one who met a model that is not ready, may try again.
RETRY_AFTER_THROTTLED = 1
RETRY_AFTER_NOT_READY = 10
#: Far more than any answer; SageMaker's own limit is 4 MB for a serverless endpoint.
MAX_RESPONSE_BYTES = 1024 * 1024

_THROTTLED = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
#: A missing endpoint and one that is being created are both a ValidationError.
_NOT_READY = {
    "ModelNotReadyException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "InternalDependencyException",
    "InternalFailure",
    "ValidationError",
    "ValidationException",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered."""

    text: str
    model_version: str | None
    confidence: float | None


def ask(runtime: Any, *, endpoint: str, question: str, logger: Logger) -> Answer:
    """Ask ``endpoint`` and return its answer.

    The question goes as it was asked; the prompt template is the archive's own.

    Parameters
    ----------
    runtime
        boto3 client of ``sagemaker-runtime``.
    endpoint
        Name from the registry.

    Raises
    ------
    Problem
        ``throttled``, ``not-ready``, ``model-failed`` or ``model-timeout``; ``internal`` if the call itself is wrong,
        such as a missing permission.
    """
    try:
        response = runtime.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/json",
            Accept="application/json",
            Body=json.dumps({"inputs": question}, ensure_ascii=False).encode(),
        )
        body: bytes = response["Body"].read(MAX_RESPONSE_BYTES)
    except ReadTimeoutError:
        logger.warning("the endpoint took too long", extra={"endpoint": endpoint})
        raise Problem("model-timeout", "The model did not answer in time; a shorter question may help.") from None
    except ClientError as error:
        raise _problem(error, endpoint, logger) from None
    except (NoConnectionError, HTTPClientError) as error:
        logger.warning("the endpoint cannot be reached", extra={"endpoint": endpoint, "error": str(error)})
        raise _not_ready() from None
    except BotoCoreError as error:
        logger.error("the endpoint cannot be called", extra={"endpoint": endpoint, "error": str(error)})
        raise Problem("internal", "The model cannot be called; the log says why.") from None
    answer = _answer(body)
    if answer is None:
        logger.error("the endpoint's answer is not usable", extra={"endpoint": endpoint, "bytes": len(body)})
        raise Problem("model-failed", "The model's answer does not have the agreed form.")
    return answer


def _not_ready() -> Problem:
    return Problem(
        "not-ready",
        "The model is starting or is being replaced; try again.",
        {"Retry-After": str(RETRY_AFTER_NOT_READY)},
    )


def _problem(error: ClientError, endpoint: str, logger: Logger) -> Problem:
    code = str(error.response.get("Error", {}).get("Code", ""))
    logger.warning("the endpoint refused", extra={"endpoint": endpoint, "code": code, "error": str(error)})
    if code in _THROTTLED:
        return Problem("throttled", "Try again, with growing pauses.", {"Retry-After": str(RETRY_AFTER_THROTTLED)})
    if code in _NOT_READY:
        return _not_ready()
    if code == "ModelError":
        return Problem("model-failed", "The model failed on this question.")
    return Problem("internal", "The model cannot be called; the log says why.")


def _answer(body: bytes) -> Answer | None:
    """Read ``{"answers": [{"answer": str, "confidence": float}], "model_version": str}``; None where it is not that."""
    try:
        document = json.loads(body)
        first = document["answers"][0]
        text, confidence = first["answer"], first.get("confidence")
        version = document.get("model_version")
        text.encode()  # halves of surrogate pairs cannot be sent on
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(text, str):
        return None
    usable = isinstance(confidence, int | float) and not isinstance(confidence, bool) and math.isfinite(confidence)
    return Answer(
        text=text,
        model_version=version if isinstance(version, str) else None,
        confidence=float(confidence) if usable else None,
    )
