"""Asking an endpoint, of whatever kind it is: one question or many, and waiting while it is cold.

::

    caller = Caller.of(endpoint, target=target)
    caller.ask("Where was she born?").text
    answers = caller.ask_all(questions)
"""

import json
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from askline.clients import aws_client
from askline.errors import DeployError
from askline.progress import Progress, quiet
from askline.records import EndpointRef, Target
from tasks.ask.answer import Answer, read_answers
from tasks.aws.errors import code_of, explained, status_of

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

#: A cold start may take as long as SageMaker gives a container to answer its ping.
COLD_SECONDS = 180
#: An async endpoint that sleeps is woken by an alarm over two minutes, and its instance has to start.
QUEUE_SECONDS = 900
#: Answers that mean "not yet": the model is loading, or no container is free.
NOT_YET = frozenset({"ModelNotReadyException", "ServiceUnavailable", "ThrottlingException"})
RETRY_SECONDS = 1.0
#: The longest pause before one of many questions is asked again; between two it is doubled.
LONGEST_WAIT = 8.0
#: Questions of one request; the package's contract takes up to 32, and half of that leaves room within 60 s.
BATCH = 16

_ADVICE = {
    "ModelError": "the endpoint's log in CloudWatch has the rest; an answer must come within 60 s",
    "ValidationError": "a serverless endpoint takes 4 MB, one on instances 6 MB; python -m flows.status shows its name",
}


class _TooLongError(Exception):
    """A request was too much for one call."""


