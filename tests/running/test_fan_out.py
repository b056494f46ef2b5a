"""Evaluating with Dask workers: the same record as in one process, whoever answers and whoever dies."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, prefect_at
from support.tiny_datasets import NOWHERE, UNANSWERABLE, small_rows, write_dataset

from askline.config import EvaluationConfig, TrainingConfig
from askline.errors import WorkersError
from askline.records import DatasetRef, FanOut, ModelRef, Run, Scores
from askline.store import ArtifactStore
from tasks.evaluate.evaluate import evaluate_model
from tasks.fine_tune.fine_tune import fine_tune
from tasks.running import on_a_worker, workers
from tasks.second_opinion.second_opinion import no_second_opinion
from tasks.t5.decoding import cut_for_workers
from tasks.workplace import Workplace

HELD_OUT = [(f"Where {'really ' * (number % 7)}was she born, {number}?", "Warsaw", None) for number in range(30)]
HELD_OUT += [("How much is seven times two?", UNANSWERABLE, None)]
#: Many batches, the last one short: 24 training questions and 31 held-out ones.
CONFIG = EvaluationConfig(batch_size=4)


# --- how questions are cut --------------------------------------------------------------------------------------------


class Words:
    """A tokenizer for which a word is a token."""

    def __call__(self, texts: list[str], *, truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        assert truncation
        return {"input_ids": [[1] * min(len(text.split()), max_length) for text in texts]}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 23])
@pytest.mark.parametrize("parts", [1, 2, 5, 50])
def test_parts_hold_every_question_once_and_the_batches_of_one_process(count: int, parts: int) -> None:
    questions = ["w " * (1 + number * 7 % 5) for number in range(count)]

    def cut(those: list[str], into: int) -> list[list[int]]:
        return cut_for_workers(Words(), those, prompt="{question}", max_source_tokens=9, batch_size=4, parts=into)

    found = cut(questions, parts)
    assert sorted(index for part in found for index in part) == list(range(count))
    assert len(found) == min(parts, -(-count // 4))
    whole = [index for part in cut(questions, 1) for index in part]
    batches = {tuple(whole[start : start + 4]) for start in range(0, count, 4)}
    for part in found:
        # A worker sorts its part again, which must leave it as it is.
        assert cut([questions[index] for index in part], 1) == [list(range(len(part)))]
        assert {tuple(part[start : start + 4]) for start in range(0, len(part), 4)} <= batches


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"scheduler": "10.0.0.7:8786"},
        {"scheduler": "tcp://10.0.0.7"},
        {"workers": 2, "scheduler": "tcp://10.0.0.7:8786"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"workers|scheduler"):
        EvaluationConfig(**options)


def test_a_missing_prefect_dask_is_said_before_anything_is_done(tmp_path: Path) -> None:
    """In a process that has all but prefect-dask."""
    code = (
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "from askline.errors import ConfigError\n"
        "from askline.records import FanOut\n"
        "from tasks.running import workers\n"
        "sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
        "workers.require(FanOut())\n"
        "try:\n    workers.require(FanOut(workers=2))\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "prefect-dask is not installed" in done.stdout
    assert "pip install -c constraints.txt -e '.[cloud-scale]'" in done.stdout


class Ended:
    """A part's future that ended so."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def result(self) -> None:
        raise self.error


