"""New data starts a run, a dead run is noticed, and one retraining waits for the other: on a real Prefect server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import REPOSITORY, prefect_at
from support import chromium
from support.clouds import prefect_auth

from askline.config import PipelineConfig
from askline.errors import DatasetNotFoundError
from askline.records import Target
from tasks.feedback.watching import Seen, look, memory_of

LOCAL = Target(kind="local", region="us-east-1")


def config(source: Path, **more) -> PipelineConfig:
    return PipelineConfig.model_validate({"dataset": {"source": str(source)}, **more})


def csv(path: Path, *answers: str) -> Path:
    path.write_text("question,answer\n" + "".join(f"What is number {n}?,{a}\n" for n, a in enumerate(answers)))
    return path


def test_the_first_look_remembers_and_the_next_one_compares(tmp_path):
    watched = config(csv(tmp_path / "q.csv", "one", "two"))
    first = look(watched, target=LOCAL, before=None)
    assert not first.dataset_changed
    assert not look(watched, target=LOCAL, before=first.seen).dataset_changed
    csv(tmp_path / "q.csv", "one", "two", "three")
    second = look(watched, target=LOCAL, before=first.seen)
    assert second.dataset_changed
    assert second.seen.revision != first.seen.revision


def test_another_dataset_is_a_first_look(tmp_path):
    first = look(config(csv(tmp_path / "a.csv", "one")), target=LOCAL, before=None)
    assert not look(config(csv(tmp_path / "b.csv", "two")), target=LOCAL, before=first.seen).dataset_changed


def test_a_dataset_that_is_gone_is_an_error_and_no_change(tmp_path):
    before = Seen(source=str(tmp_path / "q.csv"), revision="1")
    with pytest.raises(DatasetNotFoundError, match=r"q\.csv"):
        look(config(tmp_path / "q.csv"), target=LOCAL, before=before)


def test_each_mlkey_has_a_memory_of_its_own():
    names = {memory_of(key) for key in ("biography", "Biography", "bio-graphy", "b" * 46)}
    assert len(names) == 4
    assert all(name.isidentifier() and name == name.lower() for name in names)


@pytest.fixture
def prefect(cloud_with_prefect, tmp_path, monkeypatch) -> Iterator[httpx.Client]:
    """The API of a Prefect server, which this process and its children use."""
    api = cloud_with_prefect.prefect_api
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    # This process may have read its settings in another test.
    with prefect_at(api), httpx.Client(base_url=api, auth=prefect_auth(cloud_with_prefect), timeout=30) as client:
        yield client


def wait_for(look_at, what: str, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look_at():
            return found
        time.sleep(0.3)
    return pytest.fail(f"{what}: not within {seconds} s")


def post(client: httpx.Client, path: str, **what) -> list[dict]:
    answer = client.post(path, json=what)
    answer.raise_for_status()
    return answer.json()


@contextmanager
def serving(*options: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-m", "deployments.serve", *options], cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()


@pytest.mark.slow
def test_new_data_starts_a_run_within_seconds_and_a_second_one_waits(prefect, tmp_path):
    questions = csv(tmp_path / "q.csv", "one", "two")
    options = ["--state-dir", str(tmp_path / "state"), "--dataset.source", str(questions), "--deploy.mlkey", "numbers"]
    options += ["--training.base", "scratch"]
    name = f"on-new-data-{os.getpid()}"
    try:
        with serving("--name", name, "--retrain-on", "dataset", "--watch-minutes", "0.05", *options):

            def runs(*states: str) -> list[dict]:
                found = post(prefect, "/flow_runs/filter", deployments={"name": {"any_": [name]}})
                return [run for run in found if not states or run["state_name"] in states]

            variable = f"/variables/name/{memory_of('numbers')}"
            wait_for(lambda: prefect.get(variable).status_code == 200, "the first look")
            assert runs() == []
            csv(questions, "one", "two", "three")
            started = wait_for(runs, "a run on the new data")[0]
            seen = prefect.get(variable).json()["value"]
            assert seen["source"] == str(questions)
            # It is under way, or has failed by now: what matters is that it was begun by the event.
            assert started["created_by"]["type"] == "AUTOMATION"
            deployment = started["deployment_id"]
            limits = prefect.get(f"/deployments/{deployment}").json()
            assert limits["global_concurrency_limit"]["limit"] == 1
            for _ in range(2):
                # A server that is busy says 503, and is asked again.
                wait_for(
                    lambda: prefect.post(f"/deployments/{deployment}/create_flow_run", json={}).is_success, "a run"
                )
            wait_for(lambda: runs("AwaitingConcurrencySlot"), "a run that waits for its turn")
    finally:
        subprocess.run(
            [sys.executable, "-m", "local_cloud", "down", "--state-dir", str(tmp_path / "state")],
            cwd=REPOSITORY,
            check=False,
            capture_output=True,
        )


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_marked_as_crashed(prefect, tmp_path):
    from deployments.automations import ensure, mark_dead_runs

    quick = mark_dead_runs(silent_seconds=10)
    quick.name = f"{quick.name} ({os.getpid()})"
    ensure(quick)
    ensure(quick)
    mine = [each for each in post(prefect, "/automations/filter") if each["name"] == quick.name]
    assert len(mine) == 1, "bringing it up to date makes no second one"
    script = tmp_path / "sleeper.py"
    script.write_text(
        "import time\nfrom prefect import flow\n"
        "@flow(name='askline', flow_run_name='sleeper')\ndef sleeper():\n    time.sleep(600)\n"
        "sleeper()\n"
    )
    environment = {**os.environ, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:

        def runs(state: str) -> list[dict]:
            found = post(prefect, "/flow_runs/filter", flow_runs={"name": {"any_": ["sleeper"]}})
            return [run for run in found if run["state_name"] == state]

        def heard(run: dict) -> int:
            wanted = {
                "event": {"name": ["prefect.flow-run.heartbeat"]},
                "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
            }
            return prefect.post("/events/filter", json={"filter": wanted}).json()["total"]

        (run,) = wait_for(lambda: runs("Running"), "a run under way")
        wait_for(lambda: heard(run), "its heartbeat")
        process.kill()
        process.wait(timeout=60)
        (run,) = wait_for(lambda: runs("Crashed"), "a run marked as crashed")
        assert "No heartbeat" in run["state"]["message"]
    finally:
        process.kill()
        prefect.delete(f"/automations/{mine[0]['id']}")


@pytest.mark.slow
def test_a_notification_block_that_is_not_there_is_refused(prefect, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "deployments.automations", "--notify", "slack-webhook/nobody"),
            *("--state-dir", str(tmp_path / "state")),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    subprocess.run(
        [sys.executable, "-m", "local_cloud", "down", "--state-dir", str(tmp_path / "state")],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 2
    assert "slack-webhook/nobody" in done.stderr


@pytest.mark.slow
def test_the_hub_s_token_comes_from_a_block_and_never_from_a_parameter(prefect, tmp_path):
    script = tmp_path / "take.py"
    script.write_text(
        "import os, sys\nfrom prefect.blocks.system import Secret\n"
        "from askline.errors import ConfigError\nfrom tasks.running.run import _take_token\n"
        "Secret(value='hf_of_a_block').save('hub-token', overwrite=True)\n"
        "_take_token('hub-token')\nassert os.environ['HF_TOKEN'] == 'hf_of_a_block'\n"
        "try:\n    _take_token('nobody-s')\nexcept ConfigError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    assert "no Prefect Secret block 'nobody-s' (hub.token_block)" in done.stdout
    with pytest.raises(ValueError, match="revoke it"):
        PipelineConfig.model_validate({"hub": {"token_block": "hf_0123"}})


@pytest.mark.slow
def test_both_flows_can_be_deployed_to_a_work_pool(prefect, cloud_with_prefect, tmp_path):
    command = [sys.executable, "-m", "prefect"]
    environment = {**os.environ, "ASKLINE_HOME": str(REPOSITORY), "PYTHONPATH": str(REPOSITORY)}
    pool = [*command, "work-pool", "create", "askline", "--type", "process", "--overwrite"]
    subprocess.run(pool, env=environment, capture_output=True, check=True)
    deploy = [*command, "--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"]
    done = subprocess.run(deploy, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {each["name"]: each for each in post(prefect, "/deployments/filter") if each["work_pool_name"] == "askline"}
    assert set(found) == {"full-pipeline", "watch"}
    # What the form refuses: the server checks parameters before there is a run.
    for wrong in ({"training": {"epochs": -1}}, {"hub": {"token_block": "hf_0123"}}, {"target": "moon"}):
        answer = prefect.post(
            f"/deployments/{found['full-pipeline']['id']}/create_flow_run", json={"parameters": {"config": wrong}}
        )
        assert answer.status_code in (409, 422), wrong
        assert next(iter(wrong)) in answer.text
    assert post(prefect, "/flow_runs/filter", deployments={"name": {"any_": ["full-pipeline"]}}) == []
    if chromium.BINARY is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome here to look at the form")
    ui = str(prefect.base_url).removesuffix("/").removesuffix("/api")
    with chromium.browser(tmp_path / "profile") as browser, browser.page() as page:
        page.look(height=2000)
        page.log_in_to_prefect(ui, prefect_auth(cloud_with_prefect))
        page.open(f"{ui}/deployments/deployment/{found['full-pipeline']['id']}/run")
        fields = PipelineConfig.model_json_schema()["$defs"]["DatasetConfig"]["properties"]
        page.wait_for_text(" ".join(fields["source"]["description"].split()), seconds=90)
        page.wait_for_text(" ".join(fields["split_by"]["description"].split()))
