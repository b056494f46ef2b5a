"""The serving container, as a process of its own on a loopback port, under the contract that archives rely on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

SERVE = Path(__file__).parents[1] / "deployments" / "container" / "serve.py"


class Server:
    def __init__(self, model_dir: Path, log: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.log = log
        if not environment:
            arguments = ("--port", str(port), *arguments)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVE), "--model-dir", str(model_dir), *arguments],
                stdout=file,
                stderr=file,
                env={**os.environ, "SAGEMAKER_BIND_TO_PORT": str(port), **(environment or {})},
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)

    def ping(self) -> int:
        try:
            return self.client.get("/ping").status_code
        except httpx.ConnectError:
            return 0

    def wait(self, *statuses: int) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            if (status := self.ping()) in statuses:
                return status
            time.sleep(0.05)
        raise AssertionError(f"/ping did not answer {statuses}: {self.log.read_text()}")

    def post(self, body: str | bytes, **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/invocations", content=body, headers=fields)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(source: str | None, **options: object) -> Server:
        folder = tmp_path / f"model{len(servers)}"
        folder.mkdir()
        if source is not None:
            (folder / "code").mkdir()
            (folder / "code" / "inference.py").write_text(source, encoding="utf-8")
            (folder / "weights.txt").write_text("7", encoding="utf-8")
        server = Server(folder, tmp_path / f"log{len(servers)}.txt", **options)  # type: ignore[arg-type]
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.client.close()
        server.process.terminate()
        try:
            # Ended by the signal, in good time and not by force.
            assert server.process.wait(10) == -signal.SIGTERM, server.log.read_text()
        finally:
            server.process.kill()


ALL_FOUR = """
import json, pathlib
def model_fn(model_dir):
    return int(pathlib.Path(model_dir, "weights.txt").read_text())
def input_fn(data, content_type):
    assert isinstance(data, str), type(data)
    return {"text": data, "type": content_type}
def predict_fn(data, model):
    if data["text"] == "bad":
        raise ValueError("ask a question: é")
    if data["text"] == "broken":
        raise RuntimeError("secret detail")
    return {**data, "weight": model}
def output_fn(prediction, accept):
    return json.dumps({**prediction, "accept": accept})
"""


def test_handlers_are_called_in_turn_and_errors_are_told_apart(serve: Callable[..., Server]) -> None:
    server = serve(ALL_FOUR)
    server.wait(200)
    answer = server.post("hé", content_type="text/plain", accept="text/x-answer")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/x-answer"
    assert answer.json() == {"text": "hé", "type": "text/plain", "weight": 7, "accept": "text/x-answer"}

    assert server.post("x", accept="*/*").json()["accept"] == "application/json"
    bad = server.post("bad", content_type="text/plain")
    assert (bad.status_code, bad.json()) == (400, {"code": 400, "message": "ask a question: é"})
    broken = server.post("broken", content_type="text/plain")
    assert broken.status_code == 500
    assert "secret detail" not in broken.text
    assert "RuntimeError: secret detail" in server.log.read_text()
    not_text = server.post(b"\xff\xfe", content_type="text/plain")
    assert not_text.status_code == 400
    assert "UTF-8" in not_text.json()["message"]
    assert server.ping() == 200
    assert server.client.get("/elsewhere").status_code == 404


def test_defaults_speak_json_and_pass_inputs_and_parameters(serve: Callable[..., Server]) -> None:
    server = serve(
        "def model_fn(model_dir, context):\n    assert context.system_properties['model_dir'] == model_dir\n"
        "    return lambda inputs, times=1: [inputs] * times\n"
    )
    server.wait(200)
    body = json.dumps({"inputs": "größe", "parameters": {"times": 2}})
    answer = server.post(body, content_type="application/json; charset=utf-8")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ["größe", "größe"]
    for wrong, headers in [
        ("{", {}),
        ("[1]", {}),
        ("a,b", {"content_type": "text/csv"}),
        (body, {"accept": "image/png"}),
    ]:
        refused = server.post(wrong, **headers)
        assert refused.status_code == 400, (wrong, refused.text)
        assert refused.json()["message"]


def test_transform_fn_replaces_the_three(serve: Callable[..., Server]) -> None:
    server = serve(
        "def model_fn(model_dir):\n    return 'm'\n"
        "def transform_fn(model, data, content_type, accept, context):\n"
        "    return f'{model} {data!r} {content_type}'.encode()\n"
    )
    server.wait(200)
    assert (
        server.post(b"\x00", content_type="application/octet-stream").content == b"m b'\\x00' application/octet-stream"
    )


def test_ping_says_loading_then_loaded(serve: Callable[..., Server], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = serve(
        "import os, time\ndef model_fn(model_dir):\n    while not os.path.exists(os.environ['GATE']):\n"
        "        time.sleep(0.01)\n    return lambda inputs: inputs\n",
        environment={"GATE": str(gate)},
    )
    server.wait(503)
    assert server.post('{"inputs": 1}').status_code == 503
    gate.touch()
    server.wait(200)
    assert server.post('{"inputs": 1}').json() == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "no code/inference.py"),
        ("def predict_fn(data, model):\n    return data\n", "model_fn"),
        (
            "def model_fn(d):\n    return 1\ndef transform_fn(m, d, c, a):\n    return d\ninput_fn = print\n",
            "keep one way",
        ),
        ("def model_fn(d):\n    raise OSError('weights are torn')\n", "OSError: weights are torn"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_ping_is_500_when_loading_failed_and_the_log_says_why(
    serve: Callable[..., Server], source: str | None, reason: str
) -> None:
    server = serve(source)
    assert server.wait(200, 500) == 500
    assert server.post("{}").status_code == 500
    assert reason in server.log.read_text()


def test_files_in_a_folder_are_named(tmp_path: Path, serve: Callable[..., Server]) -> None:
    server = serve(None)
    nested = tmp_path / "model0" / "my-model" / "code"
    nested.mkdir(parents=True)
    (nested / "inference.py").write_text(ALL_FOUR)
    second = Server(tmp_path / "model0", tmp_path / "nested.txt")
    try:
        assert second.wait(200, 500) == 500
        assert "my-model/code/inference.py: pack the files at the root" in second.log.read_text()
    finally:
        second.client.close()
        second.process.kill()
        second.process.wait()
    server.wait(500)


def test_handlers_run_one_at_a_time_and_ping_still_answers(serve: Callable[..., Server]) -> None:
    server = serve(
        "import time\nrunning = []\ndef model_fn(model_dir):\n    return None\n"
        "def predict_fn(data, model):\n    running.append(1)\n    time.sleep(0.2)\n    count = len(running)\n"
        "    running.pop()\n    return count\n"
    )
    server.wait(200)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.post, "{}") for _ in range(4)]
        time.sleep(0.1)
        assert server.ping() == 200
        assert [answer.result().json() for answer in answers] == [1, 1, 1, 1]


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SERVE), "--model-dir", str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr


def test_it_imports_nothing_of_ours() -> None:
    source = SERVE.read_text(encoding="utf-8")
    for room in ("askline", "flows", "tasks", "inference ", "local_cloud", "lambda_handler"):
        assert f"import {room}" not in source
        assert f"from {room}" not in source