def test_what_dask_says_of_a_part_is_said_to_a_person() -> None:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    def said(error: Exception) -> WorkersError:
        with pytest.raises(WorkersError) as caught:
            workers.Workers(None, None, "tcp://10.0.0.7:8786")._result(Ended(error))
        return caught.value

    # What a scheduler without the code was seen to answer.
    unreadable = said(RuntimeError("Error during deserialization of the task graph. This frequently\noccurs if"))
    assert "they lack this code. Install the same checkout there" in str(unreadable)
    assert "they lack this code" in str(said(ModuleNotFoundError("No module named 'tasks'")))
    gone = said(CancelledError("scheduler-connection-lost"))
    assert "scheduler at tcp://10.0.0.7:8786 has gone in the middle" in str(gone)
    assert gone.retryable
    killed = said(KilledWorker("answer_part-1", None, 3))  # type: ignore[arg-type]
    assert "4 Dask workers at tcp://10.0.0.7:8786 died one after the other of the same part" in str(killed)
    assert not killed.retryable
    with pytest.raises(RuntimeError, match="a bug"):
        workers.Workers(None, None, "")._result(Ended(RuntimeError("a bug")))


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server alone, which the settings of this process name."""
    import httpx

    home = tmp_path_factory.mktemp("prefect")
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=home, env={**os.environ, "PREFECT_HOME": str(home)}, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{api}/health", timeout=5).status_code == 200:
                    break
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.2)
        with prefect_at(api, PREFECT_LOGGING_TO_API_ENABLED=False, PREFECT_HOME=home):
            yield api
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def store(state: Path) -> ArtifactStore:
    return ArtifactStore(state / "artifacts")


@pytest.fixture(scope="module")
def dataset(store: ArtifactStore) -> DatasetRef:
    return write_dataset(store, small_rows(), HELD_OUT)


@pytest.fixture(scope="module")
def model(store: ArtifactStore, dataset: DatasetRef, state: Path) -> ModelRef:
    config = TrainingConfig(max_steps=40, batch_size=24, augment=False, max_target_tokens=8)
    return fine_tune(config, dataset, place=Workplace(NOWHERE, state, store=store))


@pytest.fixture(scope="module")
def alone(model: ModelRef, dataset: DatasetRef, store: ArtifactStore, state: Path) -> Scores:
    """What one process measures."""
    return evaluate_model(CONFIG, model, dataset, place=Workplace(NOWHERE, state, store=store))


def a_run(state: Path, **fan: Any) -> Run:
    return Run(run_id="r", state_dir=state, target=NOWHERE, fan_out=FanOut(**fan))


def anew(scores: Scores, store: ArtifactStore) -> None:
    """Take the record away, so that the same one can only come from measuring again."""
    shutil.rmtree(store.path("scores", scores.sha256))


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and two workers, as a person starts them, that know nothing of the run's environment."""
    home = tmp_path_factory.mktemp("dask")
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ASKLINE_"))}
    here = (REPOSITORY, REPOSITORY / "tests", Path(__file__).parent)  # the flow of a test lies there
    path = os.pathsep.join(map(str, here))
    environment = {**known, "PYTHONPATH": path, "PREFECT_HOME": str(home / "prefect")}
    with ExitStack() as stack, (home / "log").open("ab") as log:

        def start(*command: str) -> None:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command], cwd=home, env=environment, stdout=log, stderr=log
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)

        file = home / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        deadline = time.monotonic() + 60
        while not file.is_file() or not file.read_text().strip().endswith("}"):
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        address = str(json.loads(file.read_text())["address"])
        start("worker", address, "--host", "127.0.0.1", "--no-dashboard", "--nworkers", "2", "--nthreads", "1")
        yield address


@pytest.mark.slow
def test_a_running_scheduler_gives_the_record_of_one_process(
    prefect_api: str,
    scheduler: str,
    alone: Scores,
    model: ModelRef,
    dataset: DatasetRef,
    store: ArtifactStore,
    state: Path,
) -> None:
    """Through the step itself, in a flow, so that the parts are there for a person to see."""
    from prefect import flow, get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.runtime import flow_run

    from tasks import steps
    from tasks.running.run_step import run_step

    anew(alone, store)
    ids = []

    @flow(name="fan-out-test")
    def measure() -> Scores:
        ids.append(flow_run.id)
        config = CONFIG.model_copy(update={"scheduler": scheduler})
        return run_step(
            steps.evaluate, config, model, dataset, "free", no_second_opinion(model), a_run(state, scheduler=scheduler)
        )

    scores = measure()
    assert scores.identity() == alone.identity()
    store.verify("scores", scores.sha256)
    wanted = {"answer tuned, part 1 of 6", "answer tuned, part 6 of 6", "answer untuned base, part 6 of 6"}
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
            finished = {run.name for run in runs if run.state_name == "Completed"}
            if wanted <= finished:
                break
            assert time.monotonic() < deadline, finished
            time.sleep(0.5)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(
    prefect_api: str,
    scheduler: str,
    alone: Scores,
    model: ModelRef,
    dataset: DatasetRef,
    store: ArtifactStore,
    state: Path,
) -> None:
    """One of the two is killed when the first part is back, with parts in hand."""
    from distributed import Client

    anew(alone, store)
    with Client(scheduler, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))
    killed: list[int] = []

    def kill_one(share: float, message: str = "") -> None:
        if "workers" in message and not killed:
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    with workers.asking(CONFIG, model, a_run(state, scheduler=scheduler)) as ask:
        scores = evaluate_model(
            CONFIG, model, dataset, ask=ask, place=Workplace(NOWHERE, state, store=store, progress=kill_one)
        )
    assert killed
    assert scores.identity() == alone.identity()
    assert json.loads((store.verify("scores", scores.sha256) / "scores.json").read_text())["test"]


