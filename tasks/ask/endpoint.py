"""Asking an endpoint one question, of whatever kind it is, and waiting while it is cold.

::

    caller = Caller.of(endpoint, target=target)
    text = caller.ask("Where was she born?")
"""

import json
import time
import uuid
from typing import Any

from askline.clients import aws_client
from askline.errors import DeployError
from askline.progress import Progress, quiet
from askline.records import EndpointRef, Target
from tasks.aws.errors import code_of, explained, status_of

#: A cold start may take as long as SageMaker gives a container to answer its ping.
COLD_SECONDS = 180
#: An async endpoint that sleeps is woken by an alarm over two minutes, and its instance has to start.
QUEUE_SECONDS = 900
#: Answers that mean "not yet": the model is loading, or no container is free.
NOT_YET = frozenset({"ModelNotReadyException", "ServiceUnavailable", "ThrottlingException"})
RETRY_SECONDS = 1.0

_ADVICE = {
    "ModelError": "the endpoint's log in CloudWatch has the rest; an answer must come within 60 s",
    "ValidationError": "a serverless endpoint takes 4 MB, one on instances 6 MB; python -m flows.status shows its name",
}


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

    def ask(self, question: str) -> str:
        """Return what the endpoint answers, as text.

        Raises
        ------
        DeployError
            If it refuses, fails, or is not ready in time.
        """
        body = json.dumps({"inputs": question}, ensure_ascii=False).encode()
        shown = question if len(question) <= 100 else question[:100] + "…"
        return self._wait(body, shown) if self.input_folder is None else self._queue(body, shown)

    def _wait(self, body: bytes, shown: str) -> str:
        from botocore.exceptions import ClientError

        started = time.monotonic()
        while True:
            with explained(f"ask the endpoint {self.name} {shown!r}", advice=_ADVICE, error_type=DeployError):
                try:
                    answer = self.runtime.invoke_endpoint(
                        EndpointName=self.name,
                        ContentType="application/json",
                        Accept="application/json",
                        Body=body,
                        **self.model,
                    )
                    return str(answer["Body"].read().decode("utf-8"))
                except ClientError as error:
                    waited = time.monotonic() - started
                    not_yet = code_of(error) in NOT_YET or status_of(error) in (429, 503)
                    if not not_yet or waited > self.patience:
                        raise
            self.progress(0.0, f"the endpoint is cold, {waited:.0f} s")
            time.sleep(RETRY_SECONDS)

    def _queue(self, body: bytes, shown: str) -> str:
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
            text = self._read(s3, answered)
            if text is not None:
                break
            said = None if failed is None else self._read(s3, failed)
            if said is not None:
                raise DeployError(f"the endpoint {self.name} could not answer {shown!r}: {said[:500]} ({failed})")
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
        return text

    def _read(self, s3: Any, uri: str) -> str | None:
        from botocore.exceptions import ClientError

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with explained(f"look for an answer in {uri} (s3:GetObject)", error_type=DeployError):
            try:
                return str(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8"))
            except ClientError as error:
                # Without s3:ListBucket, S3 says of what is not there that it is forbidden.
                if status_of(error) in (403, 404):
                    return None
                raise
