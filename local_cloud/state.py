"""The files in which the embedded cloud keeps what it is: its folder, the plan and the status.

``cloud.json`` is the plan (ports and parts), written by the command line only and kept over restarts.
``status.json`` is what runs now, written by the supervisor only. Both are written beside themselves and renamed.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from askline.errors import LocalCloudError

Say = Callable[[str], None]

REGION = "us-east-1"

#: Long enough that nobody who tries something out waits for a model twice, short enough that a laptop gets its memory
#: back over a coffee. SageMaker itself keeps idle containers for minutes and does not say for how many.
DEFAULT_IDLE_MINUTES = 10.0


class Plan(BaseModel):
    """What shall run, and where: ``cloud.json``."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    parts: tuple[str, ...] = ()
    ports: dict[str, int] = Field(default_factory=dict)
    idle_minutes: float = Field(DEFAULT_IDLE_MINUTES, ge=0, allow_inf_nan=False)
    """Minutes without a call after which a serverless container is stopped; 0 means never."""
    minute_seconds: float = Field(60.0, gt=0, allow_inf_nan=False)
    """How long a minute of SageMaker's metrics, alarms, cool-downs and baking takes."""
    enforce_iam: bool = False
    """Whether callers other than root may do only what their policies allow."""


class PartStatus(BaseModel):
    """One part as the supervisor sees it."""

    state: Literal["starting", "ready", "restarting", "failed", "stopped"]
    port: int
    pid: int | None = None
    seconds: float | None = None
    """Seconds from its start until it was healthy."""
    restarts: int = 0
    error: str | None = None


class Status(BaseModel):
    """What runs now: ``status.json``."""

    pid: int
    """The supervisor's process id; valid only with ``started``, because ids are used again."""
    started: float
    state: Literal["starting", "ready", "stopping", "stopped", "failed"]
    error: str | None = None
    port_was_taken: bool = False
    """The start failed because another program took a part's port first; other ports may work."""
    parts: dict[str, PartStatus] = Field(default_factory=dict)


class CloudFolder:
    """The embedded cloud's own folder, ``<state dir>/cloud``."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.root = (Path(state_dir).expanduser().resolve()) / "cloud"
        self.plan_file = self.root / "cloud.json"
        self.status_file = self.root / "status.json"
        self.logs = self.root / "logs"
        self.command_lock = self.root / "command.lock"
        self.supervisor_lock = self.root / "supervisor.lock"

    def log(self, name: str) -> Path:
        """Return the log file of a part, or of the ``supervisor``."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the folder, and make sure that it can be written.

        Raises
        ------
        LocalCloudError
            If it cannot be made or written, or the disk is full.
        """
        with self.writable():
            if not self.root.parent.exists():  # one that is there has the rights that its owner gave it
                self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
            self.root.chmod(0o700)  # an older one was made readable by all
            self.logs.mkdir(exist_ok=True)
            probe = self.root / f".probe-{os.getpid()}"
            try:
                probe.write_bytes(b"\0" * 1_000_000)
            finally:
                probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """Turn an operating system's refusal to write here into one clear error."""
        try:
            yield
        except OSError as error:
            raise LocalCloudError(
                f"cannot write the embedded cloud's state in {self.root}: {error.strerror}. "
                "Free some space, correct the folder's permissions, or choose another with --state-dir"
            ) from error

    def read_plan(self, say: Say) -> Plan:
        """Return the plan; a missing one is empty, a damaged one is set aside with a line that says so."""
        try:
            return Plan.model_validate_json(self.plan_file.read_bytes())
        except FileNotFoundError:
            return Plan()
        except ValidationError:
            aside = _set_aside(self.plan_file)
            say(f"{self.plan_file} was damaged: kept as {aside.name}; the ports are chosen anew")
            return Plan()

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, whole or not at all."""
        with self.writable():
            write_whole(self.plan_file, plan.model_dump_json(indent=2))

    def read_status(self) -> Status | None:
        """Return the supervisor's last word, or None where there is none that can be read."""
        try:
            return Status.model_validate_json(self.status_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def supervised(self) -> bool:
        """Say whether a supervisor, or the keeper that clears up after one, is alive.

        The kernel drops their lock when they die, however they die, so this cannot be stale after a ``kill -9``
        or a reboot.
        """
        try:
            with self.supervisor_lock.open("rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        except FileNotFoundError:
            return False
        return False


@contextlib.contextmanager
def one_at_a_time(folder: CloudFolder, say: Say, patience: float = 300) -> Iterator[None]:
    """Hold the lock that lets one ``up`` or ``down`` of a state folder work at a time; wait for the other.

    Raises
    ------
    LocalCloudError
        If the other command does not end within ``patience`` seconds.
    """
    with folder.writable():
        stream: IO[bytes] = folder.command_lock.open("ab")
    with stream:
        if not _lock(stream):
            say("another command works on this embedded cloud; waiting for it")
            deadline = time.monotonic() + patience
            while not _lock(stream):
                if time.monotonic() > deadline:
                    raise LocalCloudError(
                        f"another command has held {folder.command_lock} for {patience:.0f} s; end it, then try again",
                        retryable=True,
                    )
                time.sleep(0.1)
        yield


def _lock(stream: IO[bytes]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write ``text`` under a temporary name, make it durable, and rename it to ``path``."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last ``count`` lines of a log; an absent one has none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - max(count, 1) * 400))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-count:] if count > 0 else []


def as_json(document: BaseModel) -> str:
    """Return one line of JSON, without the fields that are None."""
    return json.dumps(document.model_dump(mode="json", exclude_none=True))