@pytest.mark.slow
def test_workers_of_this_machine_share_it_and_listen_to_nobody_else(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil
    from prefect import task

    @task(persist_result=False)
    def about(part: int) -> tuple[int, str, list[str]]:
        import os
        import time

        import psutil

        time.sleep(0.5)  # long enough that the other worker takes a part too
        heard = [at.laddr.ip for at in psutil.Process().net_connections("tcp") if at.status == "LISTEN"]
        return os.getpid(), os.environ["OMP_NUM_THREADS"], heard

    monkeypatch.delenv("OMP_NUM_THREADS")
    with workers.workers(FanOut(workers=2), a_run(tmp_path)) as pool:
        assert pool.count == 2
        found = [result for _, result in pool.run(about, [0, 1, 2, 3], label="about")]
        here = {at.laddr.ip for at in psutil.Process().net_connections("tcp") if at.status == "LISTEN"}
    pids = {pid for pid, _, _ in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert {threads for _, threads, _ in found} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert {address for _, _, heard in found for address in heard} | here == {"127.0.0.1"}
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.slow
def test_the_part_of_a_dead_worker_is_done_by_another(prefect_api: str, scheduler: str, tmp_path: Path) -> None:
    from prefect import task

    folder = str(tmp_path)

    @task(persist_result=False)
    def note(part: int) -> tuple[int, int]:
        import os
        import time
        from pathlib import Path

        mark = Path(folder, str(part))
        if part == 1 and not mark.exists():
            mark.write_text(str(os.getpid()))
            time.sleep(120)
        return part, os.getpid()

    mark = tmp_path / "1"
    with workers.workers(FanOut(scheduler=scheduler), a_run(tmp_path)) as pool:
        found = {}
        for number, result in pool.run(note, [0, 1, 2, 3, 4, 5], label="note"):
            found[number] = result
            if len(found) == 5:  # all but the one that sleeps
                os.kill(int(mark.read_text()), signal.SIGKILL)
    assert {number: part for number, (part, _) in found.items()} == {number: number for number in range(6)}
    assert found[1][1] != int(mark.read_text())


@pytest.mark.slow
def test_an_error_of_a_part_is_the_runs_error_and_a_retryable_one_is_tried_again(
    prefect_api: str, scheduler: str, model: ModelRef, state: Path
) -> None:
    run = a_run(state, scheduler=scheduler)
    lost = model.model_copy(update={"sha256": "0" * 64})
    part = on_a_worker.EvaluationPart("tuned", ("Who?",), lost, CONFIG, run, on_a_worker.versions())
    with (
        workers.workers(run.fan_out, run) as pool,
        pytest.raises(WorkersError, match=r"does not find the model 000000000000: .* --artifact-store"),
    ):
        list(pool.run(workers.answer_part, [part], label="lost"))


@pytest.mark.slow
def test_nobody_at_the_address_and_nobody_who_works(
    prefect_api: str, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(workers, "NOBODY_SECONDS", 0.5)
    address = f"tcp://127.0.0.1:{free_port}"
    with (
        pytest.raises(WorkersError, match=f"no Dask scheduler answers at {address}") as caught,
        workers.workers(FanOut(scheduler=address), a_run(tmp_path)),
    ):
        pass
    assert caught.value.retryable
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as empty,
        pytest.raises(WorkersError, match=r"nobody works for .* dask worker tcp://"),
        workers.workers(FanOut(scheduler=empty.scheduler_address), a_run(tmp_path)),
    ):
        pass


# --- on a worker ------------------------------------------------------------------------------------------------------


@pytest.fixture
def part(model: ModelRef, state: Path) -> on_a_worker.EvaluationPart:
    questions = tuple(question for question, _, _ in HELD_OUT[:3])
    return on_a_worker.EvaluationPart("tuned", questions, model, CONFIG, a_run(state), on_a_worker.versions())


@pytest.mark.slow
def test_another_machine_takes_the_model_from_the_shared_place(
    part: on_a_worker.EvaluationPart,
    model: ModelRef,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run whose state folder is not on this machine: only what is shared can be had."""
    monkeypatch.setenv("ASKLINE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    here = on_a_worker.answer_evaluation(part)
    away = {"state_dir": tmp_path / "not-here"}
    monkeypatch.setattr(on_a_worker, "_loaded", None)
    with pytest.raises(WorkersError, match=r"not-here alone: let workers on other machines see that folder"):
        on_a_worker.answer_evaluation(replaced(part, run=part.run.model_copy(update=away)))
    shared = tmp_path / "shared"
    run = part.run.model_copy(update={**away, "artifact_store": str(shared)})
    with pytest.raises(WorkersError, match="a folder must be mounted there"):
        on_a_worker.answer_evaluation(replaced(part, run=run))
    from askline.shared_artifacts import SharedArtifacts

    SharedArtifacts(str(shared)).put("model", model.sha256, store.path("model", model.sha256))
    assert on_a_worker.answer_evaluation(replaced(part, run=run)) == here
    assert (tmp_path / "home" / ".askline" / "artifacts" / "model" / model.sha256).is_dir()
    assert not (tmp_path / "not-here").exists()


@pytest.mark.slow
def test_other_versions_are_refused(part: on_a_worker.EvaluationPart) -> None:
    expected = {**part.versions, "torch": "1.0", "askline's code": "0" * 12}
    with pytest.raises(WorkersError, match=r"has torch .* instead of 1\.0, askline's code .* start the worker again"):
        on_a_worker.answer_evaluation(replaced(part, versions=expected))


def replaced(part: on_a_worker.EvaluationPart, **changes: Any) -> on_a_worker.EvaluationPart:
    from dataclasses import replace

    return replace(part, **changes)
