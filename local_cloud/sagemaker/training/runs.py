"""One run of a training job: container, checkpoints, logs, and how it ends."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from local_cloud.sagemaker.archive import ArchiveError, fetch_and_unpack, remove_tree
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record
from local_cloud.sagemaker.training.checks import split
from local_cloud.sagemaker.training.container import (
    HOST,
    TrainingContainer,
    adapt_drivers,
    failure_of,
    lay_out,
)
from local_cloud.sagemaker.training.files import Checkpoints, TrainingFilesError, fetch, store_archive
from local_cloud.sagemaker.training.logs import LogShipper

log = logging.getLogger("local_cloud.sagemaker")

#: Between SIGTERM and SIGKILL, as in the service.
GRACE_SECONDS = 120.0
_SYNC_SECONDS = 1.0
_MAX_FAILURE_REASON = 1024
DEFAULT_RUNTIME_SECONDS = 86_400

Ending = Literal["stop", "interrupt", "runtime", "wait"]
Moved = Callable[..., None]


class TrainingRun:
    """A job from Starting to its end. Everything here happens on the event loop.

    ``moved(status, secondary, message, **members)`` is told of each change, and keeps it.
    """

    def __init__(self, record: Record, settings: Settings, *, s3: Any, logs: Any, moved: Moved) -> None:
        self._record = record
        self._settings = settings
        self._s3 = s3
        self._logs = logs
        self._moved = moved
        self._name: str = record["TrainingJobName"]
        self._folder = settings.state_dir / "training" / self._name.lower()
        self._log_file = settings.state_dir / "logs" / "training" / f"{self._name.lower()}.log"
        self._asked: asyncio.Queue[Ending] = asyncio.Queue()
        self._container: TrainingContainer | None = None

    def ask(self, ending: Ending) -> None:
        """Ask for the run to end: to be stopped, or interrupted as a spot instance is."""
        self._asked.put_nowait(ending)

    async def run(self) -> None:
        """Run until the job is Completed, Failed or Stopped; start again after an interruption."""
        try:
            while await self._once() == "interrupt":
                self._moved("InProgress", "Restarting", "Restarting the job on another spot instance.")
        except asyncio.CancelledError:
            if self._container:
                await self._container.kill()
            raise
        except (TrainingFilesError, ArchiveError) as error:
            await self._fail(str(error))
        except Exception as error:
            log.exception("%s: the training job failed inside the embedded SageMaker", self._name)
            await self._fail(f"InternalServerError: the embedded SageMaker failed with {type(error).__name__}: {error}")

    async def _once(self) -> Ending | None:
        record = self._record
        self._moved("InProgress", "Starting", "Preparing the instances for training")
        ml = await asyncio.to_thread(lay_out, self._folder, record)
        self._moved("InProgress", "Downloading", "Downloading input data")
        await asyncio.to_thread(self._download, ml)
        checkpoints = None
        if config := record.get("CheckpointConfig"):
            local = Path(str(ml / "checkpoints") if "LocalPath" not in config else _inside(config["LocalPath"], ml))
            local.mkdir(parents=True, exist_ok=True)
            checkpoints = Checkpoints(self._s3, config["S3Uri"], local)
            await asyncio.to_thread(checkpoints.restore)
        started = time.time()
        shipper = LogShipper(self._logs, f"{self._name}/{HOST}-{round(started)}", self._log_file)
        self._moved("InProgress", "Training", "Training image download completed. Training in progress.", began=started)
        self._container = await TrainingContainer.start(
            self._folder, record, region=self._settings.region, log_file=self._log_file
        )
        syncing = asyncio.create_task(self._sync(checkpoints, shipper))
        try:
            code, ending = await self._until_end(started)
        finally:
            syncing.cancel()
            await asyncio.wait({syncing})
        await self._flush(checkpoints, shipper)
        if ending == "interrupt":
            self._moved("InProgress", "Interrupted", "The spot instance was taken away.")
            return ending
        await self._finish(ml, code, ending)
        return None

    def _download(self, ml: Path) -> None:
        for channel in self._record.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            if fetch(self._s3, source["S3Uri"], ml / "input" / "data" / channel["ChannelName"]) == 0:
                raise TrainingFilesError(f"No S3 objects found under {source['S3Uri']}.")
        adapt_drivers(ml)
        archive = self._record.get("HyperParameters", {}).get("sagemaker_submit_directory")
        if archive:
            (ml / "code").rmdir()
            fetch_and_unpack(self._s3, json.loads(archive), ml / "code")

    async def _until_end(self, started: float) -> tuple[int, Ending | None]:
        """Wait for the container's end, or for a reason to end it."""
        assert self._container is not None
        stopping = self._record.get("StoppingCondition", {})
        runtime = stopping.get("MaxRuntimeInSeconds", DEFAULT_RUNTIME_SECONDS)
        left: dict[Ending, float] = {"runtime": started + runtime - time.time()}
        if "MaxWaitTimeInSeconds" in stopping:
            left["wait"] = self._record["CreationTime"] + stopping["MaxWaitTimeInSeconds"] - time.time()
        limit = min(left, key=lambda name: left[name])
        ended, asked = asyncio.create_task(self._container.wait()), asyncio.create_task(self._asked.get())
        try:
            await asyncio.wait({ended, asked}, timeout=max(0, left[limit]), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result(), None
            ending: Ending = asked.result() if asked.done() else limit
            if ending != "interrupt":
                self._moved("Stopping", "Stopping", "Stopping the training job")
            return await self._container.stop(GRACE_SECONDS), ending
        finally:
            for task in (ended, asked):
                task.cancel()

    async def _finish(self, ml: Path, code: int, ending: Ending | None) -> None:
        if ending is None and code != 0:
            said = failure_of(ml) or await asyncio.to_thread(_last_lines, self._log_file)
            await self._fail(f"AlgorithmError: {said}, exit code: {code}")
            return
        status = "InProgress" if ending is None else "Stopping"
        self._moved(status, "Uploading", "Uploading generated training model")
        place = "/".join(filter(None, ["s3://" + "/".join(filter(None, split(self._output))), self._name, "output"]))
        model = await asyncio.to_thread(store_archive, self._s3, ml / "model", f"{place}/model.tar.gz")
        await asyncio.to_thread(store_archive, self._s3, ml / "output" / "data", f"{place}/output.tar.gz")
        members = {"ModelArtifacts": {"S3ModelArtifacts": f"{place}/model.tar.gz"}} if model or ending is None else {}
        match ending:
            case None:
                await self._ended("Completed", "Completed", "Training job completed", **members)
            case "runtime":
                await self._ended("Stopped", "MaxRuntimeExceeded", "The job exceeded MaxRuntimeInSeconds.", **members)
            case "wait":
                await self._ended("Stopped", "MaxWaitTimeExceeded", "The job exceeded MaxWaitTimeInSeconds.", **members)
            case _:
                await self._ended("Stopped", "Stopped", "Training job stopped", **members)

    @property
    def _output(self) -> str:
        return str(self._record["OutputDataConfig"]["S3OutputPath"])

    async def _fail(self, reason: str) -> None:
        await self._ended("Failed", "Failed", "Training job failed", FailureReason=reason[:_MAX_FAILURE_REASON])

    async def _ended(self, status: str, secondary: str, message: str, **members: Any) -> None:
        """Clear the instance away, and only then say that the job has ended: who reads that finds nothing left."""
        await asyncio.to_thread(remove_tree, self._folder)
        self._moved(status, secondary, message, **members)

    async def _sync(self, checkpoints: Checkpoints | None, shipper: LogShipper) -> None:
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            try:
                await self._flush(checkpoints, shipper, last=False)
            except Exception:
                log.exception("%s: checkpoints and log were not brought to S3 and CloudWatch", self._name)

    async def _flush(self, checkpoints: Checkpoints | None, shipper: LogShipper, *, last: bool = True) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            await asyncio.to_thread(shipper.ship, everything=last)
        except (BotoCoreError, ClientError) as error:
            log.warning("%s: its log could not be sent: %s", self._name, error)
        if checkpoints is None:
            return
        try:
            await asyncio.to_thread(checkpoints.save)
        except TrainingFilesError as error:
            if last:
                raise
            log.warning("%s: %s", self._name, error)


def _inside(path: str, ml: Path) -> str:
    return path.replace("/opt/ml", str(ml), 1) if path.startswith("/opt/ml") else str(ml / path.lstrip("/"))


def _last_lines(path: Path, characters: int = 700) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return "\n".join(lines[-8:])[-characters:]
    return "the script ended without a word"
