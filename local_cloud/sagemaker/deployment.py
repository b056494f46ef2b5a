"""One deployment: a model and a production variant, unpacked on disk, with a container that comes and goes."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.archive import fetch_and_unpack, remove_tree
from local_cloud.sagemaker.container import Container, ContainerError, ContainerSpec, end_leftover
from local_cloud.sagemaker.state import Record

log = logging.getLogger("local_cloud.sagemaker")

_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server was started with."""

    state_dir: Path
    s3_url: str
    iam_url: str
    region: str = "us-east-1"
    account: str = "000000000000"
    startup_seconds: float = 180.0
    """A serverless container must answer /ping within 3 minutes."""
    invocation_seconds: float = 60.0
    """A call must be answered within 60 seconds."""
    cold_seconds: float = 60.0
    """How long a call waits for the container to start before it is told that the model is not ready."""
    idle_seconds: float = 0.0
    """Stop a serverless container after this long without a call; 0 means never."""


class NotReadyError(Exception):
    """The container is still being started; the start goes on."""


class Deployment:
    """A generation of an endpoint: what it was deployed from, and its container while there is one.

    ``facts`` is its record: ``Generation``, ``EndpointConfigName``, ``Variant``, ``Container`` (the model's container
    definition), ``StartTime``. All methods run on the event loop.
    """

    def __init__(self, endpoint: str, facts: Record, settings: Settings, s3: Any) -> None:
        self.facts = facts
        self.in_flight = 0
        self._endpoint = endpoint
        self._settings = settings
        self._s3 = s3
        self._folder = settings.state_dir / "containers" / endpoint.lower() / facts["Generation"]
        self._container: Container | None = None
        self._starting = asyncio.Lock()
        self._cold_start: asyncio.Task[Container] | None = None
        self._removed = False
        self._failures = 0
        self._failure = ""
        self._paused_until = 0.0
        self._last_used = time.monotonic()

    @property
    def serverless(self) -> Record | None:
        """The serverless configuration, or None for an instance."""
        serverless: Record | None = self.facts["Variant"].get("ServerlessConfig")
        return serverless

    async def prepare(self) -> None:
        """Fetch and unpack the archive, unless it is there. Raises ArchiveError."""
        model = self._folder / "model"
        if not model.is_dir():
            await asyncio.to_thread(fetch_and_unpack, self._s3, self.facts["Container"]["ModelDataUrl"], model)

    async def running(self) -> Container:
        """Return the live container, starting one if there is none (a cold start).

        After failed starts there is a pause, doubling up to 30 seconds, in which the last failure is the answer.

        Raises
        ------
        ContainerError, ArchiveError
            If it cannot be started.
        """
        if self._container and self._container.alive and not self._starting.locked():
            return self._container
        async with self._starting:
            if self._container and self._container.alive:
                return self._container
            if self._removed:
                raise ContainerError("was deleted")
            if time.monotonic() < self._paused_until:
                raise ContainerError(self._failure)
            await self._discard()
            try:
                await self.prepare()
                container = await Container.start(self._spec())
                self._container = container
                await container.wait_ready(self._settings.startup_seconds)
            except BaseException as error:
                if isinstance(error, Exception):
                    self._failures += 1
                    self._failure = str(error)
                    self._paused_until = time.monotonic() + min(2.0 ** (self._failures - 1), _LONGEST_PAUSE_SECONDS)
                await self._discard()
                raise
            self._failures = 0
            self._last_used = time.monotonic()
            return container

    async def awake(self) -> Container:
        """Return the live container to a call, which waits for a cold start up to ``cold_seconds``.

        The start belongs to no call: it goes on when the one that began it has given up.

        Raises
        ------
        NotReadyError
            If it takes longer.
        ContainerError, ArchiveError
            If it cannot be started.
        """
        if self._container and self._container.alive and not self._starting.locked():
            return self._container
        if self._cold_start is None or self._cold_start.done():
            self._cold_start = asyncio.create_task(self.running())
            self._cold_start.add_done_callback(_look_at_outcome)
        start = self._cold_start
        await asyncio.wait({start}, timeout=self._settings.cold_seconds)
        if not start.done():
            raise NotReadyError
        if start.cancelled():
            raise ContainerError("was stopped while it started")
        return start.result()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Count a call while it is in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._last_used = time.monotonic()

    async def stop_if_idle(self, seconds: float) -> None:
        """Scale to zero: stop a serverless container that nobody has called for so long."""
        idle = self.in_flight == 0 and time.monotonic() - self._last_used > seconds
        if self.serverless and idle and self._container and not self._starting.locked():
            async with self._starting:
                if self.in_flight == 0:
                    log.info("%s: no call for %g seconds, scaled to zero", self._endpoint, seconds)
                    await self._discard()

    async def stop(self) -> None:
        """Stop the container, also while it starts."""
        if self._cold_start:
            self._cold_start.cancel()
            await asyncio.wait({self._cold_start})
        async with self._starting:
            await self._discard()

    async def remove(self, drain_seconds: float = 0.0) -> None:
        """Let calls in flight end, stop the container and delete its files."""
        deadline = time.monotonic() + drain_seconds
        try:
            while self.in_flight and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        finally:  # also when the server is being stopped meanwhile
            self._removed = True
            await self.stop()
        await asyncio.to_thread(remove_tree, self._folder)
        with contextlib.suppress(OSError):
            self._folder.parent.rmdir()  # the endpoint's folder, unless another generation lives there

    async def _discard(self) -> None:
        container, self._container = self._container, None
        if container:
            await container.stop()

    def _spec(self) -> ContainerSpec:
        serverless = self.serverless
        return ContainerSpec(
            folder=self._folder,
            log_file=self._settings.state_dir / "logs" / f"{self._endpoint}.log",
            environment=self.facts["Container"].get("Environment", {}),
            region=self._settings.region,
            memory_mb=serverless["MemorySizeInMB"] if serverless else None,
        )


def _look_at_outcome(start: asyncio.Task[Container]) -> None:
    # The calls that wait are told. When none waits any longer, asyncio would complain of an error that nobody saw.
    if not start.cancelled() and (error := start.exception()):
        log.warning("a cold start failed: %s", error)


def clear_leftovers(state_dir: Path, wanted: set[tuple[str, str]]) -> None:
    """End containers that outlived a killed server, and delete folders of no (endpoint, generation) that is wanted."""
    for folder in (state_dir / "containers").glob("*/*"):
        end_leftover(folder)
        if (folder.parent.name, folder.name) not in wanted:
            remove_tree(folder)
