"""The life of endpoints: Creating, InService, Updating, Failed, and back again after a restart."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import Any

from local_cloud.sagemaker.alarms import Alarms
from local_cloud.sagemaker.archive import ArchiveError
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.serving.container import ContainerError
from local_cloud.sagemaker.serving.deployment import Deployment, clear_leftovers, instance_count
from local_cloud.sagemaker.serving.multimodel import deployment as new_deployment
from local_cloud.sagemaker.serving.shifting import shift
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State

log = logging.getLogger("local_cloud.sagemaker")

_MAX_FAILURE_REASON = 1024  # the service model's limit
_HEAL_SECONDS = 1.0
_BUSY = ("Creating", "Updating", "RollingBack", "Deleting")


class Endpoints:
    """Deploys, swaps, restores and deletes what endpoints run. Everything here happens on the event loop."""

    def __init__(self, state: State, settings: Settings, s3: Any, alarms: Alarms) -> None:
        self._state = state
        self._settings = settings
        self._s3 = s3
        self._alarms = alarms
        self._active: dict[str, Deployment] = {}
        self._moving: dict[str, tuple[Deployment, float]] = {}
        """Where traffic is being moved: the new deployment and its share."""
        self._turns: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def active(self, name: str) -> Deployment | None:
        """Return what answers for an endpoint, if anything does."""
        return self._active.get(name)

    def route(self, name: str) -> Deployment | None:
        """Return what is to answer the next call; while traffic moves, old and new take turns by their shares."""
        moving = self._moving.get(name)
        if moving is None:
            return self._active.get(name)
        candidate, share = moving
        turn = self._turns[name] = self._turns.get(name, 0) + 1
        # The new one gets each call with which its share of all calls so far becomes a whole number more.
        return candidate if int(turn * share) > int((turn - 1) * share) else self._active.get(name)

    def deployments(self) -> dict[str, Deployment]:
        """Return what answers, by endpoint."""
        return dict(self._active)

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
        if status in _BUSY:
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

    def resize(self, name: str, facts: Record) -> None:
        """Mark an endpoint as Updating and give it another number of instances, or other serverless limits.

        Parameters
        ----------
        facts
            The deployment's record as it shall become.

        Raises
        ------
        ApiError
            If the endpoint is not in service.
        """
        record = self._existing(name)
        if record["EndpointStatus"] != "InService":
            raise validation_error(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        changed = {**record, "EndpointStatus": "Updating", "LastModifiedTime": time.time(), "Resized": facts}
        changed.pop("FailureReason", None)
        self._state.put("endpoint", changed)
        self._spawn(self._resize(name))

    def delete(self, name: str) -> None:
        """Mark an endpoint as Deleting, stop what it runs and forget it.

        Raises
        ------
        ApiError
            If it is being created or updated.
        """
        record = self._existing(name)
        if record["EndpointStatus"] in ("Creating", "Updating", "RollingBack"):
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
            if record["EndpointStatus"] == "RollingBack":
                candidate = self._deployment(name, record["Pending"])
                self._spawn(self._undo_deployment(name, candidate, record["FailureReason"]))
            elif "Pending" in record:
                self._spawn(self._deploy(name))
            if "Resized" in record:
                self._spawn(self._resize(name))
            if record["EndpointStatus"] == "Deleting":
                self._spawn(self._delete(name))
        self._spawn(self._warm_up())
        self._spawn(self._heal())
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
            provisioned = (deployment.serverless or {}).get("ProvisionedConcurrency")
            if deployment.serverless and self._settings.idle_seconds > 0 and not provisioned:
                continue
            try:
                await deployment.start()
            except (ContainerError, ArchiveError) as error:
                log.warning("%s: its container did not come back after the restart: %s", name, error)

    async def _heal(self) -> None:
        while True:
            await asyncio.sleep(_HEAL_SECONDS)
            for deployment in list(self._active.values()):
                deployment.heal()

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
            await candidate.start()
            if name in self._active:
                reason = await self._shift(name, candidate)
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
        self._moving.pop(name, None)
        if reason is None:
            await self._finish_deployment(name, candidate)
        else:
            await self._undo_deployment(name, candidate, reason)

    async def _shift(self, name: str, candidate: Deployment) -> str | None:
        def move(share: float) -> None:
            self._moving[name] = candidate, share
            log.info("%s: %.0f %% of the calls go to the new configuration", name, 100 * share)

        config = candidate.facts.get("DeploymentConfig", {})
        reason = await shift(config, candidate.instances, move, self._alarms, self._settings)
        return f"{reason} The endpoint went back to its previous configuration." if reason else None

    async def _finish_deployment(self, name: str, candidate: Deployment) -> None:
        record = {**self._existing(name), "LastModifiedTime": time.time(), "EndpointStatus": "InService"}
        record["Active"] = record.pop("Pending")
        record["EndpointConfigName"] = record["Active"]["EndpointConfigName"]
        log.info("%s: InService", name)
        self._state.put("endpoint", record)
        previous, self._active[name] = self._active.get(name), candidate
        if previous:
            blue_green = candidate.facts.get("DeploymentConfig", {}).get("BlueGreenUpdatePolicy", {})
            await asyncio.sleep(self._settings.waiting(blue_green.get("TerminationWaitInSeconds", 0)))
            await previous.remove(previous.drain_seconds)

    async def _undo_deployment(self, name: str, candidate: Deployment, reason: str) -> None:
        previous = self._active.get(name)
        log.info("%s: %s: %s", name, "goes back" if previous else "Failed", reason)
        if previous:
            rolling_back = {"EndpointStatus": "RollingBack", "FailureReason": reason[:_MAX_FAILURE_REASON]}
            self._state.put("endpoint", {**self._existing(name), **rolling_back})
        await candidate.remove(candidate.drain_seconds)
        record = {**self._existing(name), "LastModifiedTime": time.time()}
        record.pop("Pending")
        record |= {"EndpointStatus": "InService" if previous else "Failed"}
        record["FailureReason"] = reason[:_MAX_FAILURE_REASON]
        self._state.put("endpoint", record)

    async def _resize(self, name: str) -> None:
        facts = self._existing(name)["Resized"]
        deployment, reason = self._active[name], None
        try:
            await deployment.resize(instance_count(facts))
        except (ContainerError, ArchiveError) as error:
            reason = f"The number of instances could not be changed: {error}"
            log.warning("%s: %s", name, reason)
        record = {**self._existing(name), "LastModifiedTime": time.time(), "EndpointStatus": "InService"}
        record.pop("Resized")
        if reason is None:
            record["Active"] = deployment.facts = facts
        else:
            record["FailureReason"] = reason[:_MAX_FAILURE_REASON]
        log.info("%s: has %d instances", name, deployment.instances)
        self._state.put("endpoint", record)

    async def _delete(self, name: str) -> None:
        deployment = self._active.pop(name, None)
        if deployment:
            await deployment.remove()
        self._state.delete("endpoint", name)
        log.info("%s: deleted", name)

    def _deployment(self, name: str, facts: Record) -> Deployment:
        return new_deployment(name, facts, self._settings, self._s3)

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
