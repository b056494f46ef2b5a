"""A deployment of many models behind one endpoint: each is loaded when a call names it first."""

import asyncio
import hashlib
import logging
from typing import Any

from local_cloud.sagemaker.archive import ArchiveError, fetch_and_unpack, parse_s3_url, remove_tree
from local_cloud.sagemaker.errors import runtime_validation_error
from local_cloud.sagemaker.instances import instance_type
from local_cloud.sagemaker.serving.deployment import Deployment, disk_bytes
from local_cloud.sagemaker.serving.worker import Worker
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record

log = logging.getLogger("local_cloud.sagemaker")


class MultiModelDeployment(Deployment):
    """Models under an S3 prefix, each in a process of its own, together within one instance's memory.

    What has not been called the longest makes room when memory runs out.
    """

    def __init__(self, endpoint: str, facts: Record, settings: Settings, s3: Any) -> None:
        super().__init__(endpoint, facts, settings, s3)
        self._count = super().instances
        self._loaded: dict[str, Worker] = {}
        self._loading = asyncio.Lock()
        self._tidying: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Do nothing: which models there are is known when they are called."""

    async def start(self) -> None:
        """Do nothing: the first call of a model starts it."""

    def heal(self) -> None:
        """Make room where the models together use more than there is; the next call of a dead one starts it again."""
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._make_room())

    async def worker(self, target_model: str | None = None) -> Worker:
        """Return the process of a model, loading the model where it is not.

        Raises
        ------
        ApiError
            ValidationError where no model is named, or there is none of that name.
        """
        if target_model is None:
            raise runtime_validation_error(
                f"Endpoint {self._endpoint} is a multi-model endpoint: the call must name a TargetModel."
            )
        if worker := self._loaded.get(target_model):
            return worker
        async with self._loading:
            return self._loaded.get(target_model) or await self._load(target_model)

    async def _load(self, target_model: str) -> Worker:
        url = self.facts["Container"]["ModelDataUrl"].rstrip("/") + "/" + target_model.lstrip("/")
        folder = self._folder / _folder_name(target_model)

        async def prepare() -> None:
            if not (folder / "model").is_dir():
                await asyncio.to_thread(fetch_and_unpack, self._s3, url, folder / "model", disk_bytes(self.facts))

        try:
            await prepare()
        except ArchiveError as error:
            bucket, key = parse_s3_url(url)
            raise runtime_validation_error(
                f"Failed to download model data(bucket: {bucket}, key: {key}). Please ensure that there is an object "
                "located at the URL and that the role passed to CreateModel has permissions to download the model. "
                f"({error})"
            ) from None
        worker = self._worker_of(folder / "model", folder, prepare)
        self._loaded[target_model] = worker
        return worker

    async def _make_room(self) -> None:
        """Unload models, the longest unused first, until what is left is within the instance's memory."""
        most = instance_type(self.facts["Variant"]["InstanceType"]).memory_mb
        async with self._loading:
            idle = [name for name, each in self._loaded.items() if not each.in_flight]
            for name in sorted(idle, key=lambda name: self._loaded[name].last_used):
                used = sum(each.resident_mb() for each in self._loaded.values())
                if most is None or used <= most:
                    return
                if not self._loaded[name].in_flight:  # still
                    log.info("%s: %s makes room: %.0f of %d MB are used", self._endpoint, name, used, most)
                    await self._unload(name)

    async def _unload(self, name: str) -> None:
        await self._loaded.pop(name).remove()
        await asyncio.to_thread(remove_tree, self._folder / _folder_name(name))

    async def resize(self, count: int) -> None:
        """Change only the number that is shown: the models share the memory of one instance here."""
        self._count = count

    @property
    def instances(self) -> int:
        """The number that is shown."""
        return self._count

    async def stop(self) -> None:
        """Stop the processes of all models."""
        if self._tidying:
            self._tidying.cancel()
        await asyncio.gather(*[worker.stop() for worker in self._loaded.values()])

    async def remove(self, drain_seconds: float = 0.0) -> None:
        """Let calls in flight end, stop all and delete the files."""
        if self._tidying:
            self._tidying.cancel()
        try:
            await asyncio.gather(*[worker.remove(drain_seconds) for worker in self._loaded.values()])
        finally:
            await super().remove()


def _folder_name(target_model: str) -> str:
    return "model-" + hashlib.sha256(target_model.encode()).hexdigest()[:16]


def deployment(endpoint: str, facts: Record, settings: Settings, s3: Any) -> Deployment:
    """Return the deployment of a record: of one model, or of many."""
    many = facts["Container"].get("Mode") == "MultiModel"
    return (MultiModelDeployment if many else Deployment)(endpoint, facts, settings, s3)
