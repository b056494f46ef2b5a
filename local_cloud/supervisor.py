"""The process that owns the parts: starts them, restarts what dies, stops all.

``python -m local_cloud up`` runs ``python -m local_cloud.supervisor FOLDER`` in a session of its own. SIGTERM and
SIGINT stop it cleanly, SIGHUP makes it read the plan again and start what is missing. It has one thread, which
:func:`processes.start` needs.
"""

import collections
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from askline.errors import LocalCloudError
from local_cloud import keys, processes, services
from local_cloud.ports import is_free
from local_cloud.services import PARTS, Part
from local_cloud.state import CloudFolder, PartStatus, Plan, Status, last_lines, write_whole

log = logging.getLogger("askline.local_cloud")

MAX_RESTARTS = 5
"""A part that dies more often than this within RESTART_WINDOW seconds stays down."""
RESTART_WINDOW = 600.0
LOG_LINES_IN_ERROR = 15
MAX_LOG_BYTES = 5_000_000


@dataclass
class Child:
    """A part that runs, or should."""

    part: Part
    port: int
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    seconds: float | None = None
    state: str = "starting"
    error: str | None = None
    deaths: collections.deque[float] = field(default_factory=collections.deque)
    restarts: int = 0
    again_at: float = 0.0

    def status(self) -> PartStatus:
        """Return what the status file says of it."""
        pid = self.process.pid if self.process and self.process.returncode is None else None
        return PartStatus.model_validate(
            {
                "state": self.state,
                "port": self.port,
                "pid": pid,
                "seconds": None if self.seconds is None else round(self.seconds, 1),
                "restarts": self.restarts,
                "error": self.error,
            }
        )


