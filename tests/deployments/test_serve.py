"""The serving container, as a process of its own on a loopback port, under the contract that archives rely on."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

CONTAINER = Path(__file__).parents[2] / "deployments" / "container"
SERVE = CONTAINER / "serve.py"


class Server:
    def __init__(
        self,
        model_dir: Path,
        log: Path,
        *,
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.log = log
        self.port = port
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
        deadline = time.monotonic() + 60
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
        if server.process.returncode is not None:
            continue
        server.process.terminate()
        try:
            # Ended by the signal, in good time and not by force.
            assert server.process.wait(10) == 0, server.log.read_text()
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
def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason_in_its_last_line(
    serve: Callable[..., Server], source: str | None, reason: str
) -> None:
    server = serve(source)
    statuses = set()
    while server.process.poll() is None:
        try:
            statuses.add(server.ping())
        except httpx.TransportError:  # ended while it was being asked
            continue
    assert server.process.returncode == 1
    assert 200 not in statuses
    *_, last = server.log.read_text().splitlines()
    assert "the model could not be loaded: " in last
    assert reason in last


def test_files_in_a_folder_are_named(tmp_path: Path) -> None:
    nested = tmp_path / "model" / "my-model" / "code"
    nested.mkdir(parents=True)
    (nested / "inference.py").write_text(ALL_FOUR)
    done = subprocess.run(
        [sys.executable, str(SERVE), "--model-dir", str(tmp_path / "model"), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "my-model/code/inference.py: pack the files at the root" in done.stdout


def test_handlers_run_one_at_a_time_and_ping_still_answers(serve: Callable[..., Server]) -> None:
    server = serve(
        "import time\nrunning = []\ndef model_fn(model_dir):\n    return None\n"
        "def predict_fn(data, model):\n    running.append(1)\n    time.sleep(0.2)\n    count = len(running)\n"
        "    running.pop()\n    return count\n"
    )
    server.wait(200)
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


SLOW = """
import pathlib, time
begun = pathlib.Path(__file__).parent.parent / "begun"
def model_fn(model_dir):
    return None
def predict_fn(data, model):
    with begun.open("a") as file:
        file.write(str(data) + "\\n")
    time.sleep(data)
    return data
