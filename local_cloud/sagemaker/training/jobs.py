"""Training jobs: the operations on them, and their lives, which a restart of the server goes on with."""

import asyncio
import contextlib
import logging
import time
from typing import Any

from local_cloud.sagemaker.api.control import Operation
from local_cloud.sagemaker.api.listing import page_of
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State
from local_cloud.sagemaker.training import checks as training_checks
from local_cloud.sagemaker.training.runs import TrainingRun

log = logging.getLogger("local_cloud.sagemaker")

_ENDED = ("Completed", "Failed", "Stopped")
_LISTED = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "LastModifiedTime")
_PRIVATE = ("Tags",)


class TrainingJobs:
    """Answers the operations on training jobs, and runs them. Everything here happens on the event loop."""

    def __init__(self, state: State, settings: Settings, *, s3: Any, iam: Any, logs: Any) -> None:
        self._state = state
        self._settings = settings
        self._s3 = s3
        self._iam = iam
        self._logs = logs
        self._runs: dict[str, tuple[TrainingRun, asyncio.Task[None]]] = {}
        self.operations: dict[str, Operation] = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "ListTrainingJobs": self._list,
            "StopTrainingJob": self._stop,
            "DeleteTrainingJob": self._delete,
        }

    # -- the server's life -------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Go on with the jobs of an earlier server: their containers ended with it, their checkpoints are in S3."""
        for record in self._state.all("training-job"):
            name = record["TrainingJobName"]
            if record["TrainingJobStatus"] == "Stopping":
                self._moved(name, "Stopped", "Stopped", "Training job stopped")
            elif record["TrainingJobStatus"] not in _ENDED:
                self._moved(name, "InProgress", "Interrupted", "The embedded SageMaker was ended.")
                self._start(name)

    async def close(self) -> None:
        """End every container; what the jobs are stays on disk, and the next server goes on."""
        tasks = [task for _run, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def interrupt(self, name: str) -> None:
        """Take a spot job's instance away, as the service may at any time; it starts again from its checkpoints.

        Raises
        ------
        ApiError
            If there is no such job, it is no spot job, or it does not run.
        """
        record = self._get(name)
        if not record.get("EnableManagedSpotTraining"):
            raise validation_error(f"The training job {name} runs on an instance of its own, not on a spot instance.")
        if name not in self._runs or record["SecondaryStatus"] != "Training":
            raise validation_error(f"The training job {name} is not training: {record['SecondaryStatus']}.")
        self._runs[name][0].ask("interrupt")

    # -- operations --------------------------------------------------------------------------------------------------

    async def _create(self, request: Record) -> Record:
        name = request["TrainingJobName"]
        self._check_free(name)
        training_checks.request(request)
        region = self._settings.region
        await asyncio.to_thread(training_checks.places, self._iam, self._s3, request, region)
        self._check_free(name)  # again: others may have called while IAM and S3 answered
        now = time.time()
        arn = f"arn:aws:sagemaker:{region}:{self._settings.account}:training-job/{name}"
        record = {
            **request,
            "Tags": request.get("Tags", []),
            "TrainingJobArn": arn,
            "CreationTime": now,
            "LastModifiedTime": now,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "SecondaryStatusTransitions": [
                {"Status": "Starting", "StartTime": now, "StatusMessage": "Starting the training job"}
            ],
        }
        self._state.put("training-job", record)
        self._start(name)
        return {"TrainingJobArn": arn}

    async def _describe(self, request: Record) -> Record:
        record = self._get(request["TrainingJobName"])
        return {member: value for member, value in record.items() if member not in _PRIVATE}

    async def _list(self, request: Record) -> Record:
        page, more = page_of(
            self._state.all("training-job"), request, name="TrainingJobName", status="TrainingJobStatus"
        )
        shown = (*_LISTED, "TrainingJobStatus", "SecondaryStatus")
        return {
            "TrainingJobSummaries": [{name: record[name] for name in shown if name in record} for record in page],
            **more,
        }

    async def _stop(self, request: Record) -> Record:
        name = request["TrainingJobName"]
        record = self._get(name)
        status = record["TrainingJobStatus"]
        if status in _ENDED:
            raise validation_error(f"The request was rejected because the training job is in status {status}.")
        if status != "Stopping":
            self._moved(name, "Stopping", "Stopping", "Stopping the training job")
            if name in self._runs:
                self._runs[name][0].ask("stop")
        return {}

    async def _delete(self, request: Record) -> Record:
        name = request["TrainingJobName"]
        record = self._get(name)
        if record["TrainingJobStatus"] not in _ENDED:
            raise ApiError("ResourceInUse", f"The training job is in status {record['TrainingJobStatus']}: stop it.")
        self._state.delete("training-job", name)
        return {}

    # -- records -----------------------------------------------------------------------------------------------------

    def _check_free(self, name: str) -> None:
        if self._state.taken("training-job", name):
            raise ApiError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a training job with this "
                f"name already exists ({name})",
            )

    def _get(self, name: str) -> Record:
        record = self._state.get("training-job", name)
        if record is None:
            raise validation_error("Requested resource not found.")
        return record

    def _start(self, name: str) -> None:
        def moved(status: str, secondary: str, message: str, **members: Any) -> None:
            self._moved(name, status, secondary, message, **members)

        run = TrainingRun(self._get(name), self._settings, s3=self._s3, logs=self._logs, moved=moved)
        task = asyncio.get_running_loop().create_task(run.run())
        self._runs[name] = (run, task)
        task.add_done_callback(lambda done: self._finished(name, done))

    def _finished(self, name: str, task: asyncio.Task[None]) -> None:
        self._runs.pop(name, None)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                log.error("the training job %s was left alone", name, exc_info=error)

    def _moved(
        self, name: str, status: str, secondary: str, message: str, *, began: float | None = None, **members: Any
    ) -> None:
        """Keep a change of a job's status, in the history too."""
        now = time.time()
        record = self._get(name)
        if record["TrainingJobStatus"] == "Stopping" and status == "InProgress":
            status, secondary = "Stopping", "Stopping"  # it was stopped meanwhile: there is no way back
        history = [dict(entry) for entry in record["SecondaryStatusTransitions"]]
        if history[-1]["Status"] == secondary:
            history[-1]["StatusMessage"] = message
        else:
            history[-1]["EndTime"] = now
            history.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
        changed = {
            **record,
            **members,
            "TrainingJobStatus": status,
            "SecondaryStatus": secondary,
            "SecondaryStatusTransitions": history,
            "LastModifiedTime": now,
        }
        if began is not None:
            changed.setdefault("TrainingStartTime", began)
        if status in _ENDED:
            history[-1]["EndTime"] = now
            changed["TrainingEndTime"] = now
            seconds = max(0, round(now - changed.get("TrainingStartTime", now)))
            changed["TrainingTimeInSeconds"] = changed["BillableTimeInSeconds"] = seconds
            log.info("%s: %s%s", name, secondary, f": {members['FailureReason']}" if "FailureReason" in members else "")
        self._state.put("training-job", changed)
