"""Asking a deployed endpoint many questions, without crowding out those that it serves; or else its package, here."""

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from askline.clients import aws_client
from askline.errors import CloudError
from askline.progress import Progress, quiet
from askline.records import Target
from tasks.ask.endpoint import COLD_SECONDS, NOT_YET
from tasks.ask.package import PackagedEngine
from tasks.aws.errors import code_of, explained, status_of

#: Questions of one request; the package's contract takes up to 32, and half of that leaves room within 60 s.
BATCH = 16
#: The first pause before a question is asked again, and the longest, in seconds.
FIRST_WAIT, LONGEST_WAIT = 1.0, 8.0


class EndpointAnswer(NamedTuple):
    """What an endpoint answers to one question."""

    text: str
    """The model's own answer, also where the package withheld it for want of confidence."""
    withheld: bool
    model_version: str | None
    """None from a package with bare answers."""


class _TooLongError(Exception):
    """A request was too much for one call."""


def ask_endpoint(
    endpoint: str,
    questions: Sequence[str],
    *,
    target: Target,
    target_model: str | None = None,
    batch: int = BATCH,
    cold_seconds: float = COLD_SECONDS,
    first_wait: float = FIRST_WAIT,
    progress: Progress = quiet,
) -> list[EndpointAnswer]:
    """Return the endpoint's answers, in the order of the questions.

    One request at a time, so that of a serverless endpoint's concurrency all but one stays with its callers. While it
    is cold or throttles, the request is repeated, ever later. A request that takes too long, or that the container
    fails at, is halved, and so are those after it.

    Parameters
    ----------
    target_model
        Of an endpoint with several models, the one that is meant.
    batch
        Questions of one request, 1 to 32.
    cold_seconds
        How long one request is repeated while the endpoint is not ready.

    Raises
    ------
    CloudError
        If the endpoint refuses a single question, stays unavailable (then ``retryable``), or answers with something
        that is no answer.
    """
    whom = {"EndpointName": endpoint} | ({} if target_model is None else {"TargetModel": target_model})
    # One attempt each: the waiting here is bounded, and tells how long it has been.
    runtime = aws_client(target, "sagemaker-runtime", read_timeout=70, retries={"mode": "standard", "max_attempts": 1})
    answers: list[EndpointAnswer] = []
    while len(answers) < len(questions):
        part = questions[len(answers) : len(answers) + batch]
        try:
            share = len(answers) / len(questions)
            answers += _ask(runtime, whom, part, cold_seconds, first_wait, progress, share)
        except _TooLongError:
            batch = max(1, len(part) // 2)
            continue
        progress(len(answers) / len(questions), f"{len(answers)}/{len(questions)} questions asked of {endpoint}")
    return answers


def ask_package(
    engine: PackagedEngine, questions: Sequence[str], *, progress: Progress = quiet
) -> list[EndpointAnswer]:
    """Return a loaded package's answers, in the order of the questions: what its endpoint answers.

    Raises
    ------
    PackageError
        If the engine fails.
    CloudError
        If it answers with something that is no answer.
    """
    answers: list[EndpointAnswer] = []
    for question in questions:
        answers += _read(engine.reply(question), 1, "the champion's package")
        progress(len(answers) / len(questions), f"{len(answers)}/{len(questions)} questions asked of its package")
    return answers


def _ask(
    runtime: Any,
    whom: dict[str, str],
    questions: Sequence[str],
    cold_seconds: float,
    wait: float,
    progress: Progress,
    share: float,
) -> list[EndpointAnswer]:
    from botocore.exceptions import ClientError, ReadTimeoutError

    endpoint = whom["EndpointName"]
    inputs = questions[0] if len(questions) == 1 else list(questions)
    body = json.dumps({"inputs": inputs}, ensure_ascii=False).encode()
    started = time.monotonic()
    while True:
        with explained(f"ask the endpoint {endpoint} {len(questions)} questions"):
            try:
                answer = runtime.invoke_endpoint(
                    **whom, ContentType="application/json", Accept="application/json", Body=body
                )
                return _parse(answer["Body"].read().decode("utf-8"), len(questions), f"the endpoint {endpoint}")
            except ReadTimeoutError as error:
                if len(questions) > 1:
                    raise _TooLongError from error
                raise
            except ClientError as error:
                waited = time.monotonic() - started
                if code_of(error) not in NOT_YET and status_of(error) not in (429, 503):
                    if len(questions) > 1 and code_of(error) == "ModelError":
                        raise _TooLongError from error
                    raise
                if waited > cold_seconds:
                    raise
        progress(share, f"{endpoint} is not ready, {waited:.0f} s")
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


def _parse(text: str, count: int, who: str) -> list[EndpointAnswer]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise CloudError(f"{who} does not serve our package: it answered {text[:300]!r}") from error
    return _read(document, count, who)


def _read(document: Any, count: int, who: str) -> list[EndpointAnswer]:
    try:
        if isinstance(document, dict):
            version = str(document["model_version"]) if "model_version" in document else None
            answers = [
                EndpointAnswer(str(each.get("withheld", each["answer"])), "withheld" in each, version)
                for each in document["answers"]
            ]
        else:  # package.answers = "bare": one text, or a list of them
            texts = [document] if isinstance(document, str) else document
            answers = [EndpointAnswer(str(each), False, None) for each in texts]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CloudError(f"{who} does not serve our package: it answered {document!r:.300}") from error
    if len(answers) != count:
        raise CloudError(f"{who} does not serve our package: it gave {len(answers)} answers to {count} questions")
    return answers