"""


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.01)


def test_a_signal_lets_the_calls_that_were_taken_be_answered(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(SLOW)
    server.wait(200)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(server.post, "1.5") for _ in range(2)]
        _wait_for(tmp_path / "model0" / "begun")
        time.sleep(0.5)  # the other one waits for its turn, where nothing can be seen of it
        server.process.terminate()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert server.process.wait(20) == 0
    assert server.ping() == 0


def test_a_call_that_never_ends_is_given_up_when_the_time_to_drain_is_over(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(SLOW, arguments=("--drain-seconds", "1"))
    server.wait(200)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "3600")
        _wait_for(tmp_path / "model0" / "begun")
        server.process.terminate()
        assert server.process.wait(10) == 0
        assert answer.result().status_code == 503
        assert "stopped" in answer.result().json()["message"]


def test_a_signal_ends_it_while_the_model_loads(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve("import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(3600)\n")
    _wait_for(tmp_path / "model0" / "code" / "begun")
    server.process.terminate()
    assert server.process.wait(10) == 0


def test_after_a_kill_another_one_takes_the_port(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(SLOW)
    server.wait(200)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "3600")
        _wait_for(tmp_path / "model0" / "begun")
        server.process.kill()
        with pytest.raises(httpx.TransportError):
            answer.result()
    assert server.process.wait(5) == -signal.SIGKILL
    second = serve(SLOW, environment={"SAGEMAKER_BIND_TO_PORT": str(server.port)})
    second.port = server.port
    second.client.base_url = server.client.base_url
    assert second.wait(200) == 200


def test_a_port_that_is_taken_is_one_clear_error(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(ALL_FOUR)
    server.wait(200)
    command = [sys.executable, str(SERVE), "--model-dir", str(tmp_path / "model0"), "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in done.stderr
    assert server.ping() == 200


@pytest.mark.parametrize(("limit", "most"), [({}, 6 * 1024**2), ({"ASKLINE_MAX_BODY_MB": "4"}, 4 * 1024**2)])
def test_a_body_over_the_limit_is_refused_and_one_at_it_is_not(
    serve: Callable[..., Server], limit: dict[str, str], most: int
) -> None:
    server = serve(
        "def model_fn(d):\n    return len\ndef input_fn(b, c):\n    return {'inputs': b}\n",
        environment=limit,
    )
    server.wait(200)

    def chunks() -> Iterator[bytes]:
        for _ in range(most // 65536 + 8):
            yield b"x" * 65536

    for body in (b"x" * (most + 1024**2), b"x" * (most + 1), chunks()):
        refused = server.client.post("/invocations", content=body, headers={"content-type": "text/plain"})
        assert refused.status_code == 413
        assert f"{most:,}" in refused.json()["message"]
    assert server.post(b"x" * most, content_type="text/plain").json() == most


def test_rubbish_and_slow_callers_do_not_keep_others_from_their_answers(serve: Callable[..., Server]) -> None:
    server = serve(ALL_FOUR, arguments=("--body-seconds", "0.3"))
    server.wait(200)
    start = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 10) as half_a_head:
        half_a_head.sendall(start)
        with socket.create_connection(("127.0.0.1", server.port), 10) as half_a_body:
            half_a_body.sendall(start + b"Content-Length: 10\r\n\r\nhal")
            assert server.post("x", content_type="text/plain").status_code == 200
            assert half_a_body.recv(4096).startswith(b"HTTP/1.1 408 ")
        for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", start + b"Content-Length: -1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                connection.sendall(rubbish + b"\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
        half_a_head.sendall(b"Content-Length: 1\r\n\r\nx")
        assert half_a_head.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_what_nobody_waits_for_is_not_begun(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(SLOW)
    server.wait(200)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "2.5")
        _wait_for(tmp_path / "model0" / "begun")
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(head + b"0.3")
            time.sleep(0.1)
        assert first.result().json() == 2.5
    assert server.post("0.01").json() == 0.01
    assert (tmp_path / "model0" / "begun").read_text().split() == ["2.5", "0.01"]
    assert "a caller left" in server.log.read_text()


def test_errors_that_no_future_can_carry_are_answered_too(serve: Callable[..., Server]) -> None:
    server = serve(
        "import sys\ndef model_fn(d):\n    return None\ndef predict_fn(data, model):\n"
        "    if data == 'exit':\n        sys.exit(3)\n    if data == 'lines':\n        raise ValueError('a\\nb')\n"
        "    if data == 'number':\n        return {1}\n    return next(iter(data))\n"
    )
    server.wait(200)
    for body, name in [('""', "StopIteration"), ('"exit"', "SystemExit"), ('"number"', "TypeError")]:
        answer = server.post(body)
        assert answer.status_code == 500
        assert name in answer.json()["message"]
    assert server.post('"lines"').json()["message"] == "a\nb"
    assert "refused a request: a b\n" in server.log.read_text()
    assert server.post('"x"').json() == "x"


def test_methods_paths_and_custom_attributes(serve: Callable[..., Server]) -> None:
    server = serve(ALL_FOUR)
    server.wait(200)
    assert server.client.head("/ping").status_code == 200
    assert server.client.post("/ping").status_code == 405
    assert server.client.get("/invocations").headers["allow"] == "POST"
    for body, status in [("x", 200), ("bad", 400), ("broken", 500)]:
        answer = server.post(body, content_type="text/plain", x_amzn_sagemaker_custom_attributes="trace=7")
        assert answer.status_code == status
        assert answer.headers["x-amzn-sagemaker-custom-attributes"] == "trace=7"


def test_the_log_says_what_a_cold_start_took_and_on_what(serve: Callable[..., Server]) -> None:
    server = serve(ALL_FOUR)
    server.wait(200)
    server.post("x", content_type="text/plain")
    server.post("x", content_type="text/plain")
    log = server.log.read_text()
    assert re.search(
        r"cold start: model loaded \d+\.\d\d s after .*import 0\.\d\d s, model_fn 0\.\d\d s.*CPU .* threads", log
    )
    assert log.count("cold start: first answer") == 1


def test_threads_are_set_before_the_archive_is_imported_unless_they_were_given(serve: Callable[..., Server]) -> None:
    source = (
        "import os\nseen = [os.environ[n] for n in ('OMP_NUM_THREADS', 'ASKLINE_TORCH_THREADS')]\n"
        "def model_fn(d):\n    return lambda inputs: seen\n"
    )
    given = serve(source, arguments=("--workers", "64"), environment={"OMP_NUM_THREADS": "7"})
    given.wait(200)
    assert given.post('{"inputs": 1}').json() == ["7", "1"]


def test_workers_let_calls_run_side_by_side(serve: Callable[..., Server]) -> None:
    server = serve(
        "import threading\ndef model_fn(d):\n    return threading.Barrier(2)\n"
        "def predict_fn(data, model):\n    model.wait(10)\n    return data\n",
        arguments=("--workers", "2"),
    )
    server.wait(200)
    with ThreadPoolExecutor(2) as pool:
        assert [answer.json() for answer in pool.map(server.post, ("1", "2"))] == [1, 2]


def test_nothing_is_written_beside_the_model(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(ALL_FOUR.replace("import json", "import helper, json"), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    code = tmp_path / "model0" / "code"
    before = sorted(code.rglob("*"))
    assert server.process.wait(30) == 1  # there is no helper yet
    (code / "helper.py").touch()
    second = Server(tmp_path / "model0", tmp_path / "second.txt", environment={"PYTHONDONTWRITEBYTECODE": "1"})
    try:
        second.wait(200)
        assert second.post("x", content_type="text/plain").status_code == 200
        assert sorted(code.rglob("*")) == sorted([*before, code / "helper.py"])
    finally:
        second.client.close()
        second.process.terminate()
        second.process.wait(10)


def test_it_imports_nothing_of_ours() -> None:
    sources = [SERVE, *(CONTAINER / "lean_server").glob("*.py")]
    assert len(sources) > 3
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                room = words[1].partition(".")[0]
                assert room not in ("askline", "flows", "tasks", "inference", "local_cloud", "lambda_handler"), line