class Supervisor:
    """Runs the parts of one embedded cloud until it is told to stop."""

    def __init__(self, root: Path) -> None:
        self.folder = CloudFolder(root.parent)
        self.children: dict[str, Child] = {}
        self.plan = Plan()
        self.state = "starting"
        self.error: str | None = None
        self.port_was_taken = False
        self.asked_to_stop = False
        self.asked_to_reread = False
        self.started = psutil.Process().create_time()
        self.lock: IO[bytes] | None = None
        self.keeper: subprocess.Popen[bytes] | None = None
        self.last_written = ""

    def run(self) -> int:
        """Start what the plan says and stay until the end; return the exit code."""
        self.take_lock()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_stop)
        signal.signal(signal.SIGHUP, self.on_reread)
        self.guard()
        try:
            self.read_plan()
            while not self.asked_to_stop:
                self.tend()
                busy = any(child.state in ("starting", "restarting") for child in self.children.values())
                time.sleep(0.05 if busy else 0.25)
        except LocalCloudError as error:
            self.error = str(error)
            log.error("%s", error)
        self.stop()
        return 1 if self.error else 0

    def on_stop(self, *_: object) -> None:
        """Remember that SIGTERM or SIGINT came."""
        self.asked_to_stop = True

    def on_reread(self, *_: object) -> None:
        """Remember that SIGHUP came."""
        self.asked_to_reread = True

    def take_lock(self) -> None:
        """Hold the lock that says a supervisor lives; the keeper inherits it."""
        self.lock = self.folder.supervisor_lock.open("ab")
        deadline = time.monotonic() + 5  # `status` holds it for an instant when it looks
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    log.error("another supervisor runs for %s", self.folder.root)
                    sys.exit(1)
                time.sleep(0.05)

    def guard(self) -> None:
        """Start the keeper, also again when it has died."""
        if self.keeper is not None and self.keeper.poll() is None:
            return
        if self.keeper is not None:
            log.warning("the keeper died (exit code %s); starting another", self.keeper.returncode)
        assert self.lock is not None
        self.keeper = subprocess.Popen(
            [sys.executable, "-m", "local_cloud.keeper", str(self.folder.root)],
            stdin=subprocess.PIPE,
            cwd=services.ROOT,
            start_new_session=True,
            pass_fds=[self.lock.fileno()],
        )

    def read_plan(self) -> None:
        """Start each part of the plan that does not run yet, or has given up."""
        self.plan = self.folder.read_plan(log.warning)
        for name in self.plan.parts:
            known = self.children.get(name)
            if known is None or known.state == "failed":
                self.children[name] = Child(PARTS[name], self.plan.ports[name])
        for child in self.children.values():
            if child.process is None and child.state == "starting":
                self.launch(child)
        self.write_status()

    def launch(self, child: Child) -> None:
        """Start one part's process; one that cannot be started is given up."""
        child.began = time.monotonic()
        try:
            self.start_process(child)
        except OSError as error:
            self.give_up(child, f"{child.part.title} cannot be started: {error}")

    def start_process(self, child: Child) -> None:
        """Clear what the part left behind and start it."""
        name = child.part.name
        processes.end_all_marked(self.folder.root, grace=1, part=name)
        state = self.folder.root / name
        state.mkdir(exist_ok=True)
        services.clear_temporary(name, state)
        path = self.folder.log(name)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        ports = {other: self.plan.ports[other] for other in self.children}
        child.process = processes.start(
            services.command(
                name,
                ports,
                state,
                idle_minutes=self.plan.idle_minutes,
                minute_seconds=self.plan.minute_seconds,
                enforce_iam=self.plan.enforce_iam,
            ),
            env=services.environment(
                name, ports, self.folder.root, enforce_iam=self.plan.enforce_iam, keys=keys.of(self.folder.root)
            ),
            cwd=services.working_folder(name, state),
            log=path,
        )
        log.info("%s: started, process %d, port %d", name, child.process.pid, child.port)

    def tend(self) -> None:
        """Look after the parts once."""
        if self.asked_to_reread:
            self.asked_to_reread = False
            self.read_plan()
        self.guard()
        for child in self.children.values():
            self.tend_to(child)
        if self.state == "starting" and all(child.state == "ready" for child in self.children.values()):
            self.state = "ready"
            log.info("all parts are ready")
        self.write_status()

    def tend_to(self, child: Child) -> None:
        """Move one part on: from starting to ready, from dead to restarting, from hopeless to failed."""
        now = time.monotonic()
        if child.state == "failed" or child.process is None:
            if child.state == "restarting" and now >= child.again_at:
                child.restarts += 1
                self.launch(child)
            return
        code = child.process.poll()
        if code is not None:
            self.on_death(child, code, now)
        elif child.state != "ready":
            if self.answers(child):
                child.seconds = now - child.began
                child.state, child.error = "ready", None
                log.info("%s: ready in %.1f s", child.part.name, child.seconds)
            elif now - child.began > child.part.patience:
                self.give_up(child, f"{child.part.title} is not healthy after {child.part.patience:.0f} s")

    def answers(self, child: Child) -> bool:
        """Say whether the part is healthy, and it is this part and no other program on its port."""
        assert child.process is not None
        return services.is_healthy(child.part.name, child.port) and child.port in processes.listening(child.process.pid)

    def on_death(self, child: Child, code: int, now: float) -> None:
        """Plan a restart, with a pause that doubles; give up when it dies too often."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        was_ready = child.state == "ready"
        child.process = None
        if self.state == "starting" and not was_ready:
            self.port_was_taken = not is_free(child.port)
            self.give_up(child, f"{child.part.title} {how} while it started")
            return
        child.deaths.append(now)
        while now - child.deaths[0] > RESTART_WINDOW:
            child.deaths.popleft()
        if len(child.deaths) > MAX_RESTARTS:
            self.give_up(child, f"{child.part.title} {how}, for the {len(child.deaths)}th time in ten minutes")
            return
        pause = 0.25 * 2 ** len(child.deaths)
        child.state, child.error, child.again_at = "restarting", f"{child.part.title} {how}", now + pause
        log.warning("%s: %s; starting again in %.1f s", child.part.name, child.error, pause)

    def give_up(self, child: Child, what: str) -> None:
        """Leave a part down. While the cloud starts, that ends everything.

        Raises
        ------
        LocalCloudError
            If the cloud was starting.
        """
        path = self.folder.log(child.part.name)
        tail = "\n".join(f"  | {line}" for line in last_lines(path, LOG_LINES_IN_ERROR))
        child.error = f"{what}. The end of {path}:\n{tail or '  | (empty)'}"
        child.state = "failed"
        log.error("%s", child.error)
        if child.process is not None:
            child.process.kill()
            child.process.wait()
            child.process = None
        processes.end_all_marked(self.folder.root, grace=1, part=child.part.name)
        if self.state == "starting":
            raise LocalCloudError(child.error)

    def stop(self) -> None:
        """Stop all parts at once, each in its own way, then whatever they left behind."""
        self.state = "stopping"
        self.write_status()
        running = [child for child in self.children.values() if child.process is not None]
        for child in running:
            assert child.process is not None
            child.process.terminate()
        began = time.monotonic()
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.0, child.part.grace - (time.monotonic() - began)))
                log.info("%s: stopped", child.part.name)
            except subprocess.TimeoutExpired:
                log.warning("%s: did not stop within %.0f s; killed", child.part.name, child.part.grace)
                child.process.kill()
                child.process.wait()
            child.process = None
            child.state = "stopped" if child.state != "failed" else "failed"
        processes.end_all_marked(self.folder.root, grace=2)
        self.state = "failed" if self.error else "stopped"
        self.write_status()
        if self.keeper is not None and self.keeper.stdin is not None:
            self.keeper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.keeper.wait(10)
        log.info("the embedded cloud has %s", self.state)

    def write_status(self) -> None:
        """Write the status file when something in it has changed."""
        status = Status.model_validate(
            {
                "pid": os.getpid(),
                "started": self.started,
                "state": self.state,
                "error": self.error,
                "port_was_taken": self.port_was_taken,
                "parts": {name: child.status() for name, child in self.children.items()},
            }
        )
        text = status.model_dump_json(indent=2)
        if text == self.last_written:
            return
        try:
            write_whole(self.folder.status_file, text)
            self.last_written = text
        except OSError as error:  # the parts go on; the next change tries again
            log.error("cannot write %s: %s", self.folder.status_file, error.strerror)


def main() -> None:
    """Run the supervisor of the folder named on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    sys.exit(Supervisor(Path(sys.argv[1])).run())


if __name__ == "__main__":
    main()
