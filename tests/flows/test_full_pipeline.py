"""The whole pipeline as a person runs it, in a folder with nothing in it, looked at with the official clients."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from conftest import REPOSITORY, local_cloud
from support import chromium
from support.clouds import prefect_auth
from support.pipeline import PLANTED, QUICK, Finished, aws, cmdline, newest_report, pipeline, wait_for

from askline.clients import LocalKeys, aws_client
from local_cloud import keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    state_dir = tmp_path_factory.mktemp("pipeline")
    try:
        done = pipeline(state_dir, *QUICK)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Finished(state_dir, done.returncode, done.stdout, newest_report(state_dir))
    finally:
        local_cloud("down", "--state-dir", str(state_dir))


@pytest.fixture(scope="module")
def shell_environment(finished):
    """Return the environment of a person who points the official clients at the embedded cloud."""
    return {**os.environ, **keys.exports(finished.report.target)}


def test_one_line_per_step_and_nothing_else_on_the_way(finished):
    steps = re.findall(r"^  ✓ ([\w-]+)", finished.said, re.MULTILINE)
    assert steps == [
        "start",
        "resolve-source",
        "fetch-dataset",
        "resolve-base",
        "fine-tune",
        "second-opinion",
        "evaluate",
        "gate",
        "push-to-hf",
        "package",
        "plan",
        "preflight",
        "upload",
        "deploy-serverless",
        "deploy-api",
        "smoke-invoke",
        "promote",
    ]
    assert finished.report.state == "Promoted"
    assert finished.report.package.archive_sha256 in finished.said
    assert finished.report.run_id in finished.said


def test_the_printed_curl_answers_when_pasted(finished):
    command = re.search(r"^  (curl .*)$", finished.said, re.MULTILINE).group(1)
    done = subprocess.run(["bash", "-c", f"{command} --silent"], capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    asked = json.loads(shlex.split(command)[-1])
    assert answer["MLKey"] == asked["MLKey"] == "biography"
    expected = {each.question: each.evaluated for each in finished.report.smoke.answers}
    assert answer["answer"] == expected[asked["question"]]


def test_the_query_string_form_answers_too(finished):
    asked = finished.report.smoke.answers[0]
    done = subprocess.run(
        [
            *("curl", "--silent", "--get", finished.report.api.url),
            *("--data-urlencode", "MLKey=biography", "--data-urlencode", f"question={asked.question}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["answer"] == asked.evaluated


def test_the_model_card_and_weights_are_on_the_hub(finished):
    from huggingface_hub import HfApi

    hub = finished.report.hub
    api = HfApi(endpoint=finished.report.target.hub, token=LocalKeys.of(finished.report.target).hub_token)
    info = api.model_info(hub.repo_id, revision=hub.tag)
    assert info.sha == hub.commit
    assert info.private
    assert {"README.md", "model.safetensors", "config.json"} <= {file.rfilename for file in info.siblings}


def test_the_archive_is_in_s3_with_its_checksum(finished, shell_environment):
    upload = finished.report.upload
    arguments = ["--bucket", upload.bucket, "--key", upload.key]
    head = aws(shell_environment, "s3api", "head-object", *arguments, "--checksum-mode", "ENABLED")
    assert head["ContentLength"] == finished.report.package.size
    assert head["Metadata"]["sha256"] == finished.report.package.archive_sha256


def test_the_endpoint_is_in_service(finished, shell_environment):
    endpoint = aws(shell_environment, "sagemaker", "describe-endpoint", "--endpoint-name", "serv-hf-endpoint-biography")
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"] == finished.report.endpoint.config_name


def test_the_stack_is_complete(finished, shell_environment):
    stacks = aws(shell_environment, "cloudformation", "describe-stacks", "--stack-name", "askline-api")
    assert stacks["Stacks"][0]["StackStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}


def test_the_run_and_its_artifacts_are_in_prefect(finished):
    api, auth = finished.report.target.prefect_api, prefect_auth(finished.report.target)
    run = httpx.get(f"{api}/flow_runs/{finished.report.run_id}", auth=auth).json()
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Promoted")
    chosen = {"artifacts": {"flow_run_id": {"any_": [finished.report.run_id]}}}
    artifacts = httpx.post(f"{api}/artifacts/filter", json=chosen, auth=auth).json()
    keys = {artifact["key"] for artifact in artifacts}
    assert {
        "dataset-profile",
        "fine-tune-progress",
        "loss-curve",
        "scores",
        "wrong-answers",
        "hub-repository",
        "deploy-plan",
        "preflight",
        "endpoint",
    } <= keys
    link = f"{finished.report.target.prefect_ui}/runs/flow-run/{finished.report.run_id}"
    assert link in finished.said
    page = httpx.get(link, headers={"accept": "text/html"})
    assert page.status_code == 200


@pytest.mark.skipif(chromium.BINARY is None, reason="there is no chromium, chromium-browser or google-chrome here")
def test_the_run_is_seen_in_the_ui(finished, tmp_path):
    ui, run = finished.report.target.prefect_ui, finished.report.run_id
    of_the_run = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["loss-curve"]}}}
    target, auth = finished.report.target, prefect_auth(finished.report.target)
    (curve,) = httpx.post(f"{target.prefect_api}/artifacts/filter", json=of_the_run, auth=auth).json()
    with chromium.browser(tmp_path / "profile") as browser, browser.page() as page:
        page.look(height=1400)
        page.log_in_to_prefect(ui, auth)
        page.open(f"{ui}/runs/flow-run/{run}")
        page.wait_for("document.querySelector('canvas')", seconds=90)  # the graph
        page.wait_for_text("sample → biography (local)")
        page.click("Task Runs")
        for step in ("fetch-dataset", "fine-tune", "evaluate", "push-to-hf", "package", "upload", "deploy-serverless"):
            page.wait_for_text(f"{step}-")
        page.click("Artifacts")
        for artifact in ("loss-curve", "wrong-answers", "champion-and-challenger", "deploy-plan", "endpoint", "report"):
            page.wait_for_text(artifact)
        page.open(f"{ui}/artifacts/artifact/{curve['id']}")
        page.wait_for("[...document.images].some(image => image.naturalWidth > 100)", seconds=60)
        asked = {urlsplit(url).netloc for url in page.requested if url.startswith("http")}
        assert asked == {urlsplit(ui).netloc}, "the pages need nothing from the internet"


def test_a_second_run_reuses_what_is_done(finished):
    done = pipeline(finished.state_dir, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("fetch-dataset", "fine-tune", "evaluate", "package"):
        assert re.search(rf"✓ {name} .*reused", done.stdout), name
    report = newest_report(finished.state_dir)
    assert report.package.archive_sha256 == finished.report.package.archive_sha256
    assert report.endpoint.action == "unchanged"
    assert report.upload.reused


def test_a_plan_stops_before_the_cloud_and_names_what_the_run_before_created(finished, shell_environment):
    listing = ["sagemaker", "list-models", "--query", "Models[].ModelName"]
    before = aws(shell_environment, *listing)
    done = pipeline(finished.state_dir, *QUICK, "--plan", "--deploy.calls-per-month", "2000000")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^  ✓ ([\w-]+) +[\d.]+ s ", done.stdout, re.MULTILINE)
    assert steps[-3:] == ["package", "plan", "preflight"]
    assert "push-to-hf" not in steps
    assert re.search(r"✓ fine-tune .*reused", done.stdout), "--plan is part of no cache key"
    report = newest_report(finished.state_dir)
    assert (report.state, report.upload, report.endpoint, report.hub) == ("Planned", None, None, None)
    made, planned = finished.report.endpoint, report.plan
    serving = planned.serving
    assert (planned.endpoint_name, serving.model_name) == (made.name, made.model_name)
    assert (serving.config_name, serving.memory_mb) == (made.config_name, made.memory_mb)
    assert serving.archive_uri == finished.report.upload.uri
    assert planned.size.chosen == "measured"
    assert "at 2,000,000 calls" in done.stdout
    flow_run = f"{report.target.prefect_api}/flow_runs/{report.run_id}"
    run = httpx.get(flow_run, auth=prefect_auth(report.target)).json()
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Planned")
    assert aws(shell_environment, *listing) == before


def test_no_secret_of_the_environment_is_written_anywhere(finished):
    assert not any(secret in finished.said for secret in PLANTED.values())
    looked_at = 0
    for path in finished.state_dir.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        found = [path.read_bytes()]
        if path.name.endswith((".tar.gz", ".zip")):
            found += list(members(path))
        for content in found:
            looked_at += 1
            assert not any(secret.encode() in content for secret in PLANTED.values()), path
    kinds = {path.suffix for path in finished.state_dir.rglob("*") if path.is_file()}
    assert {".db", ".log", ".json", ".gz", ".html"} <= kinds, (
        "the server's database, logs, results, archives and reports"
    )
    assert looked_at > 100


def members(archive: Path):
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            yield from (file.read(name) for name in file.namelist())
        return
    with tarfile.open(archive) as file:
        yield from (stream.read() for member in file if (stream := file.extractfile(member)))


def test_served_on_a_schedule_and_its_failed_deployment_retried_from_the_ui(finished):
    target = finished.report.target
    prefect = httpx.Client(base_url=target.prefect_api, auth=prefect_auth(target), timeout=30)
    sagemaker = aws_client(finished.report.target, "sagemaker")
    # Somebody else's endpoint has the name.
    sagemaker.create_endpoint(
        EndpointName="serv-hf-endpoint-retried", EndpointConfigName=finished.report.endpoint.config_name
    )
    options = ["--state-dir", str(finished.state_dir), *QUICK, "--deploy.mlkey", "retried"]
    command = [sys.executable, "-m", "deployments.serve", *options, "--cron", "0 3 * * 1", "--timezone"]
    serving = subprocess.Popen([*command, "Europe/Berlin"], cwd=REPOSITORY)
    try:
        deployment = wait_for(lambda: prefect.post("/deployments/filter", json={}).json(), "a deployment")[0]
        mine = {"deployments": {"id": {"any_": [deployment["id"]]}}}
        # Schedules are worked off by the server in the background.
        upcoming = wait_for(lambda: prefect.post("/flow_runs/filter", json=mine).json(), "scheduled runs")
        assert {run["state"]["type"] for run in upcoming} == {"SCHEDULED"}
        started = f"/deployments/{deployment['id']}/create_flow_run"
        # As Prefect's own client does: a server whose database is busy for the moment is asked again.
        run = wait_for(lambda: prefect.post(started, json={}).json().get("id"), "a run")

        def ended():
            state = prefect.get(f"/flow_runs/{run}").json()["state"]
            return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

        def steps():
            found = prefect.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()
            return {each["id"]: (each["name"].rpartition("-")[0], each["state_name"]) for each in found}

        failed = wait_for(ended, "the end of the run")
        assert failed["name"] == "Failed"
        assert "serv-hf-endpoint-retried" in failed["message"]
        before = steps()
        sagemaker.delete_endpoint(EndpointName="serv-hf-endpoint-retried")
        # The UI's button Retry sends this.
        retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}}
        assert prefect.post(f"/flow_runs/{run}/set_state", json=retry).json()["status"] == "ACCEPT"
        assert wait_for(ended, "the end of the retried run")["name"] == "Promoted"
        after = steps()
        assert [name for name, state in before.values() if state == "Failed"]
        reused = {after[each][0] for each in after if each not in before and after[each][1] == "Cached"}
        assert {"fetch-dataset", "fine-tune", "evaluate", "push-to-hf", "package"} <= reused
        redone = {after[each][0] for each in after if each not in before and after[each][1] == "Completed"}
        assert redone == {"plan", "preflight", "deploy-serverless", "deploy-api", "smoke-invoke", "promote"}
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(timeout=60)


def test_a_schedule_that_is_none_is_refused(finished):
    command = [sys.executable, "-m", "deployments.serve", "--state-dir", str(finished.state_dir), "--cron", "every day"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--cron 'every day'" in done.stderr


def test_down_leaves_no_process_behind(finished):
    # The last test of this module: it ends the cloud that the others share.
    mine = {process.pid for process in psutil.process_iter() if str(finished.state_dir) in " ".join(cmdline(process))}
    assert mine
    assert local_cloud("down", "--state-dir", str(finished.state_dir)).returncode == 0
    assert not [process for process in psutil.process_iter() if str(finished.state_dir) in " ".join(cmdline(process))]
