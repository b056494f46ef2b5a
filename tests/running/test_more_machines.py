"""One Prefect server on PostgreSQL and Redis in several processes, two workers, and one of them killed in training."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import REPOSITORY, prefect_at

from askline.config import PipelineConfig
from askline.errors import ConfigError
from askline.records import Run, Target
from deployments.servers.settings import server_settings
from deployments.servers.stores import postgresql_programs, redis_program
from tasks.workplace import checkpoints_of

POOLS = REPOSITORY / "deployments" / "work_pools"
TEMPLATES = sorted(POOLS.glob("*.json"))
STEPS, EVERY = 80, 5


def wait_for(look_at: Callable, what: str, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look_at():
            return found
        time.sleep(0.2)
    return pytest.fail(f"{what}: not within {seconds} s")


@contextmanager
def running(*command: str, log: Path, environment: dict[str, str], stop_with: int) -> Iterator[subprocess.Popen]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop_with)
            try:
                process.wait(timeout=90)
            finally:
                process.kill()


def two_free_ports() -> int:
    """Return a port with a free one beside it."""
    while True:
        port = random.randrange(20000, 30000)
        with ExitStack() as probes:
            try:
                for each in (port, port + 1):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue
            return port


@pytest.fixture(scope="module")
def apis() -> Iterator[list[str]]:
    """The URLs of two API servers that are one Prefect server."""
    try:
        postgresql_programs()
        redis_program()
    except ConfigError as error:
        pytest.skip(str(error))
    pytest.importorskip("prefect_redis", reason="the extra cloud-scale is not installed")
    # Not under tmp_path, which root alone may enter, while root's PostgreSQL runs as somebody else.
    folder = Path(tempfile.mkdtemp(prefix="askline-servers-"))
    folder.chmod(0o755)
    log = folder / "servers.log"
    command = ["-m", "deployments.servers", "--folder", str(folder), "--port", str(two_free_ports())]
    try:
        with running(*command, log=log, environment=dict(os.environ), stop_with=signal.SIGTERM) as process:

            def said() -> list[str]:
                assert process.poll() is None, log.read_text()
                lines = [line.partition("=") for line in log.read_text().splitlines()]
                return [value for name, _, value in lines if name == "PREFECT_API_URL"]

            wait_for(lambda: len(said()) == 2, "two API servers", 240)
            yield said()
        assert process.returncode == 0, log.read_text()
        assert not [each for each in psutil.process_iter(["cmdline"]) if str(folder) in (each.info["cmdline"] or [])]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(apis) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=apis[0], timeout=30) as client:
        yield client


def post(server: httpx.Client, path: str, **what):
    answer = server.post(path, json=what)
    assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
    return answer.json()


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_the_server_takes_each_base_job_template_and_refuses_a_wrong_value(server, template):
    contents = json.loads(template.read_text())
    kind = template.stem.partition("-")[0]
    pool = post(server, "/work_pools/", name=template.stem, type=kind, base_job_template=contents)
    assert pool["base_job_template"] == contents
    flow = post(server, "/flows/", name="tiny")
    deployment = {"flow_id": flow["id"], "work_pool_name": template.stem, "entrypoint": "flows.train.train"}
    post(server, "/deployments/", name=f"right-{template.stem}", **deployment, job_variables={"env": {"A": "1"}})
    answer = server.post("/deployments/", json={"name": "wrong", **deployment, "job_variables": {"env": "A=1"}})
    assert answer.is_client_error, "a job variable of the wrong type"


def test_templates_use_every_variable_that_they_have_and_no_other():
    assert {path.stem for path in TEMPLATES} >= {"process", "docker", "ecs", "kubernetes"}
    for template in TEMPLATES:
        contents = json.loads(template.read_text())
        used = json.dumps(contents["job_configuration"])
        named = {part.partition("}}")[0].strip() for part in used.split("{{")[1:]}
        assert named == set(contents["variables"]["properties"]), template.name
        environment = contents["variables"]["properties"]["env"]
        assert int(environment["default"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) >= 30
        assert all(variable["description"] for variable in contents["variables"]["properties"].values())
    gpu = {path.stem for path in TEMPLATES if "gpus" in json.loads(path.read_text())["variables"]["properties"]}
    assert gpu == {"docker-gpu", "ecs-gpu", "kubernetes-gpu"}


@pytest.mark.parametrize("name", ["process", "ecs", "ecs-gpu"])
def test_templates_make_the_workers_own_configuration(name):
    if name == "process":
        from prefect.workers.process import ProcessJobConfiguration as Configuration
    else:
        pytest.importorskip("prefect_aws", reason="the extra cloud-scale is not installed")
        from prefect_aws.workers.ecs_worker import ECSJobConfiguration as Configuration
    from prefect.utilities.templating import apply_values

    template = json.loads((POOLS / f"{name}.json").read_text())
    assert set(template["job_configuration"]) <= set(Configuration.model_fields)
    values = {key: each["default"] for key, each in template["variables"]["properties"].items() if "default" in each}
    values["env"] = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
    made = Configuration.model_validate(apply_values(template["job_configuration"], values))
    assert made.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "60"
    if name != "process":
        (container,) = made.task_definition["containerDefinitions"]
        assert container["image"] == "askline:latest"
        assert (name == "ecs-gpu") == ("resourceRequirements" in container)


def test_a_server_reads_every_setting_that_it_is_given(monkeypatch):
    pytest.importorskip("prefect_redis", reason="the extra cloud-scale is not installed")
    from prefect.settings import Settings
    from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
    from prefect_redis.client import RedisMessagingSettings

    given = server_settings("postgresql+asyncpg://user:word@host/prefect", "redis://user:word@host:1/0")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    read = {name: str(value) for name, value in Settings().to_environment_variables(include_secrets=True).items()}
    by_redis = {"PREFECT_REDIS_MESSAGING_URL", "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL"}
    assert {name for name in given if read.get(name, "").lower() != given[name].lower()} == by_redis
    assert RedisMessagingSettings().url == RedisWorkerCleanupQueueSettings().url == "redis://user:word@host:1/0"


def test_what_is_not_installed_is_named_with_the_way_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install redis-server"):
        redis_program()
    (tmp_path / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.4'\n")
    for name in ("postgres", "initdb", "psql"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ConfigError, match=r"13\.4; Prefect needs PostgreSQL 14\.9"):
        postgresql_programs()


def test_checkpoints_lie_beside_what_machines_share(tmp_path, monkeypatch):
    aws = Target(kind="aws", region="eu-west-1")

    def run(store: str | None, target: Target = aws) -> Run:
        return Run(run_id="1", state_dir=tmp_path, artifact_store=store, target=target)

    assert checkpoints_of(run(None)) is None
    assert checkpoints_of(run("/mnt/shared/")) == "/mnt/shared/checkpoints"
    assert checkpoints_of(run("s3://b/askline")) == "s3://b/askline/checkpoints"
    here = Target(kind="local", region="us-east-1", endpoints={"s3": "http://127.0.0.1:1"})
    assert checkpoints_of(run("s3://b/askline", target=here)) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert checkpoints_of(run("s3://b/askline", target=here)) == "s3://b/askline/checkpoints"


UNDISTURBED = """
import json, sys
from pathlib import Path
from askline.config import PipelineConfig
from askline.records import Target
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.fine_tune.fine_tune import fine_tune
from tasks.running.connect import prepare_environment
from tasks.t5.base import resolve_base
from tasks.workplace import Workplace

