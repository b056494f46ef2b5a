"""Following a SageMaker training job: its status, its log, and its end."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from askline.clients import aws_client
from askline.errors import TrainingError, TrainingStoppedError
from askline.progress import Progress
from askline.records import Target
from tasks.aws.errors import code_of, explained
from tasks.fine_tune.launch.events import Listener

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
_PHASES = {
    "Downloading": "downloading the input",
    "Uploading": "uploading the model",
    "Starting": "preparing the instances",
    "Pending": "waiting for capacity",
    "Interrupted": "the spot instance was taken away",
    "Stopping": "stopping",
}


def follow(name: str, *, target: Target, progress: Progress) -> dict[str, Any]:
    """Wait for the end of a training job, tell what its first process tells, and return its description.

    A person who interrupts this (Ctrl-C, SIGTERM, a flow that is cancelled) stops the job. A process that is killed
    does not: the job goes on, and is found again.

    Raises
    ------
    TrainingError
        If the job failed: with the message of the process that failed, else with SageMaker's FailureReason.
    TrainingStoppedError
        If it was stopped, by somebody else or because its time was over.
    CloudError
        If AWS refuses or cannot be reached.
    """
    client = aws_client(target, "sagemaker")
    listener = Listener(progress)
    log = _Log(name, aws_client(target, "logs"), listener)
    pause = 0.5 if target.kind == "local" else 10.0
    with _stopped_when_interrupted(name, client):
        said = ""
        while True:
            with explained(f"look at the training job {name}"):
                job: dict[str, Any] = client.describe_training_job(TrainingJobName=name)
            log.read()
            phase = job["SecondaryStatus"]
            if phase != said and phase in _PHASES:
                progress(1.0 if phase == "Uploading" else 0.0, f"{name}: {_PHASES[phase]}")
            said = phase
            if job["TrainingJobStatus"] in ENDED:
                break
            time.sleep(pause)
    log.read()
    status = job["TrainingJobStatus"]
    if status == "Stopped":
        raise TrainingStoppedError(
            f"the training job {name} was stopped ({job['SecondaryStatus']}); its checkpoints are kept. Run the same "
            "again to go on from there"
            + ("; raise --training.cluster.max-runtime-seconds" if "Exceeded" in job["SecondaryStatus"] else "")
        )
    if status == "Failed":
        reason = job.get("FailureReason", "SageMaker gives no reason")
        error = listener.failure(f"the training job {name} failed: {reason}")
        raise error if listener.errors else TrainingError(f"the training job {name} failed: {reason}")
    return job


class _Log:
    """The job's streams in CloudWatch Logs, read on from where they were."""

    def __init__(self, name: str, client: Any, listener: Listener) -> None:
        self._prefix = f"{name}/"
        self._client = client
        self._listener = listener
        self._tokens: dict[str, str] = {}

    def read(self) -> None:
        """Hear what is new. That the log cannot be read is no reason to give up a training."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for stream in self._streams():
                self._read_on(stream)
        except BotoCoreError:
            return
        except ClientError as error:
            if code_of(error) not in ("ResourceNotFoundException", "AccessDeniedException", "ThrottlingException"):
                raise

    def _streams(self) -> list[str]:
        found = self._client.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=self._prefix)
        return sorted(stream["logStreamName"] for stream in found["logStreams"])

    def _read_on(self, stream: str) -> None:
        while True:
            given = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            page = self._client.get_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **given
            )
            for event in page["events"]:
                self._listener.hear(event["message"])
            again = page["nextForwardToken"] == self._tokens.get(stream)
            self._tokens[stream] = page["nextForwardToken"]
            if again or not page["events"]:
                return


@contextlib.contextmanager
def _stopped_when_interrupted(name: str, client: Any) -> Iterator[None]:
    """Stop the job where the block is left by an interrupt, also by a SIGTERM that nobody else handles."""
    before = None
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            from botocore.exceptions import BotoCoreError, ClientError

            with contextlib.suppress(BotoCoreError, ClientError):  # it has ended meanwhile, or nothing can be done
                client.stop_training_job(TrainingJobName=name)
        raise
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
