"""A run that ended on the server while its process stood still does nothing more, and what it ended as stays."""

import threading
import time
from pathlib import Path

import pytest
from prefect import flow, pause_flow_run, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed, Pending, Running
from prefect.testing.utilities import prefect_test_harness

from askline.records import Run, SourceRef, Target
from tasks.running import fence
from tasks.running.run_step import run_step

pytestmark = pytest.mark.slow

done: list[str] = []
ids: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def nothing_done_yet():
    done.clear()
    ids.clear()


@task(name="resolve-source")
def train(run: Run) -> SourceRef:
    done.append("trained")
    return SourceRef(kind="file", location="q.csv", revision="1")


@task(name="push-to-hf")
def publish(run: Run) -> SourceRef:
    done.append("published")
    return SourceRef(kind="file", location="q.csv", revision="1")


@task(name="restore")
def restore(run: Run) -> SourceRef:
    done.append("restored")
    return SourceRef(kind="file", location="q.csv", revision="1")


def meanwhile(*states: State) -> None:
    """Do to the run what the server's automation and another machine do."""
    with get_client(sync_client=True) as client:
        for state in states:
            client.set_flow_run_state(flow_run.id, state, force=True)


def run_of(tmp_path: Path, *states: State, undo: bool = False) -> State:
    run = Run(run_id="1", state_dir=tmp_path, target=Target(kind="local", region="us-east-1"))

    @flow
    def pipeline() -> None:
        ids.append(str(flow_run.id))
        run_step(train, run)
        meanwhile(*states)
        try:
            run_step(publish, run)
        finally:
            if undo:
                run_step(restore, run)

    pipeline()
    return state_of()


def state_of() -> State:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(ids[-1]).state
    assert state is not None
    return state


@pytest.mark.parametrize(
    ("states", "said", "stays"),
    [
        (
            [Crashed(message="No heartbeat: gone")],
            r"is Crashed on the Prefect server \(No heartbeat: gone\)",
            "Crashed",
        ),
        ([Cancelled()], "is Cancelled on the Prefect server", "Cancelled"),
        ([Crashed(), Pending(), Running()], "was taken by another process", "Running"),
    ],
)
def test_a_run_that_ended_meanwhile_publishes_nothing_and_stays_what_it_is(
    tmp_path: Path, states: list[State], said: str, stays: str
) -> None:
    with pytest.raises(Abort, match=f"{said}.*stops before push-to-hf"):
        run_of(tmp_path, *states)
    assert done == ["trained"]
    assert state_of().name == stays


def test_a_run_that_goes_on_is_let_through(tmp_path: Path) -> None:
    assert run_of(tmp_path).is_completed()
    assert done == ["trained", "published"]


def test_what_was_begun_is_still_put_right(tmp_path: Path) -> None:
    with pytest.raises(Abort):
        run_of(tmp_path, Crashed(), undo=True)
    assert done == ["trained", "restored"]


def test_but_not_beside_the_process_that_goes_on_with_the_run(tmp_path: Path) -> None:
    with pytest.raises(Abort):
        run_of(tmp_path, Crashed(), Pending(), Running(), undo=True)
    assert done == ["trained"]


def test_the_retry_of_a_run_in_its_own_process_is_let_through_and_another_process_is_still_noticed(
    tmp_path: Path,
) -> None:
    run = Run(run_id="1", state_dir=tmp_path, target=Target(kind="local", region="us-east-1"))

    @flow(retries=1)
    def pipeline() -> None:
        ids.append(str(flow_run.id))
        run_step(train, run)
        if len(ids) == 1:
            raise ConnectionError("cut off")
        run_step(publish, run)
        meanwhile(Crashed(), Pending(), Running())
        run_step(publish, run)

    with pytest.raises(Abort, match="was taken by another process"):
        pipeline()
    assert ids[0] == ids[1]
    assert done == ["trained", "trained", "published"]


@pytest.mark.parametrize("taken", ["not", "in the pause", "after it"])
def test_a_resumed_run_is_let_through_unless_another_process_took_it(tmp_path: Path, taken: str) -> None:
    run = Run(run_id="1", state_dir=tmp_path, target=Target(kind="local", region="us-east-1"))
    another = [Crashed(), Pending(), Running()]

    def resume(run_id: str) -> None:
        with get_client(sync_client=True) as client:
            while not client.read_flow_run(run_id).state.is_paused():
                time.sleep(0.1)
            if taken == "in the pause":
                for state in another:
                    client.set_flow_run_state(run_id, state, force=True)
            else:
                client.resume_flow_run(run_id)

    @flow
    def pipeline() -> None:
        ids.append(str(flow_run.id))
        run_step(train, run)
        somebody = threading.Thread(target=resume, args=(ids[0],))
        somebody.start()
        pause_flow_run(timeout=60, poll_interval=1, key="approval")
        somebody.join()
        fence.go_on("approval")
        if taken == "after it":
            meanwhile(*another)
        run_step(publish, run)

    if taken == "not":
        pipeline()
        assert done == ["trained", "published"]
        return
    with pytest.raises(Abort, match="was taken by another process"):
        pipeline()
    assert done == ["trained"]
