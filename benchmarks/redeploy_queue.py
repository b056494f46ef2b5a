"""Two deployments of one MLKey at once, two of different MLKeys, and one whose holder was killed: who waits for whom.

::

    python -m benchmarks.redeploy_queue

It starts an embedded cloud with a Prefect server on free ports in a temporary folder. Each deployment is a flow in a
process of its own, and takes the flow's own lock around upload, deployment, smoke test and promotion.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from askline.clients import LocalKeys
from askline.records import Target
from benchmarks.redeploy_act import ROOT, Bench
from local_cloud import control


def main() -> int:
    """Run it and return the exit code."""
    if sys.argv[1:] == ["--one"]:
        return _one(json.loads(sys.stdin.read()))
    with tempfile.TemporaryDirectory(prefix="askline-queue-") as folder:
        place = Path(folder)
        try:
            target = control.up(place / "cloud", without=("hub",))
            return 0 if _queues(target, place) else 1
        finally:
            control.down(place / "cloud")


def _queues(target: Target, place: Path) -> bool:
    bench = Bench(target, place / "packages")
    print(f"{'':<44}{'began':>8}{'ended':>8}  how")
    started = time.monotonic()
    both = [_start(target, place, "same", version) for version in ("one", "two")]
    same = [
        _end(each, started, f"MLKey same, version {version}")
        for each, version in zip(both, ("one", "two"), strict=True)
    ]
    beside = [_start(target, place, mlkey, "one") for mlkey in ("left", "right")]
    apart = [_end(each, started, f"MLKey {mlkey}") for each, mlkey in zip(beside, ("left", "right"), strict=True)]
    dead = _start(target, place, "killed", "one", hold=300)
    _read(dead)
    dead.kill()
    dead.wait()
    killed_at = time.monotonic()
    after = _end(_start(target, place, "killed", "two"), started, "MLKey killed, after kill -9 of its holder")
    waited = time.monotonic() - killed_at
    first, second = sorted(same, key=lambda span: span["began"])
    one_by_one = second["began"] >= first["ended"]
    overlap = max(span["began"] for span in apart) < min(span["ended"] for span in apart)
    print(f"\nof the same MLKey one by one: {one_by_one}; it answers as {bench.answering('same')}")
    print(f"of two MLKeys side by side: {overlap}")
    print(f"after kill -9 of the holder: done {waited:.0f} s later")
    ended_well = all(span["said"] in ("created", "updated") for span in (*same, *apart, after))
    return one_by_one and overlap and ended_well and not bench.orphans("same")


def _start(target: Target, place: Path, mlkey: str, version: str, hold: float = 0) -> "subprocess.Popen[str]":
    order = {
        "target": target.model_dump(),
        "folder": str(place / "packages"),
        "mlkey": mlkey,
        "version": version,
        "kind": "serverless",
        "breaks": None,
        "hold": hold,
    }
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(target.prefect_api),
        "PREFECT_API_AUTH_STRING": LocalKeys.of(target).prefect_auth or "",
        "PREFECT_HOME": str(place / "home"),
    }
    environment["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
    environment["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    command = [sys.executable, "-m", "benchmarks.redeploy_queue", "--one"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    return process


def _read(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError("a deployment ended without a word")


def _end(process: "subprocess.Popen[str]", started: float, what: str) -> dict[str, Any]:
    began, ended = _read(process)["at"], _read(process)
    process.wait()
    span = {"began": began - started, "ended": ended["at"] - started, "said": ended["said"]}
    print(f"{what:<44}{span['began']:>7.1f}s{span['ended']:>7.1f}s  {span['said']}")
    return span


def _one(order: dict[str, Any]) -> int:
    from prefect import flow

    from benchmarks.redeploy_act import act_in_process
    from tasks.running.lock import one_at_a_time

    hold = order.pop("hold")

    @flow(name="redeploy")
    def deploy() -> None:
        with one_at_a_time(f"deploy {order['mlkey']}", wait_seconds=240):
            print(json.dumps({"at": time.monotonic()}), flush=True)
            time.sleep(hold)
            done = act_in_process(order)
            print(json.dumps({"at": time.monotonic(), "said": done.said}), flush=True)

    deploy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
