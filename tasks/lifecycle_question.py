"""One question to an endpoint that was just changed, to see whether it answers as the version that was meant."""

import json
import time

from askline.clients import aws_client
from askline.errors import DeployError
from askline.progress import Progress, quiet
from askline.records import Record, Target
from tasks.aws.errors import code_of, explained, status_of
from tasks.packaging.held_out import same_answer
from tasks.smoke_invoke import COLD_SECONDS, NOT_YET, RETRY_SECONDS


class Asked(Record):
    """A question and what came back."""

    question: str
    answer: str
    expected: str | None
    """What was known to be this version's answer, where anything was."""
    seconds: float


def ask_endpoint(
    endpoint: str,
    question: str,
    *,
    expected: str | None = None,
    model_version: str,
    target: Target,
    cold_seconds: float | None = None,
    progress: Progress = quiet,
) -> Asked:
    """Ask until the endpoint is warm, and check the answer.

    Parameters
    ----------
    expected
        The answer that this version gave before.
    model_version
        What the container must say that it is; a bare answer says nothing of it.
    cold_seconds
        How long to go on while the endpoint is not ready or throttles; default as the pipeline's smoke test.

    Raises
    ------
    DeployError
        If it does not answer, answers otherwise than before, or is another version.
    """
    from botocore.exceptions import ClientError

    runtime = aws_client(target, "sagemaker-runtime", read_timeout=70, retries={"mode": "standard", "max_attempts": 1})
    body = json.dumps({"inputs": question}, ensure_ascii=False).encode()
    patience = COLD_SECONDS if cold_seconds is None else cold_seconds
    started = time.monotonic()
    while True:
        with explained(f"ask the endpoint {endpoint} {question!r}", error_type=DeployError):
            try:
                reply = runtime.invoke_endpoint(
                    EndpointName=endpoint, ContentType="application/json", Accept="application/json", Body=body
                )
                text = reply["Body"].read().decode("utf-8")
                break
            except ClientError as error:
                not_yet = code_of(error) in NOT_YET or status_of(error) in (429, 503)
                if not not_yet or time.monotonic() - started > patience:
                    raise
        progress(0.0, "the endpoint is cold")
        time.sleep(RETRY_SECONDS)
    answer, version = _read(text, endpoint, question)
    if version is not None and version != model_version:
        raise DeployError(f"the endpoint {endpoint} answers as version {version}, not {model_version}")
    if expected is not None and not same_answer(answer, expected):
        raise DeployError(f"the endpoint {endpoint} answered {answer!r} to {question!r}, and {expected!r} before")
    return Asked(question=question, answer=answer, expected=expected, seconds=time.monotonic() - started)


def _read(text: str, endpoint: str, question: str) -> tuple[str, str | None]:
    """Return the answer and the version that the container says it is."""
    try:
        document = json.loads(text)
        if isinstance(document, str):  # package.answers = "bare"
            return document, None
        return str(document["answers"][0]["answer"]), document.get("model_version")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DeployError(
            f"the endpoint {endpoint} gave no answer to {question!r}, but {text[:300]!r}; it does not serve our package"
        ) from error
