"""One deployment of an MLKey at a time, between processes that use one Prefect server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from askline.records import Target
from benchmarks.redeploy_act import Bench
from tasks.deploy_serverless import registry

pytestmark = pytest.mark.slow

HOLD = """
import sys, time
from prefect import flow
from askline.errors import BusyError
from tasks.running.lock import one_at_a_time

@flow(name="hold-a-lock")
def hold(name: str, wait: float, until: str):
    try:
        with one_at_a_time(name, wait_seconds=wait):
            print("in", time.monotonic(), flush=True)
            sys.stdin.readline()
            print("out", time.monotonic(), flush=True)
    except BusyError as error:
        print("busy", error, flush=True)

hold(sys.argv[1], float(sys.argv[2]), "")
"""


class Holder:
    """A flow in a process of its own that is in a block of a name until it is told to leave it."""

    def __init__(self, script: Path, api: str, name: str, wait: float = 120) -> None:
        environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(script.parent / "home")}
        environment |= {"PYTHONPATH": str(REPOSITORY), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        self.process = subprocess.Popen(
            [sys.executable, str(script), name, str(wait)],
            cwd=script.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> tuple[str, str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word in ("in", "out", "busy"):
                return word, rest
        raise AssertionError("it ended without a word")

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    made: list[Holder] = []
    yield made
    for holder in made:
        holder.process.kill()
        holder.process.communicate()


def test_the_second_waits_its_time_and_others_do_not(
    cloud_with_prefect: Target, tmp_path: Path, holders: list[Holder]
) -> None:
    script, api = tmp_path / "hold.py", str(cloud_with_prefect.prefect_api)
    script.write_text(HOLD)
    first = Holder(script, api, "deploy queue-test, a")
    holders.append(first)
    assert first.says()[0] == "in"
    second, other = Holder(script, api, "deploy queue-test, a"), Holder(script, api, "deploy queue-test, b")
    impatient = Holder(script, api, "deploy queue-test, a", wait=0.5)
    holders += [second, other, impatient]
    assert other.says()[0] == "in", "another MLKey goes side by side"
    word, message = impatient.says()
    assert word == "busy"
    assert "deploy.queue_seconds" in message
    assert "--active-slots 0" in message
    first.leave()
    left, entered = first.says(), second.says()
    assert (left[0], entered[0]) == ("out", "in")
    assert float(entered[1]) > float(left[1]), "one after the other"
    second.leave()
    other.leave()
    assert second.says()[0] == other.says()[0] == "out"


ACT = """
import json, sys
from pathlib import Path
from prefect import flow
from askline.config import DeployConfig, EvaluationConfig, PackageConfig, PipelineConfig, SmokeConfig
from askline.records import Gate, Run, Target
from askline.store import ArtifactStore
from benchmarks.redeploy_act import IMAGE, make_package
from tasks import steps
from tasks.deploy_serverless.plan import plan_deploy
from tasks.running.run_step import run_step
from tasks.report.report import Findings
from tasks.package.upload import upload_package
from tasks.workplace import Workplace
from support.tiny_datasets import write_dataset
from tiny_records import DATASET, MODEL

target, folder, version, breaks = Target.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]

@flow(name="deploy-as-one-act")
def deploy():
    deploy = DeployConfig(mlkey="one-act", memory_mb=1024, image=IMAGE)
    run = Run(run_id="r-" + version, state_dir=folder, target=target)
    store = ArtifactStore(folder / "artifacts")
    package, scores = make_package(store, version, breaks or None)
    sent = upload_package(PackageConfig(), package, mlkey="one-act", place=Workplace.of(run), tags={})
    found = Findings(PipelineConfig(state_dir=folder, deploy=deploy), run)
    if "stale" in sys.argv:  # compared when nothing was promoted yet
        dataset = write_dataset(store, [("Seen?", "yes", None)], [("Who was she?", "?", None)])
        with steps.deployment(deploy, found, run):
            gate = Gate(passed=True, standing=0)
            return steps.still_better(EvaluationConfig(), gate, MODEL, scores, dataset, "one-act", run).reasons
    plan = plan_deploy(deploy, PackageConfig(), package, target=target)
    with steps.deployment(deploy, found, run):
        endpoint = found.keep(run_step(steps.deploy[deploy.target], deploy, plan, sent, run))
        print("deployed", endpoint.config_name, flush=True)
        smoke = run_step(steps.smoke_invoke, SmokeConfig(questions=2), endpoint, scores, package, run)
        proved = (endpoint, smoke, None, scores, package, DATASET)
        run_step(steps.promote, deploy, Gate(passed=True), *proved, run)
    return endpoint.config_name

