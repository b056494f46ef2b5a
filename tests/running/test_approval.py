"""A run that waits for a person: their yes, their no, nobody's answer, and when nobody is asked."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import REPOSITORY

from askline.config import EvaluationConfig
from askline.records import Approval, ChampionRef, Comparison, Gate, Run, Scores, SplitScores, Target
from tasks.running.approval import ask_a_person

SOME = SplitScores(questions=60, exact_match=0.5, token_f1=0.625, rouge_l=0.6)
SCORES = Scores(
    sha256="0" * 64,
    model_sha256="0" * 64,
    train=SOME,
    test=SOME,
    out_of_scope=None,
    false_abstention=0.0,
    baselines={},
    seconds=1.0,
)
#: A flow that asks and says what it was told, as the pipeline does.
FLOW = """
import sys
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed

from askline.config import EvaluationConfig
from askline.records import Gate, Run, Scores, Target
from tasks.running import approval as looking
from tasks.running.approval import ask_a_person

looking.POLL_SECONDS = float(sys.argv[5])


@flow(name=sys.argv[1])
def publish():
    config = EvaluationConfig(approval=True, approval_hours=float(sys.argv[3]))
    run = Run(run_id=flow_run.id, state_dir=Path(sys.argv[2]), target=Target(kind="local", region="us-east-1"))
    gate = ask_a_person(config, Gate(passed=True), Scores.model_validate_json(sys.argv[4]), run)
    return Completed(name="Published" if gate.passed else "NotPromoted", message="; ".join(gate.reasons))


publish(return_state=True)
"""


def password() -> tuple[str, str]:
    """Return the user and the password of the server's API."""
    user, _, word = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    return user, word


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    """Post as Prefect's own client does: a server whose database is busy for the moment is asked again."""
    for _ in range(20):
        answer = httpx.post(url, json=body, auth=password(), timeout=60)
        if answer.status_code != 503:
            break
        time.sleep(0.5)
    return answer


def runs_of(api: str, name: str, *states: str) -> list[dict[str, Any]]:
    wanted = {"flows": {"name": {"any_": [name]}}, "flow_runs": {"state": {"type": {"any_": list(states)}}}}
    found: list[dict[str, Any]] = post(f"{api}/flow_runs/filter", wanted).json()
    return found


def wait_for(api: str, name: str, *states: str, seconds: float = 120) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := runs_of(api, name, *states):
            return found[0]
        time.sleep(0.3)
    raise AssertionError(f"no run of {name} was {states} within {seconds} s")


def form_of(url: str, seconds: float = 60) -> str:
    """Return the form's text; Prefect writes it a moment after the run is paused."""
    until = time.monotonic() + seconds
    while (found := httpx.get(url, auth=password(), timeout=60)).status_code == 404 and time.monotonic() < until:
        time.sleep(0.2)
    return found.text


@pytest.mark.slow
def test_a_yes_a_no_and_no_answer(cloud_with_prefect: Target, tmp_path: Path) -> None:
    api = str(cloud_with_prefect.prefect_api)
    script = tmp_path / "publish.py"
    script.write_text(FLOW)
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "home")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    # The last one looks for an answer when its time is over, and not before.
    hours = {"approve-yes": "1", "approve-no": "1", "approve-nobody": "0.004", "approve-late": "0.008"}
    running = [
        subprocess.Popen(
            [
                *(sys.executable, str(script), name, str(tmp_path), patience, SCORES.model_dump_json()),
                "3600" if name == "approve-late" else "1",
            ],
            cwd=tmp_path,
            env=environment,
        )
        for name, patience in hours.items()
    ]
    try:
        for name, answer in (("approve-late", "yes"), ("approve-yes", "yes"), ("approve-no", "no")):
            paused = wait_for(api, name, "PAUSED")
            resume = f"{api}/flow_runs/{paused['id']}/resume"
            keys = paused["state"]["state_details"]["run_input_keyset"]
            assert "50.0 %" in form_of(f"{api}/flow_runs/{paused['id']}/input/{keys['description']}")
            refused = post(resume, {"run_input": {"approve": "perhaps"}}).json()
            assert refused["status"] == "REJECT"
            post(resume, {"run_input": {"approve": answer, "note": f"I say {answer}"}}).raise_for_status()
        ended = {name: wait_for(api, name, "COMPLETED", "FAILED", "CRASHED") for name in hours}
    finally:
        for process in running:
            process.terminate()
            process.wait(30)
    said = {name: (run["state"]["type"], run["state"]["name"]) for name, run in ended.items()}
    assert said == {
        "approve-yes": ("COMPLETED", "Published"),
        "approve-no": ("COMPLETED", "NotPromoted"),
        "approve-nobody": ("COMPLETED", "NotPromoted"),
        "approve-late": ("COMPLETED", "Published"),
    }, {name: run["state"]["message"] for name, run in ended.items()}
    assert ended["approve-no"]["state"]["message"] == "not approved: I say no"
    assert "nobody answered" in ended["approve-nobody"]["state"]["message"]
    # The server fails runs whose pause ran out; this one must have been out of it before.
    query = {"flow_run_id": ended["approve-nobody"]["id"]}
    states = httpx.get(f"{api}/flow_run_states/", params=query, auth=password(), timeout=60).json()
    assert {state["type"] for state in states} == {"PENDING", "RUNNING", "PAUSED", "COMPLETED"}
    kept = tmp_path / "runs" / ended["approve-yes"]["id"] / "approval.json"
    assert Approval.model_validate_json(kept.read_text()) == Approval(approved=True, note="I say yes")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(run_id="run-1", state_dir=tmp_path, target=Target(kind="local", region="us-east-1"))


def test_a_retry_of_the_run_does_not_ask_again(run: Run) -> None:
    folder = run.state_dir / "runs" / "run-1"
    folder.mkdir(parents=True)
    (folder / "approval.json").write_text(Approval(approved=False, note="no").model_dump_json())
    gate = ask_a_person(EvaluationConfig(approval=True), Gate(passed=True), SCORES, run)
    assert gate.reasons == ("not approved: no",)


def test_nobody_is_asked_about_the_model_that_is_deployed(run: Run) -> None:
    champion = ChampionRef(
        mlkey="x", endpoint="e", model_version="v", archive_sha256="a", dataset="d", promoted_at="t", run_id="r"
    )
    gate = Gate(passed=True, comparison=Comparison(champion=champion, verdict="same model", reason="it is"))
    assert ask_a_person(EvaluationConfig(approval=True), gate, SCORES, run) == gate