here, config = Path(sys.argv[1]), PipelineConfig.model_validate_json(sys.argv[2])
target = Target(kind="aws", region="us-east-1")
prepare_environment(target)
place = Workplace(target, here)
source = resolve_source(config.dataset, place=place)
dataset = fetch_dataset(config.dataset, source, place=place)
base = resolve_base(config.training.base, config.training.base_revision, place=place)
training = config.training.model_copy(update={"base_revision": base.revision})
print(fine_tune(training, dataset, place=place).sha256)
"""


@pytest.mark.slow
def test_a_training_whose_machine_dies_goes_on_on_the_other_one(apis, server, tmp_path):
    from deployments.automations import ensure, mark_dead_runs, start_again

    questions = tmp_path / "questions.csv"
    rows = [f"What is number {n} of the list?,It is the number {n * 7 % 40} of all." for n in range(40)]
    questions.write_text("question,answer\n" + "\n".join(rows))
    shared = tmp_path / "shared"
    config = PipelineConfig.model_validate(
        {
            "target": "aws",  # nothing of it is called: the embedded cloud would take time to start
            "artifact_store": str(shared),
            "dataset": {"source": str(questions)},
            "training": {"base": "scratch", "max_steps": STEPS, "checkpoint_steps": EVERY, "batch_size": 16},
            "deploy": {"role_arn": "arn:aws:iam::123456789012:role/askline"},
        }
    )
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ASKLINE_"))}
    for pool in ("askline", "askline-gpu"):
        template = json.loads((POOLS / "process.json").read_text())
        post(server, "/work_pools/", name=pool, type="process", base_job_template=template)
    with prefect_at(apis[0]):
        ensure(mark_dead_runs(silent_seconds=38))
        ensure(start_again())

    with ExitStack() as stack:
        machines = {}
        for name, api in zip("ab", apis, strict=True):
            home = tmp_path / name
            home.mkdir()
            environment = {
                **mine,
                "PREFECT_API_URL": api,
                "PREFECT_HOME": str(home / "prefect"),
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "ASKLINE_HOME": str(home),
            }
            worker = ["-m", "prefect", "worker", "start", "--pool", "askline-gpu", "--name", name]
            log = tmp_path / f"worker-{name}.log"
            machines[name] = stack.enter_context(
                running(*worker, log=log, environment=environment, stop_with=signal.SIGTERM)
            )

        deploy = ["-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(POOLS / "train.yaml"), "--all"]
        done = subprocess.run(
            [sys.executable, *deploy],
            env=mine
            | {"PREFECT_API_URL": apis[1], "PREFECT_HOME": str(tmp_path), "ASKLINE_ARTIFACT_STORE": str(shared)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

        def workers() -> set[str]:
            found = post(server, "/work_pools/askline-gpu/workers/filter")
            return {each["name"] for each in found if each["status"] == "ONLINE"}

        wait_for(lambda: workers() == {"a", "b"}, "two workers")
        deployment = server.get("/deployments/name/askline-train/train").json()
        assert deployment["global_concurrency_limit"]["limit"] == 1
        parameters = {"config": config.model_dump(mode="json")}
        run = post(server, f"/deployments/{deployment['id']}/create_flow_run", parameters=parameters)["id"]

        def state() -> str:
            return server.get(f"/flow_runs/{run}").json()["state_name"]

        def saved() -> list[int]:
            found = shared.glob("checkpoints/*/checkpoint-*/manifest.json")
            return sorted(int(path.parent.name.rpartition("-")[2]) for path in found)

        wait_for(lambda: [step for step in saved() if step >= 2 * EVERY], "a checkpoint that both machines see")
        assert state() == "Running"
        (first,) = (name for name in machines if (tmp_path / name / ".askline").exists())
        second = "b" if first == "a" else "a"
        killed = psutil.Process(machines[first].pid)
        for process in [*killed.children(recursive=True), killed]:
            process.kill()
        left = saved()
        assert left[-1] < STEPS, "the training was over before it could be killed"
        undisturbed = stack.enter_context(
            running(
                *("-c", UNDISTURBED, str(tmp_path / "c"), config.model_dump_json()),
                log=tmp_path / "undisturbed.log",
                environment={**mine, "PYTHONPATH": str(REPOSITORY)},
                stop_with=signal.SIGKILL,
            )
        )
        wait_for(lambda: state() != "Running", "a run whose machine is gone is noticed", 90)
        wait_for(lambda: state() in ("Completed", "Failed"), "the run ends on the other machine", 150)
        states = server.get("/flow_run_states/", params={"flow_run_id": run}).json()
        history = [each["name"] for each in sorted(states, key=lambda each: each["timestamp"])]
        assert history[-1] == "Completed"
        assert history.index("Crashed") < history.index("AwaitingRetry") < len(history) - 1

        (speed,) = (tmp_path / second / ".askline" / "tensorboard").glob("*/speed.jsonl")
        steps = [json.loads(line)["step"] for line in speed.read_text().splitlines()]
        assert steps[0] == left[-1] + 1, "it goes on after the checkpoint that both machines see"
        assert steps[-1] == STEPS
        tasks = post(server, "/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        fetched = {each["state_name"] for each in tasks if each["name"].startswith("fetch-dataset")}
        assert "Cached" in fetched, "the dataset is not fetched again"
        (model,) = (path.stem for path in shared.glob("model/*.json"))
        assert (tmp_path / second / ".askline" / "artifacts" / "model" / model).is_dir()
        undisturbed.wait(timeout=90)
        assert (tmp_path / "undisturbed.log").read_text().split()[-1] == model, "that of an undisturbed training"
        assert not list(shared.glob("checkpoints/*/*")), "the checkpoints are removed when the model is there"

        def went_on() -> list[dict]:
            return post(server, "/flow_runs/filter", deployments={"name": {"any_": ["after-training"]}})

        (rest,) = wait_for(went_on, "the rest of the pipeline, asked for on the other pool", 30)
        assert rest["work_pool_name"] == "askline"
        assert rest["created_by"]["type"] == "AUTOMATION"


@pytest.mark.slow
def test_the_background_service_makes_scheduled_runs_once_and_each_server_shows_them(apis, server):
    flow = post(server, "/flows/", name="tiny")
    schedules = [{"schedule": {"cron": "0 3 * * 1", "timezone": "Europe/Berlin"}, "active": True}]
    post(server, "/deployments/", name="weekly", flow_id=flow["id"], schedules=schedules)

    def scheduled(api: str) -> list[str]:
        with httpx.Client(base_url=api, timeout=30) as client:
            found = post(client, "/flow_runs/filter", deployments={"name": {"any_": ["weekly"]}})
        return sorted(run["expected_start_time"] for run in found)

    wait_for(lambda: len(scheduled(apis[0])) >= 3, "scheduled runs")
    times = scheduled(apis[0])
    assert len(set(times)) == len(times)
    assert times == scheduled(apis[1])
