"""Kill the pipeline during and after each of its steps, and see what the next run does again.

::

    python -m benchmarks.chaos                                # every step, about half an hour on two cores
    python -m benchmarks.chaos --steps fine-tune package      # some

One embedded cloud in a folder of its own. Before each kill everything that a run remembers is deleted; then the
pipeline is started, killed with SIGKILL at a random moment of the step ("during"), as soon as the step is done
("after"), or killed after it with the artifact store's newest file cut to half ("truncated"). The same command is run
again. Printed for each: the state in which the step was when it was killed, which steps the next run did again, whether
one of them had been finished and verified (there must be none), the seconds that the undisturbed run took for what was
not done again, and whether the package is byte for byte the one of that run.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from askline.config import STEPS

#: Of these the records are remembered between runs; the others ask the world, and are idempotent instead.
REMEMBERED = ("fetch-dataset", "fine-tune", "evaluate", "package")
ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^  ✓ ([\w-]+) +([\d.]+) s  (.*)$", re.MULTILINE)


class Again(NamedTuple):
    """What a run printed: the seconds of each step, and which records it took from an earlier run."""

    seconds: dict[str, float]
    reused: set[str]
    archive: str


class Pipeline:
    """The pipeline on one embedded cloud."""

    def __init__(self, folder: Path, training_steps: int) -> None:
        self.state = folder / "state"
        self.command = [
            *(sys.executable, "-m", "flows.full_pipeline", "--state-dir", str(self.state)),
            *("--training.max-steps", str(training_steps), "--training.checkpoint-steps", "5"),
            *("--evaluation.min-exact-match", "0", "--evaluation.beat-base", "false", "--evaluation.champion", "off"),
            *("--smoke.min-agreement", "0"),
        ]

    def start(self) -> subprocess.Popen[str]:
        """Start a run in the background."""
        return subprocess.Popen(
            self.command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def finish(self) -> Again:
        """Run to the end, which must be a promotion."""
        done = subprocess.run(self.command, cwd=ROOT, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"the run failed:\n{done.stdout}{done.stderr}")
        lines = LINE.findall(done.stdout)
        newest = max((self.state / "runs").glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns)
        report = json.loads(newest.read_text())
        return Again(
            {name: float(seconds) for name, seconds, _ in lines},
            {name for name, _, said in lines if said.endswith("reused")},
            report["package"]["archive_sha256"],
        )

    def forget(self) -> None:
        """Delete what runs remember, and what they deployed; the cloud stays up."""
        subprocess.run(
            [sys.executable, "-m", "flows.teardown", "--mlkey", "biography", "--yes", "--state-dir", str(self.state)],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        for name in ("artifacts", "work", "prefect/results"):
            shutil.rmtree(self.state / name, ignore_errors=True)

    def truncate_newest(self) -> str:
        """Cut the newest file of the artifact store to half and return the kind of artifact that it belongs to."""
        files = [path for path in (self.state / "artifacts").rglob("*") if path.is_file() and path.stat().st_size > 1]
        if not files:
            return "-"
        newest = max(files, key=lambda path: path.stat().st_mtime_ns)
        os.truncate(newest, newest.stat().st_size // 2)
        return newest.relative_to(self.state / "artifacts").parts[0]


class Watch:
    """Looks at the newest flow run's steps on the Prefect server."""

    def __init__(self, api: str) -> None:
        self._client = httpx.Client(base_url=api, timeout=10)

    def newest_run(self) -> str | None:
        """Return the id of the newest flow run."""
        found = self._post("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
        return found[0]["id"] if found else None

    def states(self, run: str) -> dict[str, str]:
        """Return the state of each step of a run."""
        found = self._post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
        return {each["name"].rpartition("-")[0]: each["state_name"] for each in found}

    def _post(self, path: str, what: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self._client.post(path if path.startswith("/") else f"/{path}", json=what)
        answer.raise_for_status()
        return list(answer.json())


def kill_at(pipeline: Pipeline, watch: Watch, step: str, *, after: bool, wait: float) -> dict[str, str]:
    """Start the pipeline, kill it in or after ``step``, and return the steps' states as the server knows them."""
    before = watch.newest_run()
    process = pipeline.start()
    deadline = time.monotonic() + 600
    states: dict[str, str] = {}
    while process.poll() is None and time.monotonic() < deadline:
        run = watch.newest_run()
        states = watch.states(run) if run and run != before else {}
        if states.get(step) == ("Completed" if after else "Running"):
            break
        if not after and states.get(step) == "Completed":  # too short to be met while it runs
            break
        time.sleep(0.05)
    else:
        if process.poll() is not None:
            raise SystemExit(f"the run ended before {step}:\n{process.communicate()[0]}")
    if not after:
        time.sleep(wait)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1)  # the server hears of the last states
    run = watch.newest_run()
    return watch.states(run) if run and run != before else states


@contextmanager
def embedded_cloud(folder: Path) -> Iterator[str]:
    """Run the embedded cloud with its Prefect server in ``folder`` and give the server's API."""
    command = [sys.executable, "-m", "local_cloud"]
    options = ["--state-dir", str(folder / "state")]
    try:
        started = subprocess.run(
            [*command, "up", "--json", *options], cwd=ROOT, capture_output=True, text=True, check=True
        )
        yield json.loads(started.stdout)["prefect_api"]
    finally:
        subprocess.run([*command, "down", *options], cwd=ROOT, capture_output=True, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a finished step was done again or a package differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--kinds", nargs="+", choices=("during", "after", "truncated"), default=None)
    parser.add_argument("--training-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)  # noqa: S311 - not a secret
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, embedded_cloud(Path(folder)) as api:
        pipeline, watch = Pipeline(Path(folder), options.training_steps), Watch(api)
        whole = pipeline.finish()
        total = sum(whole.seconds.values())
        print(f"undisturbed: {total:.0f} s, package sha256 {whole.archive[:12]}\n")
        head = f"{'killed':<28}{'step was':<11}{'done again':<44}{'saved':>7}  package"
        print(head + "\n" + "-" * len(head), flush=True)
        for step in options.steps:
            for kind in options.kinds or ("during", "after", "truncated"):
                pipeline.forget()
                wait = rng.uniform(0.05, 0.9) * whole.seconds.get(step, 1.0)
                states = kill_at(pipeline, watch, step, after=kind != "during", wait=wait)
                damaged = pipeline.truncate_newest() if kind == "truncated" else None
                again = pipeline.finish()
                redone = [name for name in REMEMBERED if name in again.seconds and name not in again.reused]
                made = {"dataset": "fetch-dataset", "model": "fine-tune", "scores": "evaluate"}
                must_stay = {name for name in REMEMBERED if states.get(name) == "Completed"}
                must_stay -= {made.get(damaged, damaged)} if damaged else set()
                needless = sorted(must_stay & set(redone))
                same = again.archive == whole.archive
                wrong += bool(needless) or not same
                print(
                    f"{kind + ' ' + step:<28}{states.get(step, 'not begun'):<11}{', '.join(redone) or 'nothing':<44}"
                    f"{sum(whole.seconds[name] for name in again.reused):>5.0f} s  {'the same' if same else 'ANOTHER'}"
                    + (f"  NEEDLESSLY: {', '.join(needless)}" if needless else "")
                    + (f"  ({damaged} was cut)" if damaged else ""),
                    flush=True,
                )
    print(f"\n{wrong} of the kills ended otherwise than they should" if wrong else "\nall as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
