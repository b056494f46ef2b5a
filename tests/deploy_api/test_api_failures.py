"""What callers of the API see when something behind it fails, over the whole real path, and that it passes.

HTTP → the embedded API Gateway → the Lambda function's process → the embedded SageMaker → a container with an archive.
Nothing is deployed again between a failure and the recovery from it. ``docs/api.md`` holds the statuses.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from conftest import REPOSITORY, local_cloud
from support.sagemaker import HOLD

from askline.clients import LOCAL_KEY_VARIABLES, LocalKeys, aws_client
from askline.records import ApiRef, Target
from benchmarks.plain_endpoint import Bench, archive
from local_cloud import control, keys, processes
from local_cloud.services import is_healthy, url
from local_cloud.state import CloudFolder
from tasks.deploy_api.call import call_api

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Does what the question says; answers in the form of the packages otherwise.
OBEDIENT = (
    HOLD
    + """
import json, os

def model_fn(model_dir):
    slow = os.environ.get("SLOW")
    if slow and pathlib.Path(slow).exists():
        time.sleep(float(pathlib.Path(slow).read_text()))
    return os.environ.get("WORD", "")

def predict_fn(data, word):
    text = data["inputs"]
    if text == "fail":
        raise RuntimeError("arn:aws:iam::123456789012:role/secret")
    if text == "refuse":
        raise ValueError("arn:aws:iam::123456789012:role/secret")
    if text == "exit":
        os._exit(7)
    if text.startswith("eat "):
        word += "x" * (int(text.split()[1]) * 1024**2)
    if text.startswith("sleep "):
        time.sleep(float(text.split()[1]))
    if text.startswith("hold "):
        hold(text.removeprefix("hold "))
    if text == "garbage":
        return None
    if text == "another form":
        return {"generated_text": "a list of the Hugging Face kind"}
    return {"answers": [{"answer": f"{word}{text[:40]}", "confidence": 0.5}], "model_version": str(os.getpid())}

def output_fn(prediction, accept):
    return "<html>no JSON" if prediction is None else json.dumps(prediction)
