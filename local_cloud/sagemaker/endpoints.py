"""The life of endpoints: Creating, InService, Updating, Failed, and back again after a restart."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import Any

from local_cloud.sagemaker.archive import ArchiveError
from local_cloud.sagemaker.container import ContainerError
from local_cloud.sagemaker.deployment import Deployment, Settings, clear_leftovers
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.state import Record, State

log = logging.getLogger("local_cloud.sagemaker")

_MAX_FAILURE_REASON = 1024  # the service model's limit


class Endpoints:
    """Deploys, swaps, restores and deletes what endpoints run. Everything here happens on the event loop."""

    def __init__(self, state: State, settings: Settings, s3: Any) -> None:
        self._state = state
        self._settings = settings
        self._s3 = s3
        self._active: dict[str, Deployment] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def active(self, name: str) -> Deployment | None:
        """Return what answers for an endpoint, if anything does."""
        return self._active.get(name)

    # -- what the API calls ------------------------------------------------------------------------------------------

    def create(self, name: str, arn: str, plan: Record, tags: list[Record], options: Record | None) -> None:
        """Record a new endpoint as Creating and start to deploy ``plan``."""
        now = time.time()
        record = {
            "EndpointName": name,
            "EndpointArn": arn,
            "EndpointConfigName": plan["EndpointConfigName"],
            "EndpointStatus": "Creating",
            "CreationTime": now,
            "LastModifiedTime": now,
            "Tags": tags,
            "Pending": plan,
        }
        if options:
            record["LastDeploymentConfig"] = options
        self._state.put("endpoint", record)
        self._spawn(self._deploy(name))

    def update(self, name: str, plan: Record, options: Record | None) -> None:
        """Mark an endpoint that is in service as Updating and start to deploy ``plan`` beside what it runs.

        Raises
        ------
        ApiError
            If it is not in service, or would have to become serverless.
        """
        record = self._existing(name)
        status, arn = record["EndpointStatus"], record["EndpointArn"]
        if status in ("Creating", "Updating", "Deleting"):
            raise validation_error(f'Cannot update in-progress endpoint "{arn}".')
        if status != "InService":
            raise validation_error(
                f'Cannot update endpoint "{arn}" with status "{status}": delete it and create it again.'
            )
        if "ServerlessConfig" in plan["Variant"] and "ServerlessConfig" not in record["Active"]["Variant"]:
            raise validation_error(
                f'Cannot update endpoint "{arn}": an endpoint that runs on instances cannot become serverless. '
                "Create a new endpoint."
            )
        changed = {**record, "EndpointStatus": "Updating", "LastModifiedTime": time.time(), "Pending": plan}
        changed.pop("FailureReason", None)
        if options:
            changed["LastDeploymentConfig"] = options
        self._state.put("endpoint", changed)
        self._spawn(self._deploy(name))

    def delete(self, name: str) -> None:
        """Mark an endpoint as Deleting, stop what it runs and forget it.

        Raises
        ------
        ApiError
            If it is being created or updated.
        """
        record = self._existing(name)
        if record["EndpointStatus"] in ("Creating", "Updating"):
            raise validation_error(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        if record["EndpointStatus"] != "Deleting":
            self._state.put("endpoint", {**record, "EndpointStatus": "Deleting", "LastModifiedTime": time.time()})
            self._spawn(self._delete(name))

    # -- the server's life -------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Pick up where an earlier server ended: serve, go on deploying, go on deleting."""
        wanted = set()
        for record in self._state.all("endpoint"):
            for part in ("Active", "Pending"):
                if part in record:
                    wanted.add((record["EndpointName"].lower(), record[part]["Generation"]))
        await asyncio.to_thread(clear_leftovers, self._settings.state_dir, wanted)
        for record in self._state.all("endpoint"):
            name = record["EndpointName"]
            if "Active" in record:
                self._active[name] = self._deployment(name, record["Active"])
            if "Pending" in record:
                self._spawn(self._deploy(name))
            if record["EndpointStatus"] == "Deleting":
                self._spawn(self._delete(name))
        self._spawn(self._warm_up())
        if self._settings.idle_seconds > 0:
            self._spawn(self._scale_to_zero())

    async def close(self) -> None:
        """Stop every container; what endpoints are stays on disk."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*[deployment.stop() for deployment in self._active.values()])

    async def _warm_up(self) -> None:
        # One after the other, so that a restart does not load every model at once; a call does not wait for its turn.
        for name, deployment in list(self._active.items()):
            if deployment.serverless and self._settings.idle_seconds > 0:
                continue
            try:
                await deployment.running()
            except (ContainerError, ArchiveError) as error:
                log.warning("%s: its container did not come back after the restart: %s", name, error)

    async def _scale_to_zero(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._settings.idle_seconds / 4))
            for deployment in list(self._active.values()):
                await deployment.stop_if_idle(self._settings.idle_seconds)

    # -- work in the background --------------------------------------------------------------------------------------

    async def _deploy(self, name: str) -> None:
        record = self._existing(name)
        plan = record["Pending"]
        candidate = self._deployment(name, plan)
        reason = None
        try:
            await candidate.prepare()
            await candidate.running()
        except asyncio.CancelledError:
            await candidate.stop()
            raise
        except ArchiveError as error:
            reason = str(error)
        except ContainerError as error:
            reason = f"The primary container for production variant {plan['Variant']['VariantName']} {error}"
        except Exception as error:
            log.exception("%s: could not be deployed", name)
            reason = f"The embedded SageMaker failed with {type(error).__name__}: {error}"
        record = {**self._existing(name), "LastModifiedTime": time.time()}
        record.pop("Pending")
        previous = self._active.get(name)
        if reason is None:
            record |= {"EndpointStatus": "InService", "Active": plan, "EndpointConfigName": plan["EndpointConfigName"]}
        else:
            record |= {"EndpointStatus": "InService" if previous else "Failed"}
            record["FailureReason"] = reason[:_MAX_FAILURE_REASON]
            await candidate.remove()
        log.info("%s: %s%s", name, record["EndpointStatus"], f": {reason}" if reason else "")
        self._state.put("endpoint", record)
        if reason is not None:
            return
        self._active[name] = candidate
        if previous:
            await previous.remove(drain_seconds=self._settings.invocation_seconds)

    async def _delete(self, name: str) -> None:
        deployment = self._active.pop(name, None)
        if deployment:
            await deployment.remove()
        self._state.delete("endpoint", name)
        log.info("%s: deleted", name)

    def _deployment(self, name: str, facts: Record) -> Deployment:
        return Deployment(name, facts, self._settings, self._s3)

    def _existing(self, name: str) -> Record:
        record = self._state.get("endpoint", name)
        if record is None:
            raise ApiError("InternalFailure", f"endpoint {name} has gone", status=500)
        return record

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                log.error("background work failed", exc_info=error)


def new_generation() -> str:
    """Return a name for a deployment's folder that no other has."""
    return uuid.uuid4().hex[:12]
