"""Training in two real processes on the CPU (gloo), started by torch's own launcher."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.torchrun import base_in, dataset_in, gone, losses, make_job, once_there, ranks

from askline.config import ClusterConfig
from askline.errors import TrainingError, TrainingStoppedError
from tasks.fine_tune.checkpoints import WRITING, checkpoints_in, newest_whole
from tasks.fine_tune.job import JobResult, TrainingJob, run_job
from tasks.fine_tune.launch.entry import main
from tasks.fine_tune.launch.events import Listener, ProcessEvent, tell
from tasks.fine_tune.launch.torchrun import check_divides, launch_options, run_with_torchrun

REPOSITORY = Path(__file__).parents[2]
STEPS = 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset_in(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def base(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_in(tmp_path_factory.mktemp("base"), dataset, tmp_path_factory.mktemp("tokenizer"))


Make = Callable[..., TrainingJob]


@pytest.fixture(scope="module")
def job_in(dataset: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(name: str, *, steps: int = STEPS, restarts: int = 0, **options: Any) -> TrainingJob:
        cluster = ClusterConfig(processes=2, restarts=restarts)
        return make_job(
            tmp_path_factory.mktemp(name), dataset=dataset, base=base, steps=steps, cluster=cluster, **options
        )

    return make


@pytest.fixture(scope="module")
def pair(job_in: Make) -> tuple[TrainingJob, JobResult, list[str]]:
    """Two processes that nothing happens to."""
    told: list[str] = []
    job = job_in("pair")
    return job, run_with_torchrun(job, progress=lambda share, message="": told.append(message)), told


@pytest.mark.slow
def test_two_processes_learn_as_one_with_the_doubled_batch(
    job_in: Make, pair: tuple[TrainingJob, JobResult, list[str]]
) -> None:
    two, result, told = pair
    one = job_in("one")
    run_job(one)
    # Each process has four of the step's eight rows. The sums are the same but for the order in which they are added
    # up, which moves the last bits of fp32. Over a few steps that stays below two millionths of the loss; later steps
    # start from weights that differ by then.
    assert losses(two)[:6] == pytest.approx(losses(one)[:6], rel=2e-6)
    assert losses(two) == pytest.approx(losses(one), rel=2e-3)
    assert len(losses(two)) == STEPS == result.steps
    assert any(message.startswith(f"step {STEPS}/{STEPS}") for message in told), told
    assert {path.name for path in two.output.iterdir()} == {path.name for path in one.output.iterdir()}


@pytest.mark.slow
def test_after_a_kill_of_one_process_all_go_on_from_the_checkpoint(
    job_in: Make, pair: tuple[TrainingJob, JobResult, list[str]]
) -> None:
    job = job_in("killed", restarts=1)
    started: list[psutil.Process] = []

    def kill() -> None:
        started.extend(ranks(job.checkpoints))
        started[1].kill()

    once_there(job.checkpoints / "checkpoint-3" / "manifest.json", kill)
    told: list[str] = []
    run_with_torchrun(job, progress=lambda share, message="": told.append(message))
    assert len(started) == 2
    assert gone(started)
    starts = [place for place, message in enumerate(told) if message.startswith("loading the base")]
    assert len(starts) == 2
    later = [message for message in told[starts[1] :] if message.startswith("step ")]
    assert all(int(message.split()[1].partition("/")[0]) > 3 for message in later), later
    assert losses(job) == losses(pair[0])


@pytest.mark.slow
def test_no_process_outlives_a_run_that_is_killed(job_in: Make) -> None:
    job = job_in("ended", steps=100_000)
    job.checkpoints.mkdir(parents=True)
    path = job.checkpoints.parent / "job-of-the-parent.json"
    path.write_text(job.model_dump_json())
    script = (
        "import sys; from pathlib import Path; from tasks.fine_tune.job import TrainingJob;"
        "from tasks.fine_tune.launch.torchrun import run_with_torchrun;"
        "run_with_torchrun(TrainingJob.model_validate_json(Path(sys.argv[1]).read_text()))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=REPOSITORY, env={**os.environ})
    try:
        deadline = time.monotonic() + 120
        while not (job.checkpoints / "checkpoint-3").exists() and time.monotonic() < deadline:
            assert parent.poll() is None
            time.sleep(0.01)
        started = ranks(job.checkpoints)
        assert len(started) == 2
    finally:
        parent.kill()
        parent.wait()
    assert gone(started, 60)
    # The kernel sent them SIGTERM, on which they stop with a checkpoint that is whole.
    assert newest_whole(job.checkpoints, processes=2) == checkpoints_in(job.checkpoints)[0]
    assert not (job.checkpoints / WRITING).exists()


@pytest.mark.slow
def test_the_launcher_names_the_process_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, time\nif os.environ['RANK'] == '1': os.kill(os.getpid(), 9)\ntime.sleep(60)\n")
    options = launch_options(ClusterConfig(processes=2, restarts=0), 2, run_id="named")
    done = subprocess.run(
        [sys.executable, "-m", "tasks.fine_tune.launch.agent", *options, str(script)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    listener = Listener(lambda share, message="": None)
    for line in done.stdout.splitlines():
        listener.hear(line)
    assert str(listener.failure("")) == "training process 1 failed: it was ended by the signal SIGKILL"


def test_a_wrong_job_ends_with_the_processes_own_message(
    job_in: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    path = tmp_path / "job.json"
    path.write_text('{"dataset": "nowhere"}')
    with pytest.raises(SystemExit, match="1"):
        main(["--job", str(path), "--steps", "6"])
    listener = Listener(lambda share, message="": None)
    for line in capsys.readouterr().out.splitlines():
        listener.hear(line)
    assert "training process 1 failed: ValidationError" in str(listener.failure(""))


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    check_divides(64, 4)
    with pytest.raises(TrainingError, match=r"a batch of 10 .* 4 processes; choose --training.batch-size 8"):
        check_divides(10, 4)


def test_several_machines_meet_at_the_rendezvous() -> None:
    cluster = ClusterConfig(nodes=2, rendezvous="node-0.example:29500", processes=8, restarts=3)
    assert launch_options(cluster, 8, run_id="key") == [
        *("--nnodes", "2", "--nproc-per-node", "8", "--max-restarts", "3"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "key", "--rdzv-endpoint", "node-0.example:29500"),
    ]
    with pytest.raises(ValueError, match=r"needs cluster\.rendezvous"):
        ClusterConfig(nodes=2)


# --- what the processes say -------------------------------------------------------------------------------------------


def lines(capsys: pytest.CaptureFixture[str], *events: ProcessEvent) -> list[str]:
    for event in events:
        tell(event)
    return capsys.readouterr().out.splitlines()


def test_progress_is_told_and_other_lines_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[float, str]] = []
    listener = Listener(lambda share, message="": told.append((share, message)))
    for line in [
        *lines(capsys, ProcessEvent(share=0.5, message="step 1/2")),
        "a warning",
        '{"askline_training": {"at"',
    ]:
        listener.hear(line)
    assert told == [(0.5, "step 1/2")]
    assert list(listener.tail) == ["a warning", '{"askline_training": {"at"']
    assert "a warning" in str(listener.failure("torchrun ended with exit code 1"))


def test_of_several_errors_the_cause_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    listener = Listener(lambda share, message="": None)
    for line in lines(
        capsys,
        ProcessEvent(error="the loss is nan", expected=True, rank=0, attempt=0, at=1),
        ProcessEvent(error="RuntimeError: connection reset", rank=0, attempt=1, at=2),
        ProcessEvent(error="it was ended by the signal SIGKILL", rank=1, attempt=1, killed=True, at=3),
    ):
        listener.hear(line)
    assert str(listener.failure("")) == "training process 1 failed: it was ended by the signal SIGKILL"
    for line in lines(capsys, ProcessEvent(error="asked to stop", expected=True, stopped=True, attempt=1)):
        listener.hear(line)
    assert isinstance(listener.failure(""), TrainingStoppedError)