"""
)


class Api:
    """One deployed API, asked over HTTP."""

    def __init__(self, ref: ApiRef, target: Target) -> None:
        self.ref = ref
        self.target = target

    def ask(self, mlkey: str, question: str) -> httpx.Response:
        body = {"MLKey": mlkey, "question": question}
        return call_api(self.ref, method="POST", json=body, target=self.target, timeout=60)

    def answers(self, mlkey: str, question: str = "hello") -> dict[str, Any]:
        """Ask, and expect an answer."""
        reply = self.ask(mlkey, question)
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        assert body["answer"].endswith(question)
        return body

    def process(self, mlkey: str) -> int:
        """Return the id of the container's process that answers."""
        return int(self.answers(mlkey)["model_version"])

    def problem(self, mlkey: str, question: str, status: int, kind: str, *, retry_after: bool = False) -> None:
        """Ask, and expect this problem document, which tells nothing that callers should not know."""
        expect_problem(self.ask(mlkey, question), status, kind, retry_after=retry_after)

    def recovers(self, mlkey: str, seconds: float = 90) -> dict[str, Any]:
        """Ask until there is an answer again; nothing but problems that callers may wait out comes before it."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                reply = self.ask(mlkey, "hello")
                if reply.status_code == 200:
                    body: dict[str, Any] = reply.json()
                    return body
                assert reply.status_code in (429, 502, 503, 504), reply.text
            assert time.monotonic() < deadline, "it did not recover"
            time.sleep(0.3)


def expect_problem(reply: httpx.Response, status: int, kind: str, *, retry_after: bool = False) -> None:
    assert (reply.status_code, reply.json()["type"]) == (status, f"urn:askline:{kind}"), reply.text
    assert reply.headers["content-type"] == "application/problem+json; charset=utf-8"
    assert reply.json()["status"] == status
    if retry_after:
        assert int(reply.headers["retry-after"]) >= 1
    for secret in ("arn:", "123456789012", "serv-hf-endpoint", "Traceback", "local_cloud", "000000000000"):
        assert secret not in reply.text


class Cloud(NamedTuple):
    """The embedded cloud of this module."""

    state_dir: Path
    target: Target
    bench: Bench

    def pid(self, part: str) -> int:
        pid = control.health(self.state_dir).parts[part].pid
        assert pid is not None
        return pid


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    state_dir = tmp_path_factory.mktemp("failures")
    options = ["--without", "prefect", "--without", "hub", "--idle-minutes", "0"]
    try:
        done = local_cloud("up", "--json", "--state-dir", str(state_dir), *options)
        assert done.returncode == 0, done.stderr
        target = Target.model_validate_json(done.stdout)
        yield Cloud(state_dir, target, Bench(target))
    finally:
        local_cloud("down", "--state-dir", str(state_dir))


@pytest.fixture(scope="module")
def api(cloud: Cloud) -> Api:
    return Api(cloud.bench.api("askline-failures"), cloud.target)


@pytest.fixture(scope="module")
def content() -> bytes:
    return archive(OBEDIENT)


# -- the endpoint is down ----------------------------------------------------------------------------------------------


def test_an_endpoint_that_was_deleted_and_one_that_is_being_created_are_not_ready(
    cloud: Cloud, api: Api, content: bytes, tmp_path: Path
) -> None:
    name = cloud.bench.serve("gone", content)
    api.answers("gone")
    cloud.bench.sagemaker.delete_endpoint(EndpointName=name)
    api.problem("gone", "hello", 503, "not-ready", retry_after=True)
    # Until then it is listed as Deleting, and can be neither updated nor created.
    wait_for(lambda: status_of(cloud, name) is None)
    slow = tmp_path / "slow"
    slow.write_text("6")
    with ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(cloud.bench.serve, "gone", content, environment={"SLOW": str(slow)})
        wait_for(lambda: (deployed.done() and deployed.result()) or status_of(cloud, name) == "Creating")
        api.problem("gone", "hello", 503, "not-ready", retry_after=True)
        deployed.result()
    api.answers("gone")


def status_of(cloud: Cloud, name: str) -> str | None:
    found = cloud.bench.sagemaker.list_endpoints(NameContains=name)["Endpoints"]
    return str(found[0]["EndpointStatus"]) if found else None


def test_a_container_that_was_killed_is_started_by_the_next_question(cloud: Cloud, api: Api, content: bytes) -> None:
    cloud.bench.serve("mortal", content)
    first = api.process("mortal")
    kill(first)
    assert api.process("mortal") != first


def test_a_container_that_dies_on_a_question_fails_that_one_alone(
    cloud: Cloud, api: Api, content: bytes, tmp_path: Path
) -> None:
    cloud.bench.serve("mortal", content)
    with ThreadPoolExecutor(1) as pool:
        victim = api.process("mortal")
        asked = pool.submit(api.ask, "mortal", f"hold {tmp_path / 'held'}")
        wait_for((tmp_path / "held.begun").exists)
        kill(victim)
        expect_problem(asked.result(), 502, "model-failed")
    api.answers("mortal")
    for last_words in ("exit", "eat 1200"):
        api.problem("mortal", last_words, 502, "model-failed")
        api.answers("mortal")


# -- the endpoint is busy, or its model is wrong -----------------------------------------------------------------------


def test_above_max_concurrency_callers_are_told_to_wait(cloud: Cloud, api: Api, content: bytes, tmp_path: Path) -> None:
    cloud.bench.serve("narrow", content, max_concurrency=2)
    api.answers("narrow")
    held = tmp_path / "held"
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(cloud.bench.invoke, "narrow", f"hold {held}") for _ in range(2)]
        wait_for(held.with_suffix(".begun").exists)
        time.sleep(0.5)  # the other one waits for its turn, where nothing can be seen of it
        api.problem("narrow", "hello", 429, "throttled", retry_after=True)
        held.touch()
        for call in busy:
            assert call.result()["answers"][0]["answer"].startswith("hold")
    api.answers("narrow")


def test_garbage_and_a_failing_model_are_502_until_a_good_archive_is_there(
    cloud: Cloud, api: Api, content: bytes
) -> None:
    cloud.bench.serve("wrong", content)
    for question in ("garbage", "another form", "fail", "refuse"):
        api.problem("wrong", question, 502, "model-failed")
        api.answers("wrong")
    always = archive(
        "def model_fn(d):\n    return lambda x: None\ndef output_fn(p, accept):\n    return b'\\xff\\x00'\n"
    )
    cloud.bench.serve("wrong", always)
    api.problem("wrong", "hello", 502, "model-failed")
    cloud.bench.serve("wrong", content, environment={"WORD": "mended: "})
    assert api.answers("wrong")["answer"] == "mended: hello"


def test_a_slow_model_is_504_and_the_next_question_is_answered(cloud: Cloud, content: bytes) -> None:
    impatient = Api(cloud.bench.api("askline-impatient", ModelTimeoutSeconds="3"), cloud.target)
    cloud.bench.serve("slow", content)
    impatient.answers("slow")
    began = time.monotonic()
    impatient.problem("slow", "sleep 5", 504, "model-timeout")
    assert 3 <= time.monotonic() - began < 5
    # The container answers one question after the other, so the one that was given up is still in its way.
    impatient.recovers("slow")


# -- the endpoint is asleep --------------------------------------------------------------------------------------------


class Sleepy(NamedTuple):
    """A SageMaker that puts endpoints to sleep after two seconds and lets calls wait for them for one."""

    process: subprocess.Popen[bytes]
    bench: Bench
    api: Api


@pytest.fixture(scope="module")
def sleepy(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sleepy]:
    folder = tmp_path_factory.mktemp("sleepy")
    aws = cloud.target.endpoints["s3"]
    port = unused_port()
    command = [sys.executable, "-m", "local_cloud.sagemaker", "--port", str(port), "--state", str(folder / "state")]
    command += ["--s3", aws, "--iam", aws, "--idle-seconds", "2", "--cold-seconds", "1"]
    with (folder / "log").open("wb") as log:
        own = LocalKeys.of(cloud.target)
        environment = {**os.environ, **dict(zip(LOCAL_KEY_VARIABLES, own[:2], strict=True))}
        environment |= keys.exports(cloud.target)
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: is_healthy("sagemaker", port))
        here = {"sagemaker": url(port), "sagemaker-runtime": url(port)}
        target = cloud.target.model_copy(update={"endpoints": {**cloud.target.endpoints, **here}})
        bench = Bench(target, "askline-sleepy")
        yield Sleepy(process, bench, Api(bench.api("askline-sleepy", ColdWaitSeconds="3"), target))
    finally:
        process.terminate()
        process.wait(30)


def unused_port() -> int:
    import socket

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def test_an_endpoint_that_fell_asleep_answers_after_a_cold_start(sleepy: Sleepy, content: bytes) -> None:
    sleepy.bench.serve("asleep", content)
    first = sleepy.api.process("asleep")
    wait_for(lambda: not psutil.pid_exists(first))
    # Its start takes less than the function's patience, if more than SageMaker's own on a busy machine.
    assert sleepy.api.recovers("asleep")["model_version"] != str(first)


def test_an_endpoint_that_takes_long_to_wake_is_503_and_answers_later(
    sleepy: Sleepy, content: bytes, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    sleepy.bench.serve("heavy", content, environment={"SLOW": str(slow)})
    first = sleepy.api.process("heavy")
    slow.write_text("6")
    wait_for(lambda: not psutil.pid_exists(first))
    began = time.monotonic()
    sleepy.api.problem("heavy", "hello", 503, "not-ready", retry_after=True)
    assert 1 <= time.monotonic() - began < 10
    assert sleepy.api.recovers("heavy")["answer"] == "hello"


# -- parts of the embedded cloud are killed ----------------------------------------------------------------------------


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([process], timeout=60)


def wait_for(look: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def function_processes(cloud: Cloud) -> list[psutil.Process]:
    return list(psutil.Process(cloud.pid("ministack")).children())


@contextlib.contextmanager
def asking(api: Api, mlkey: str, clients: int = 3) -> Iterator[list[httpx.Response]]:
    """Have clients ask all the time; what they were answered is in the list."""
    replies: list[httpx.Response] = []
    ended = False

    def ask() -> None:
        while not ended:
            try:
                replies.append(api.ask(mlkey, "hello"))
            except httpx.TransportError:  # nobody listens at the moment
                time.sleep(0.2)

    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(ask) for _ in range(clients)]
        try:
            yield replies
        finally:
            ended = True
    for call in asked:
        call.result()


def test_killed_function_processes_cost_the_questions_they_held(cloud: Cloud, api: Api, content: bytes) -> None:
    cloud.bench.serve("steady", content, max_concurrency=20)
    api.answers("steady")
    with asking(api, "steady") as replies:
        wait_for(lambda: len(replies) > 10)
        for process in function_processes(cloud):
            process.kill()
        at_the_kill = len(replies)
        wait_for(lambda: len(replies) > at_the_kill + 10)
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) <= {200, 502}
    assert statuses.count(502) <= 3, "more failed than were being answered"
    api.answers("steady")


def test_a_killed_sagemaker_is_met_with_503_and_comes_back_by_itself(cloud: Cloud, api: Api, content: bytes) -> None:
    cloud.bench.serve("steady", content, max_concurrency=20)
    container = api.process("steady")
    with asking(api, "steady") as replies:
        wait_for(lambda: len(replies) > 10)
        kill(cloud.pid("sagemaker"))
        wait_for(lambda: not psutil.pid_exists(container), seconds=5)
        wait_for(lambda: control.health(cloud.state_dir).healthy)
        at_the_start = len(replies)
        wait_for(lambda: 200 in {reply.status_code for reply in replies[at_the_start:]})
    for reply in replies:
        if reply.status_code != 200:
            expect_problem(reply, 503, "not-ready", retry_after=True)
    api.answers("steady")


def wait_until_saved(cloud: Cloud) -> None:
    """Return when what MiniStack has been told so far is on disk."""
    aws_client(cloud.target, "ssm").put_parameter(Name="/marker", Value="it is on disk", Type="String")
    file = CloudFolder(cloud.state_dir).root / "ministack" / "state" / "ssm.json"
    wait_for(lambda: file.exists() and "it is on disk" in file.read_text())
    time.sleep(1)  # the other services' files are written by the same hand


def test_a_killed_ministack_comes_back_with_the_api(cloud: Cloud, api: Api, content: bytes) -> None:
    cloud.bench.serve("steady", content, max_concurrency=20)
    api.answers("steady")
    functions = function_processes(cloud)
    assert functions
    with asking(api, "steady") as replies:
        wait_for(lambda: len(replies) > 10)
        wait_until_saved(cloud)
        kill(cloud.pid("ministack"))
        _gone, alive = psutil.wait_procs(functions, timeout=60)
        assert not alive, "functions outlived it"
        wait_for(lambda: control.health(cloud.state_dir).healthy)
    assert api.recovers("steady")["answer"] == "hello"
    assert api.answers("steady")


# -- last, because it looks at the cloud as a whole --------------------------------------------------------------------


def test_the_idle_minutes_reach_sagemaker_and_cannot_change_while_it_runs(cloud: Cloud) -> None:
    command = psutil.Process(cloud.pid("sagemaker")).cmdline()
    assert command[command.index("--idle-seconds") + 1] == "0"
    assert json.loads(CloudFolder(cloud.state_dir).plan_file.read_text())["idle_minutes"] == 0
    options = ["--without", "prefect", "--without", "hub"]
    done = local_cloud("up", "--state-dir", str(cloud.state_dir), "--idle-minutes", "5", *options)
    assert done.returncode == 1
    assert "--idle-minutes 0" in done.stderr
    again = local_cloud("up", "--state-dir", str(cloud.state_dir), *options)
    assert again.returncode == 0, again.stderr


def test_nothing_outlives_the_cloud(cloud: Cloud) -> None:
    root = CloudFolder(cloud.state_dir).root
    assert processes.marked(root)
    assert local_cloud("down", "--state-dir", str(cloud.state_dir)).returncode == 0
    assert not processes.marked(root)
