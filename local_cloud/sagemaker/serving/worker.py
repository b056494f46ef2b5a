"""One place for a container: an instance of an endpoint, with a process that comes and goes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from local_cloud.sagemaker.serving.container import Container, ContainerError, ContainerSpec
from local_cloud.sagemaker.settings import Settings

log = logging.getLogger("local_cloud.sagemaker")

_LONGEST_PAUSE_SECONDS = 30.0


class NotReadyError(Exception):
    """The container is still being started; the start goes on."""


class Worker:
    """Starts its container when one is wanted, and stops it. All methods run on the event loop.

    Parameters
    ----------
    prepare
        Sees to it that the model is on disk; raises ArchiveError.
    startup_seconds
        For the container to answer ``/ping``.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        settings: Settings,
        prepare: Callable[[], Awaitable[None]],
        startup_seconds: float | None = None,
    ) -> None:
        self.in_flight = 0
        self.taken = 0
        """Calls that it was given so far."""
        self._spec = spec
        self._settings = settings
        self._prepare = prepare
        self._startup_seconds = settings.startup_seconds if startup_seconds is None else startup_seconds
        self._container: Container | None = None
        self._starting = asyncio.Lock()
        self._cold_start: asyncio.Task[Container] | None = None
        self._removed = False
        self._failures = 0
        self._failure = ""
        self._paused_until = 0.0
        self._last_used = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether a call would be answered without a start."""
        return self._container is not None and self._container.alive and not self._starting.locked()

    @property
    def last_used(self) -> float:
        """When a call last ended, by the monotonic clock."""
        return self._last_used

    def resident_mb(self) -> float:
        """Return the memory of its process."""
        return self._container.resident_mb() if self._container and self._container.alive else 0.0

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
                await self._prepare()
                container = await Container.start(self._spec)
                self._container = container
                await container.wait_ready(self._startup_seconds)
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
        start = self.wake()
        await asyncio.wait({start}, timeout=self._settings.cold_seconds)
        if not start.done():
            raise NotReadyError
        if start.cancelled():
            raise ContainerError("was stopped while it started")
        return start.result()

    def wake(self) -> asyncio.Task[Container]:
        """Start the container in the background, unless that goes on already."""
        if self._cold_start is None or self._cold_start.done():
            self._cold_start = asyncio.create_task(self.running())
            self._cold_start.add_done_callback(_look_at_outcome)
        return self._cold_start

    def heal(self) -> None:
        """Start a container that has died, unless it is starting, or has failed a moment ago."""
        if not (self.ready or self._removed or self._starting.locked() or time.monotonic() < self._paused_until):
            self.wake()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Count a call while it is in flight."""
        self.in_flight += 1
        self.taken += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._last_used = time.monotonic()

    async def stop_if_idle(self, seconds: float) -> bool:
        """Stop a container that nobody has called for so long; say whether that was done."""
        idle = self.in_flight == 0 and time.monotonic() - self._last_used > seconds
        if idle and self._container and not self._starting.locked():
            async with self._starting:
                if self.in_flight == 0:
                    await self._discard()
                    return True
        return False

    async def stop(self) -> None:
        """Stop the container, also while it starts."""
        if self._cold_start:
            self._cold_start.cancel()
            await asyncio.wait({self._cold_start})
        async with self._starting:
            await self._discard()

    async def remove(self, drain_seconds: float = 0.0) -> None:
        """Let calls in flight end, then stop the container for good."""
        deadline = time.monotonic() + drain_seconds
        try:
            while self.in_flight and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        finally:  # also when the server is being stopped meanwhile
            self._removed = True
            await self.stop()

    async def _discard(self) -> None:
        container, self._container = self._container, None
        if container:
            await container.stop()


def _look_at_outcome(start: asyncio.Task[Container]) -> None:
    # The calls that wait are told. When none waits any longer, asyncio would complain of an error that nobody saw.
    if not start.cancelled() and (error := start.exception()):
        log.warning("a cold start failed: %s", error)
