"""One deployment: a model and a production variant, unpacked on disk, with its instances."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.archive import MAX_BYTES, fetch_and_unpack, remove_tree
from local_cloud.sagemaker.instances import DEFAULT_VOLUME_GB, instance_type
from local_cloud.sagemaker.serving.container import ContainerSpec, end_leftover
from local_cloud.sagemaker.serving.worker import Worker
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record

log = logging.getLogger("local_cloud.sagemaker")

_LONGEST_ASYNC_SECONDS = 3600.0  # the service model's limit of InvocationTimeoutSeconds


class NoCapacityError(Exception):
    """The endpoint has no instance at the moment."""


class Deployment:
    """A generation of an endpoint: what it was deployed from, and its instances.

    ``facts`` is its record: ``Generation``, ``EndpointConfigName``, ``Variant``, ``Container`` (the model's container
    definition), ``StartTime``, ``InstanceCount``, and ``AsyncInferenceConfig`` and ``DataCaptureConfig`` where the
    configuration has them. All methods run on the event loop.
    """

    def __init__(self, endpoint: str, facts: Record, settings: Settings, s3: Any) -> None:
        self.facts = facts
        self.in_flight = 0
        self.most_in_flight = 0
        """Calls at once at most, since it was last asked for the figure by the metrics."""
        self._endpoint = endpoint
        self._settings = settings
        self._s3 = s3
        self._folder = settings.state_dir / "containers" / endpoint.lower() / facts["Generation"]
        self._preparing = asyncio.Lock()
        self._workers: list[Worker] = []
        self._made = 0
        for _ in range(instance_count(facts)):
            self._workers.append(self._worker())

    @property
    def variant(self) -> str:
        """The production variant's name."""
        return str(self.facts["Variant"]["VariantName"])

    @property
    def serverless(self) -> Record | None:
        """The serverless configuration, or None for instances."""
        serverless: Record | None = self.facts["Variant"].get("ServerlessConfig")
        return serverless

    @property
    def asynchronous(self) -> Record | None:
        """The AsyncInferenceConfig, or None for an endpoint that answers at once."""
        asynchronous: Record | None = self.facts.get("AsyncInferenceConfig")
        return asynchronous

    @property
    def instances(self) -> int:
        """How many instances there are now, started or starting."""
        return len(self._workers)

    async def prepare(self) -> None:
        """Fetch and unpack the archive, unless it is there. Raises ArchiveError."""
        model = self._folder / "model"
        async with self._preparing:
            if not model.is_dir():
                url = self.facts["Container"]["ModelDataUrl"]
                await asyncio.to_thread(fetch_and_unpack, self._s3, url, model, disk_bytes(self.facts))

    async def start(self) -> None:
        """Start every instance.

        Raises
        ------
        ContainerError, ArchiveError
            If one of them cannot be started; the others go on until :meth:`remove` or :meth:`stop`.
        """
        await self.prepare()
        await asyncio.gather(*[worker.running() for worker in self._workers])

    def heal(self) -> None:
        """Bring back instances whose container has died. Serverless containers come back with the next call."""
        if not self.serverless:
            for worker in self._workers:
                worker.heal()

    async def worker(self, target_model: str | None = None) -> Worker:
        """Return the instance for a call: one that is up, with the fewest calls in flight, then the least used one.

        Raises
        ------
        NoCapacityError
            If there are no instances.
        """
        assert target_model is None
        if not self._workers:
            raise NoCapacityError(f"Endpoint {self._endpoint} has no instances at the moment.")
        return min(self._workers, key=lambda worker: (not worker.ready, worker.in_flight, worker.taken))

    async def resize(self, count: int) -> None:
        """Have ``count`` instances: start more, or let the newest ones finish their calls and stop them.

        Raises
        ------
        ContainerError, ArchiveError
            If a new one cannot be started; there are then as many as before.
        """
        before = len(self._workers)
        if count > before:
            fresh = [self._worker() for _ in range(count - before)]
            try:
                await self.prepare()
                await asyncio.gather(*[worker.running() for worker in fresh])
            except BaseException:
                await asyncio.gather(*[worker.remove() for worker in fresh])
                raise
            self._workers += fresh
        else:
            going, self._workers = self._workers[count:], self._workers[:count]
            await asyncio.gather(*[worker.remove(self.drain_seconds) for worker in going])

    @property
    def drain_seconds(self) -> float:
        """How long a call can take at most, in seconds."""
        return self._settings.invocation_seconds if not self.asynchronous else _LONGEST_ASYNC_SECONDS

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Count a call while it is in flight."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1

    async def stop_if_idle(self, seconds: float) -> None:
        """Scale to zero: stop serverless containers, but for the provisioned ones, that nobody has called so long."""
        if self.serverless:
            for worker in self._workers[self.serverless.get("ProvisionedConcurrency", 0) :]:
                if await worker.stop_if_idle(seconds):
                    log.info("%s: no call for %g seconds, scaled to zero", self._endpoint, seconds)

    async def stop(self) -> None:
        """Stop the containers, also while they start."""
        await asyncio.gather(*[worker.stop() for worker in self._workers])

    async def remove(self, drain_seconds: float = 0.0) -> None:
        """Let calls in flight end, stop the containers and delete the files."""
        deadline = time.monotonic() + drain_seconds
        try:
            while self.in_flight and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        finally:  # also when the server is being stopped meanwhile
            await asyncio.gather(*[worker.remove() for worker in self._workers])
        await asyncio.to_thread(remove_tree, self._folder)
        with contextlib.suppress(OSError):
            self._folder.parent.rmdir()  # the endpoint's folder, unless another generation lives there

    def _worker(self) -> Worker:
        self._made += 1
        return self._worker_of(self._folder / "model", self._folder / f"instance-{self._made}", self.prepare)

    def _worker_of(self, model: Path, folder: Path, prepare: Any) -> Worker:
        variant, serverless = self.facts["Variant"], self.serverless
        if serverless:
            memory_mb, memory_of = serverless["MemorySizeInMB"], "MemorySizeInMB"
        else:
            memory_of = variant["InstanceType"]
            memory_mb = instance_type(memory_of).memory_mb
        spec = ContainerSpec(
            folder=folder,
            model=model,
            log_file=self._settings.state_dir / "logs" / f"{self._endpoint}.log",
            environment=self.facts["Container"].get("Environment", {}),
            region=self._settings.region,
            memory_mb=memory_mb,
            memory_of=memory_of,
        )
        startup = variant.get("ContainerStartupHealthCheckTimeoutInSeconds")
        return Worker(spec, self._settings, prepare, startup)


def instance_count(facts: Record) -> int:
    """Return how many instances a deployment's record asks for; a serverless one has its provisioned ones, or one."""
    variant: Record = facts["Variant"]
    if "ServerlessConfig" in variant:
        return int(variant["ServerlessConfig"].get("ProvisionedConcurrency", 1))
    count: int = facts["InstanceCount"] if "InstanceCount" in facts else variant["InitialInstanceCount"]
    return count


def disk_bytes(facts: Record) -> int:
    """Return how many bytes an archive, and what it unpacks to, may have."""
    variant: Record = facts["Variant"]
    if "ServerlessConfig" in variant:
        return MAX_BYTES
    own = instance_type(variant["InstanceType"]).local_nvme_gb
    return int(variant.get("VolumeSizeInGB") or own or DEFAULT_VOLUME_GB) * 1024**3


def clear_leftovers(state_dir: Path, wanted: set[tuple[str, str]]) -> None:
    """End containers that outlived a killed server, and delete folders of no (endpoint, generation) that is wanted."""
    for folder in (state_dir / "containers").glob("*/*"):
        for process_file in folder.glob("**/process.json"):
            end_leftover(process_file.parent)
        if (folder.parent.name, folder.name) not in wanted:
            remove_tree(folder)
