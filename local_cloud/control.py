"""Start, look at and stop the embedded cloud from Python; the command line is a thin shell over these."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from askline.errors import LocalCloudError
from askline.records import Target
from local_cloud import keys, processes, services
from local_cloud import ports as port_choice
from local_cloud.services import PARTS
from local_cloud.state import CloudFolder, PartStatus, Plan, Say, Status, last_lines, one_at_a_time

MIN_FREE_BYTES = 64_000_000
_STOP_PATIENCE = 60.0


def silent(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Health:
    """What ``status`` finds."""

    running: bool
    healthy: bool
    """All parts answer."""
    target: Target | None
    parts: dict[str, PartStatus]
    unwell: tuple[str, ...] = ()
    """Parts that run but do not answer, or have given up."""


def up(
    state_dir: str | os.PathLike[str] = ".askline",
    *,
    without: Collection[str] = (),
    ports: Mapping[str, int] | None = None,
    idle_minutes: float | None = None,
    minute_seconds: float | None = None,
    enforce_iam: bool | None = None,
    say: Say = silent,
) -> Target:
    """Start the embedded cloud, or find that it runs, and return its addresses once all parts are healthy.

    Safe to call twice and at the same time: the second waits for the first and returns the same.

    Parameters
    ----------
    state_dir
        The cloud's state lives in ``<state_dir>/cloud``.
    without
        Parts to leave out. One that runs already is left running.
    ports
        Part to the port that it must have.
    idle_minutes
        Minutes without a call after which a serverless container is stopped, 0 for never; None for what this cloud
        was started with before, at first 10.
    minute_seconds
        How long a minute takes for what SageMaker does by the minute (metrics, alarms, scaling, baking of an update);
        None for what this cloud was started with before, at first 60.
    enforce_iam
        Whether callers other than root may do only what their policies allow; None for what this cloud was started
        with before, at first not.
    say
        Called with each line of progress.

    Raises
    ------
    LocalCloudError
        If a part does not become healthy, a forced port is taken, the folder cannot be written, or a cloud runs with
        other ports or idle minutes than those asked for.
    """
    forced = dict(ports or {})
    for name in (*without, *forced):
        if name not in PARTS:
            raise LocalCloudError(f"the embedded cloud has no part {name!r}; its parts are {', '.join(PARTS)}")
    if both := sorted(set(without) & set(forced)):
        raise LocalCloudError(f"{both[0]} is left out and given a port at once; drop one of the two options")
    wanted = [name for name in PARTS if name not in without]
    if "sagemaker" in wanted and "ministack" not in wanted:
        raise LocalCloudError("sagemaker reads its archives and roles from ministack: leave out both, or neither")
    folder = CloudFolder(state_dir)
    folder.create()
    _check_space(folder)
    with one_at_a_time(folder, say), port_choice.claims() as take:
        keys.of(folder.root)
        status = _running(folder, say)
        if status is not None:
            return _join(folder, status, wanted, forced, take, idle_minutes, minute_seconds, enforce_iam, say)
        avoid: set[int] = set()
        for _ in range(3):
            processes.end_all_marked(folder.root, grace=2)
            plan = _plan(folder, wanted, forced, frozenset(avoid), take, idle_minutes, minute_seconds, enforce_iam, say)
            supervisor = _launch(folder)
            try:
                return _wait(folder, plan, supervisor, say)
            except _PortTakenError as error:
                # Another program, often another embedded cloud, was quicker between our look and the part's bind.
                if error.port in forced.values():
                    raise
                avoid.add(error.port)
                say(f"port {error.port} was taken in the meantime; trying others")
        raise LocalCloudError("other programs keep taking the ports; try again", retryable=True)


def down(state_dir: str | os.PathLike[str] = ".askline", *, say: Say = silent) -> list[str]:
    """Stop everything cleanly; return the titles of the parts that ran.

    Raises
    ------
    LocalCloudError
        If something cannot be stopped.
    """
    folder = CloudFolder(state_dir)
    if not folder.root.exists():
        return []
    with one_at_a_time(folder, say):
        status = folder.read_status()
        stopped: list[str] = []
        if folder.supervised():
            if status is not None and processes.is_same(status.pid, status.started):
                stopped = [PARTS[name].title for name, part in status.parts.items() if part.pid is not None]
                say(f"stopping {_listed(stopped)}")
                os.kill(status.pid, signal.SIGTERM)
            if not _wait_until_gone(folder, _STOP_PATIENCE):
                if status is not None and processes.is_same(status.pid, status.started):
                    say(f"the supervisor (process {status.pid}) does not stop; killing it")
                    os.kill(status.pid, signal.SIGKILL)
                if not _wait_until_gone(folder, _STOP_PATIENCE):
                    raise LocalCloudError(
                        f"the embedded cloud in {folder.root} does not stop; see {folder.log('supervisor')}"
                    )
        left = {_title(name) for name in processes.parts_of(folder.root)}
        processes.end_all_marked(folder.root, grace=15)
        return stopped or sorted(left)


def health(state_dir: str | os.PathLike[str] = ".askline") -> Health:
    """Ask each part whether it is well. Starts and changes nothing."""
    folder = CloudFolder(state_dir)
    status = folder.read_status()
    if status is None or not folder.supervised() or not processes.is_same(status.pid, status.started):
        return Health(False, False, None, {})
    unwell = tuple(
        name for name, part in status.parts.items() if part.state != "ready" or not services.is_healthy(name, part.port)
    )
    ports = {name: part.port for name, part in status.parts.items()}
    return Health(True, not unwell, services.target(ports, folder.root), status.parts, unwell)


def _check_space(folder: CloudFolder) -> None:
    free = shutil.disk_usage(folder.root).free
    if free < MIN_FREE_BYTES:
        raise LocalCloudError(
            f"only {free // 1_000_000} MB are free on the disk of {folder.root}, and the embedded cloud needs at least "
            f"{MIN_FREE_BYTES // 1_000_000} MB. Free some space, or choose another folder with --state-dir"
        )


def _running(folder: CloudFolder, say: Say) -> Status | None:
    """Return the status of the supervisor that runs, or None once the ground is clear for a new one."""
    if not folder.supervised():
        return None
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        status = folder.read_status()
        if (
            status is not None
            and processes.is_same(status.pid, status.started)
            and status.state not in ("stopping", "stopped", "failed")
        ):
            return status
        if not folder.supervised():
            return None
        time.sleep(0.1)
    say("what an earlier embedded cloud left is still stopping; waiting for it")
    if not _wait_until_gone(folder, _STOP_PATIENCE):
        raise LocalCloudError(
            f"an earlier embedded cloud in {folder.root} does not stop; run: python -m local_cloud down", retryable=True
        )
    return None


def _wait_until_gone(folder: CloudFolder, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while folder.supervised():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _plan(
    folder: CloudFolder,
    wanted: list[str],
    forced: Mapping[str, int],
    avoid: frozenset[int],
    take: Callable[[int], bool],
    idle_minutes: float | None,
    minute_seconds: float | None,
    enforce_iam: bool | None,
    say: Say,
) -> Plan:
    """Choose the ports and write the plan."""
    old = folder.read_plan(say)
    remembered = {name: port for name, port in old.ports.items() if name in PARTS and 0 < port < 65536}
    choice = port_choice.choose(
        {name: PARTS[name].usual_port for name in wanted},
        remembered=remembered,
        forced={name: port for name, port in forced.items() if name in wanted},
        avoid=avoid,
        take=take,
    )
    for remark in choice.remarks:
        say(remark)
    idle = old.idle_minutes if idle_minutes is None else idle_minutes
    minute = old.minute_seconds if minute_seconds is None else minute_seconds
    iam = old.enforce_iam if enforce_iam is None else enforce_iam
    plan = Plan(
        parts=tuple(wanted),
        ports=remembered | choice.ports,
        idle_minutes=idle,
        minute_seconds=minute,
        enforce_iam=iam,
    )
    folder.write_plan(plan)
    return plan


def _launch(folder: CloudFolder) -> subprocess.Popen[bytes]:
    with folder.writable():
        folder.status_file.unlink(missing_ok=True)
        log = folder.log("supervisor").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "local_cloud.supervisor", str(folder.root)],
            cwd=services.ROOT,
            env=services.kept_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _join(
    folder: CloudFolder,
    status: Status,
    wanted: list[str],
    forced: Mapping[str, int],
    take: Callable[[int], bool],
    idle_minutes: float | None,
    minute_seconds: float | None,
    enforce_iam: bool | None,
    say: Say,
) -> Target:
    """Use the cloud that runs; have it start what it lacks."""
    for name, port in forced.items():
        if name in status.parts and status.parts[name].port != port:
            raise LocalCloudError(
                f"{name} runs on port {status.parts[name].port} already, not on {port}; "
                "run: python -m local_cloud down, then up again with --port"
            )
    missing = [name for name in wanted if name not in status.parts or status.parts[name].state == "failed"]
    names = [name for name in PARTS if name in status.parts or name in wanted]
    plan = folder.read_plan(say)
    if idle_minutes is not None and idle_minutes != plan.idle_minutes and "sagemaker" in status.parts:
        raise LocalCloudError(
            f"the embedded cloud runs already with --idle-minutes {plan.idle_minutes:g}, not {idle_minutes:g}; "
            "run: python -m local_cloud down, then up again with the option"
        )
    if minute_seconds is not None and minute_seconds != plan.minute_seconds and "sagemaker" in status.parts:
        raise LocalCloudError(
            f"the embedded cloud runs already with --minute-seconds {plan.minute_seconds:g}, not {minute_seconds:g}; "
            "run: python -m local_cloud down, then up again with the option"
        )
    if enforce_iam is not None and enforce_iam != plan.enforce_iam:
        raise LocalCloudError(
            f"the embedded cloud runs already {'with' if plan.enforce_iam else 'without'} permissions enforced; run: "
            "python -m local_cloud down, then up again with the option"
        )
    if missing:
        say(f"the embedded cloud runs; adding {_listed(PARTS[name].title for name in missing)}")
        kept = {name: part.port for name, part in status.parts.items()}
        choice = port_choice.choose(
            {name: PARTS[name].usual_port for name in missing},
            remembered=plan.ports | kept,
            forced={name: port for name, port in forced.items() if name in missing},
            avoid=frozenset(port for name, port in kept.items() if name not in missing),
            take=take,
        )
        for remark in choice.remarks:
            say(remark)
        idle = plan.idle_minutes if idle_minutes is None else idle_minutes
        plan = Plan(
            parts=tuple(names),
            ports=plan.ports | kept | choice.ports,
            idle_minutes=idle,
            minute_seconds=plan.minute_seconds if minute_seconds is None else minute_seconds,
            enforce_iam=plan.enforce_iam,
        )
        folder.write_plan(plan)
        os.kill(status.pid, signal.SIGHUP)
    else:
        say(f"the embedded cloud runs already (process {status.pid})")
        plan = Plan(parts=tuple(names), ports={name: part.port for name, part in status.parts.items()})
    return _wait(folder, plan, None, say, already={n for n, p in status.parts.items() if p.state == "ready"})


class _PortTakenError(LocalCloudError):
    """Another program was quicker to take a port."""

    def __init__(self, message: str, port: int) -> None:
        super().__init__(message, retryable=True)
        self.port = port


def _wait(
    folder: CloudFolder,
    plan: Plan,
    supervisor: subprocess.Popen[bytes] | None,
    say: Say,
    already: Collection[str] = (),
) -> Target:
    """Wait until all parts of the plan are ready, telling of each; stop everything again if the person gives up."""
    told = set(already)
    fresh = [PARTS[name].title for name in plan.parts if name not in told]
    if fresh:
        say(f"starting {_listed(fresh)} …")
    deadline = time.monotonic() + 30 + max(PARTS[name].patience for name in plan.parts)
    try:
        while True:
            status = folder.read_status()
            gone = supervisor.poll() is not None if supervisor else not folder.supervised()
            if gone:
                raise _failure(folder, supervisor)
            for name, part in status.parts.items() if status else ():
                if part.state == "ready" and name not in told:
                    told.add(name)
                    say(
                        f"starting {PARTS[name].title} … ready in {part.seconds or 0:.1f} s ({services.url(part.port)})"
                    )
                if part.state == "failed" and name in plan.parts and supervisor is None and name not in already:
                    raise LocalCloudError(part.error or f"{PARTS[name].title} failed; see {folder.log(name)}")
            if status and all(name in status.parts and status.parts[name].state == "ready" for name in plan.parts):
                return services.target({name: status.parts[name].port for name in status.parts}, folder.root)
            if time.monotonic() > deadline:
                raise LocalCloudError(f"the embedded cloud is not ready in time; see {folder.log('supervisor')}")
            time.sleep(0.05)
    except KeyboardInterrupt:
        if supervisor is not None:
            say("interrupted; stopping what was started")
            supervisor.terminate()
            _wait_until_gone(folder, _STOP_PATIENCE)
        raise


def _failure(folder: CloudFolder, supervisor: subprocess.Popen[bytes] | None) -> LocalCloudError:
    status = folder.read_status()
    _wait_until_gone(folder, _STOP_PATIENCE)
    if status is not None and status.error is not None:
        if status.port_was_taken:
            port = next(part.port for part in status.parts.values() if part.state == "failed")
            return _PortTakenError(status.error, port)
        return LocalCloudError(status.error)
    code = f" (exit code {supervisor.returncode})" if supervisor else ""
    log = folder.log("supervisor")
    tail = "\n".join(f"  | {line}" for line in last_lines(log, 15))
    return LocalCloudError(f"the embedded cloud's supervisor ended{code}. The end of {log}:\n{tail}")


def _title(name: str) -> str:
    return PARTS[name].title if name in PARTS else name


def _listed(words: Iterable[str]) -> str:
    *most, last = list(words) or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last