try:
    print("done", deploy())
except BaseException as error:
    print("failed", type(error).__name__, json.dumps("\\n".join([str(error), *getattr(error, "__notes__", ())])))
"""

DATASET = """
from askline.records import DatasetRef, ModelRef, SourceRef

MODEL = ModelRef(
    sha256="e" * 64,
    base="scratch",
    base_revision=None,
    dataset_sha256="d" * 64,
    precision="fp32",
    prompt="{question}",
    max_source_tokens=64,
    max_target_tokens=16,
    parameters=1,
    steps=1,
    epochs=1,
    train_loss=1,
    seconds=1,
)
DATASET = DatasetRef(
    sha256="d" * 64,
    source=SourceRef(kind="file", location="/q.csv", revision="1"),
    splits={"train": 1, "test": 1},
    rejected=0,
    question_column="q",
    answer_column="a",
    split_by="wording",
    unanswerable="I don't know",
)
"""


def test_the_steps_undo_what_does_not_answer_and_what_is_interrupted(
    cloud_with_prefect: Target, tmp_path: Path
) -> None:
    target = cloud_with_prefect
    (tmp_path / "act.py").write_text(ACT)
    (tmp_path / "tiny_records.py").write_text(DATASET)
    environment = {**os.environ, "PREFECT_API_URL": str(target.prefect_api), "PREFECT_HOME": str(tmp_path / "home")}
    environment |= {
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }

    def act(version: str, breaks: str = "", interrupt: signal.Signals | None = None, *more: str) -> str:
        command = [sys.executable, str(tmp_path / "act.py"), target.model_dump_json(), str(tmp_path), version, breaks]
        process = subprocess.Popen(
            [*command, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        if interrupt is not None:
            for line in process.stdout:
                if line.startswith("deployed"):
                    time.sleep(1)  # it is being asked
                    process.send_signal(interrupt)
                    break
        out, err = process.communicate(timeout=300)
        return next((line for line in out.splitlines() if line.startswith(("done", "failed"))), err)

    first = act("one")
    assert first.startswith("done askline-one-act-"), first
    failed = act("odd", "answer")
    assert failed.startswith("failed DeployError")
    assert "gave the evaluation's answer to 0 of 2 questions" in failed
    assert "What served before was put back, and was verified" in failed
    assert f"is InService on {first.removeprefix('done ')}" in failed
    stale = act("later", "", None, "stale")
    assert stale.startswith("done ('not proven better than the champion"), stale
    bench = Bench(target, tmp_path)
    assert (bench.answering("one-act"), bench.orphans("one-act")) == ("one", set())
    # Prefect ends a run that is cancelled with SIGTERM, which its engine listens to, and then ends the process by it.
    ends = {signal.SIGINT: "failed KeyboardInterrupt", signal.SIGHUP: "failed Told", signal.SIGTERM: ""}
    for interrupt, said in ends.items():
        broken_off = act("two", "hold", interrupt)
        assert broken_off.startswith(said), (interrupt, broken_off)
        if said:
            assert "What served before was put back, and was verified" in broken_off
        assert (bench.answering("one-act"), bench.orphans("one-act")) == ("one", set()), interrupt
        entry = registry.resolve("one-act", target)
        assert entry is not None
        assert entry.model_version == "one"
