"""One serving container: a child process that runs ``deployments/container/serve.py`` on an unpacked archive."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from local_cloud.sagemaker.archive import remove_tree
from local_cloud.sagemaker.settings import PROJECT_ROOT

log = logging.getLogger("local_cloud.sagemaker")

SERVE = PROJECT_ROOT / "deployments" / "container" / "serve.py"
LEASH = Path(__file__).with_name("leash.py")

_MEMORY_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
_LOG_BYTES = 10 * 1024**2
_MB = 1024**2


class ContainerError(Exception):
    """The container did not start, or died; the message says why, with the end of its log."""


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """What a container is started from."""

    folder: Path
    """``tmp``, ``home`` and the process file are made in it."""
    model: Path
    """The unpacked archive."""
    log_file: Path
    environment: dict[str, str]
    region: str
    memory_mb: int | None = None
    """Limit on resident memory; None for none."""
    memory_of: str = "MemorySizeInMB"
    """What sets that limit."""


class Container:
    """A running (or ended) container. Create it with :meth:`start`, from the main thread's event loop."""

    def __init__(self, spec: ContainerSpec, process: asyncio.subprocess.Process, port: int, log_start: int) -> None:
        self.spec = spec
        self.in_flight = 0
        self.killed_because: str | None = None
        self._process = process
        self._log_start = log_start
        # No connection is kept: one that the other side has just closed would look like a failed call.
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        self._watcher = asyncio.create_task(self._watch_memory())
        self._reaper = asyncio.create_task(self._reap())

    @classmethod
    async def start(cls, spec: ContainerSpec) -> "Container":
        """Start the process; it has its own temporary folder, home and environment, empty at each start.

        The listening socket is opened here and handed over, so that no other process can take the port in between.
        On Linux the process is tied to the *thread* that starts it, hence the main thread's event loop.
        """
        for name in ("tmp", "home"):
            remove_tree(spec.folder / name)
            (spec.folder / name).mkdir(parents=True)
        _rotate(spec.log_file)
        with socket.create_server(("127.0.0.1", 0)) as listener, spec.log_file.open("ab") as log_file:
            port, descriptor, log_start = listener.getsockname()[1], listener.fileno(), log_file.tell()
            command = [sys.executable, "-u", str(SERVE)]
            command += ["--model-dir", str(spec.model), "--port", str(port), "--fd", str(descriptor)]
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                cwd=spec.folder / "home",
                env=_environment(spec),
                pass_fds=[descriptor],
                start_new_session=True,
            )
        _write_process_file(spec.folder, process.pid)
        log.info("container %s started from %s", process.pid, spec.folder)
        return cls(spec, process, port, log_start)

    def resident_mb(self) -> float:
        """Return the memory that the process uses by itself."""
        try:
            return _resident_bytes(psutil.Process(self._process.pid)) / _MB
        except psutil.NoSuchProcess:
            return 0.0

    @property
    def alive(self) -> bool:
        """Whether the process runs and is not being killed."""
        return self._process.returncode is None and self.killed_because is None

    async def wait_ready(self, seconds: float) -> None:
        """Wait until ``/ping`` answers 200.

        Raises
        ------
        ContainerError
            If the model fails to load, the process ends, or time runs out; the container is stopped first.
        """
        deadline = time.monotonic() + seconds
        problem = f"did not answer the ping health check with 200 within {seconds:g} seconds"
        while time.monotonic() < deadline:
            if not self.alive:
                await self._process.wait()
                problem = f"did not pass the ping health check: it {self.death()}"
                break
            try:
                answer = await self.client.get("/ping", timeout=max(0.1, min(2.0, deadline - time.monotonic())))
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return
            if answer is not None and answer.status_code == 500:
                problem = "did not pass the ping health check: the model could not be loaded"
                break
            await asyncio.sleep(0.05)
        tail = self.log_tail()
        await self.stop()
        raise ContainerError(f"{problem}. {tail}")

    def death(self) -> str:
        """Say why the process is no longer there."""
        if self.killed_because:
            return self.killed_because
        code = self._process.returncode
        if code is None:
            return "closed the connection without an answer"
        if code < 0:
            return f"was ended by the signal {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    async def ended(self, seconds: float = 2.0) -> None:
        """Wait a moment for the process to end, where it looks as if it had."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reaper), seconds)

    def log_tail(self, lines: int = 5, characters: int = 600) -> str:
        """Return the last lines that this container logged."""
        with self.spec.log_file.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, file.tell() - 20_000))
            text = file.read().decode("utf-8", "replace")
        tail = "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
        return f"Last lines of its log: {tail[-characters:]}" if tail else "Its log is empty."

    async def kill(self, reason: str) -> None:
        """End the container at once, and keep why."""
        if self.alive:
            self.killed_because = reason
            log.warning("container %s %s", self._process.pid, reason)
            _signal_group(self._process.pid, signal.SIGKILL)
        await self._reaper

    async def stop(self) -> None:
        """End the container, politely first. Does nothing if it has ended."""
        self._watcher.cancel()
        if self._process.returncode is None:
            _signal_group(self._process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            except TimeoutError:
                log.warning("container %s did not end within %g seconds: killed", self._process.pid, _STOP_SECONDS)
                _signal_group(self._process.pid, signal.SIGKILL)
        await self._reaper
        await self.client.aclose()
        (self.spec.folder / "process.json").unlink(missing_ok=True)

    async def _reap(self) -> None:
        await self._process.wait()
        # What the container itself started ends with it.
        _signal_group(self._process.pid, signal.SIGKILL)

    async def _watch_memory(self) -> None:
        # Resident memory is what a container is billed and killed by. A limit on address space (RLIMIT_AS) would not
        # do: torch maps many times what it uses.
        limit = self.spec.memory_mb
        try:
            process = psutil.Process(self._process.pid)
            family, looked = [process], 0.0
            while limit is not None and self._process.returncode is None:
                if time.monotonic() - looked > 1:
                    family, looked = [process, *process.children(recursive=True)], time.monotonic()
                used = sum(_resident_bytes(member) for member in family) / _MB
                if used > limit:
                    await self.kill(
                        f"ran out of memory: it used {used:.0f} MB of {limit} MB ({self.spec.memory_of}) and was killed"
                    )
                    return
                await asyncio.sleep(_MEMORY_POLL_SECONDS)
        except psutil.NoSuchProcess:
            return


def end_leftover(folder: Path) -> None:
    """End a container that outlived a killed server (where the leash does not exist), by its process file."""
    path = folder / "process.json"
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(known["pid"])
        if abs(process.create_time() - known["started"]) < 0.01:  # else the pid belongs to somebody else by now
            _signal_group(process.pid, signal.SIGKILL)
            log.warning("ended the container %s, left behind by an earlier server", process.pid)
    except (OSError, ValueError, KeyError, psutil.Error):
        pass
    path.unlink(missing_ok=True)


def _write_process_file(folder: Path, pid: int) -> None:
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    (folder / "process.json").write_text(json.dumps({"pid": pid, "started": started}), encoding="utf-8")


def _environment(spec: ContainerSpec) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(spec.folder / "home"),
        "TMPDIR": str(spec.folder / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AWS_REGION": spec.region,
        "AWS_DEFAULT_REGION": spec.region,
    } | spec.environment


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group that has ended
        return


def _rotate(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