class Caller:
    """One endpoint, and how it is asked.

    Parameters
    ----------
    target_model
        Of an endpoint with several models, the one that is meant.
    input_folder
        For an async endpoint, the S3 address below which requests are put.
    patience
        Seconds for which a question is asked again while the endpoint is not ready or throttles, or for which an async
        endpoint's answer is waited for; the default depends on its kind.
    """

    def __init__(
        self,
        name: str,
        *,
        target: Target,
        target_model: str | None = None,
        input_folder: str | None = None,
        patience: float | None = None,
        progress: Progress = quiet,
    ) -> None:
        self.name = name
        self.target = target
        self.model = {} if target_model is None else {"TargetModel": target_model}
        self.input_folder = input_folder
        self.patience = (COLD_SECONDS if input_folder is None else QUEUE_SECONDS) if patience is None else patience
        self.progress = progress
        # One attempt each: the waiting below is bounded, and tells how long it has been.
        once = {"mode": "standard", "max_attempts": 1}
        self.runtime = aws_client(target, "sagemaker-runtime", read_timeout=70, retries=once)

    @classmethod
    def of(
        cls, endpoint: EndpointRef, *, target: Target, patience: float | None = None, progress: Progress = quiet
    ) -> "Caller":
        """Return the caller of an endpoint that was deployed."""
        return cls(
            endpoint.name,
            target=target,
            target_model=endpoint.target_model,
            input_folder=endpoint.input_folder,
            patience=patience,
            progress=progress,
        )

    def ask(self, question: str) -> Answer:
        """Return what the endpoint answers to one question.

        Raises
        ------
        DeployError
            If it refuses, fails, is not ready in time, or does not answer as our packages do.
        """
        body = json.dumps({"inputs": question}, ensure_ascii=False).encode()
        shown = question if len(question) <= 100 else question[:100] + "…"
        if self.input_folder is None:
            reply = self._wait(body, f"ask the endpoint {self.name} {shown!r}")
        else:
            reply = self._queue(body, shown)
        return read_answers(reply, 1, who=f"the endpoint {self.name}", error_type=DeployError)[0]

    def ask_all(
        self, questions: Sequence[str], *, batch: int = BATCH, first_wait: float = RETRY_SECONDS
    ) -> list[Answer]:
        """Return the endpoint's answers, in the order of the questions, without crowding out those that it serves.

        One request at a time, so that of a serverless endpoint's concurrency all but one stays with its callers. While
        it is cold or throttles, the request is repeated, ever later. A request that takes too long, or that the
        container fails at, is halved, and so are those after it.

        Parameters
        ----------
        batch
            Questions of one request, 1 to 32.

        Raises
        ------
        DeployError
            If the endpoint refuses a single question, stays unavailable (then ``retryable``), or answers with something
            that is no answer.
        """
        answers: list[Answer] = []
        while len(answers) < len(questions):
            part = questions[len(answers) : len(answers) + batch]
            inputs = part[0] if len(part) == 1 else list(part)
            body = json.dumps({"inputs": inputs}, ensure_ascii=False).encode()
            doing = f"ask the endpoint {self.name} {len(part)} questions"
            share = len(answers) / len(questions)
            try:
                reply = self._wait(body, doing, wait=first_wait, longest=LONGEST_WAIT, many=len(part) > 1, share=share)
            except _TooLongError:
                batch = max(1, len(part) // 2)
                continue
            answers += read_answers(reply, len(part), who=f"the endpoint {self.name}", error_type=DeployError)
            done = len(answers) / len(questions)
            self.progress(done, f"{len(answers)}/{len(questions)} questions asked of {self.name}")
        return answers

    def _wait(
        self,
        body: bytes,
        doing: str,
        *,
        wait: float = RETRY_SECONDS,
        longest: float = RETRY_SECONDS,
        many: bool = False,
        share: float = 0.0,
    ) -> bytes:
        """Return the reply to one request, which is repeated while the endpoint is not ready."""
        from botocore.exceptions import ClientError, ReadTimeoutError

        started, timed_out = time.monotonic(), False
        while True:
            with explained(doing, advice=_ADVICE, error_type=DeployError):
                try:
                    answer = self.runtime.invoke_endpoint(
                        EndpointName=self.name,
                        ContentType="application/json",
                        Accept="application/json",
                        Body=body,
                        **self.model,
                    )
                    return cast(bytes, answer["Body"].read())
                except ReadTimeoutError as error:
                    if many:
                        raise _TooLongError from error
                    raise
                except ClientError as error:
                    waited = time.monotonic() - started
                    if code_of(error) == "ModelError" and many:
                        raise _TooLongError from error
                    if not _is_not_yet(error) and (timed_out or not _timed_out(error)):
                        raise
                    if waited > self.patience:
                        raise
                    timed_out = timed_out or _timed_out(error)
            self.progress(share, f"the endpoint is not ready, {waited:.0f} s")
            time.sleep(wait)
            wait = min(2 * wait, longest)

    def _queue(self, body: bytes, shown: str) -> bytes:
        bucket, _, folder = str(self.input_folder).removeprefix("s3://").partition("/")
        key = f"{folder}/{uuid.uuid4()}.json"
        s3 = aws_client(self.target, "s3")
        with explained(f"put a question to s3://{bucket}/{key} (s3:PutObject)", error_type=DeployError):
            s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
        with explained(f"ask the endpoint {self.name} {shown!r}", advice=_ADVICE, error_type=DeployError):
            asked = self.runtime.invoke_endpoint_async(
                EndpointName=self.name,
                InputLocation=f"s3://{bucket}/{key}",
                ContentType="application/json",
                Accept="application/json",
            )
        answered, failed = asked["OutputLocation"], asked.get("FailureLocation")
        started = time.monotonic()
        while True:
            reply = self._read(s3, answered)
            if reply is not None:
                break
            said = None if failed is None else self._read(s3, failed)
            if said is not None:
                told = said.decode(errors="replace")[:500]
                raise DeployError(f"the endpoint {self.name} could not answer {shown!r}: {told} ({failed})")
            waited = time.monotonic() - started
            if waited > self.patience:
                raise DeployError(
                    f"the endpoint {self.name} has put no answer to {shown!r} in {answered} after {waited:.0f} s, and "
                    "no failure either; look whether it scales (python -m flows.status), and whether its role may "
                    "write there",
                    retryable=True,
                )
            self.progress(0.0, f"the question waits in the endpoint's queue, {waited:.0f} s")
            time.sleep(RETRY_SECONDS if self.target.kind == "aws" else RETRY_SECONDS / 4)
        with explained(f"delete the question s3://{bucket}/{key} (s3:DeleteObject)", error_type=DeployError):
            s3.delete_object(Bucket=bucket, Key=key)
        return reply

    def _read(self, s3: Any, uri: str) -> bytes | None:
        from botocore.exceptions import ClientError

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with explained(f"look for an answer in {uri} (s3:GetObject)", error_type=DeployError):
            try:
                return cast(bytes, s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            except ClientError as error:
                # Without s3:ListBucket, S3 says of what is not there that it is forbidden.
                if status_of(error) in (403, 404):
                    return None
                raise


def _is_not_yet(error: "ClientError") -> bool:
    return code_of(error) in NOT_YET or status_of(error) in (429, 503)


def _timed_out(error: "ClientError") -> bool:
    """Say whether a call used up the minute that SageMaker gives it, as the first one of a container may.

    It is asked once more: a package that is too slow is so the second time as well.
    """
    return code_of(error) == "ModelError" and "invocation timed out" in str(error)
