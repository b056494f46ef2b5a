"""What the serving container costs beside other HTTP servers: cold start, memory and requests per second.

``python -m benchmarks.container [--archive model.tar.gz] [--repeat 7] [--python PYTHON]`` serves one unpacked archive
with ``deployments/container`` and with the same archive's functions behind every other server that PYTHON has, in
turn, over and over, and prints the medians. Without ``--archive`` the archive holds a model that does nothing, so that
what is left is the server's own cost; ``--body`` is what is asked.

``--python`` is the interpreter that the servers run in, by default this one: an environment with just the libraries of
``deployments/container/requirements.txt``, and ``waitress``, ``granian`` and so on beside them, shows what the image
would do. ``--serve PATH`` adds another file with the command line of ``deployments/container/serve.py``, such as an
earlier version of it. It takes about three seconds for each server and turn.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from tasks.package.archive import unpack

CONTAINER = Path(__file__).parents[1] / "deployments" / "container"
NOTHING = "def model_fn(model_dir):\n    return lambda inputs: {'answers': [{'answer': 'Warsaw', 'confidence': 1.0}]}\n"
CLIENTS = (1, 8)
PATIENCE_SECONDS = 120.0

#: Every other server runs the same handler, loaded before it listens, one call at a time.
_HEAD = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {container!r})
from lean_server.handlers import Handler
handler, lock, port = Handler(Path({model!r})), threading.Lock(), {port}
def answer(body):
    with lock:
        return handler(body, "application/json", "application/json")
"""
_WSGI = """
def app(environ, start_response):
    body = b""
    if environ["PATH_INFO"] != "/ping":
        body = answer(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
_ASGI = """
import asyncio
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    if scope["path"] != "/ping":
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        body = await asyncio.to_thread(answer, body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
_STARLETTE = """
import asyncio, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def ping(request):
    return Response()
async def invocations(request):
    return Response(await asyncio.to_thread(answer, await request.body()), media_type="application/json")
app = Starlette(routes=[Route("/ping", ping), Route("/invocations", invocations, methods=["POST"])])
uvicorn.run(app, port=port, http="h11", loop="asyncio", access_log=False, log_config=None)
"""
_GUNICORN = """
from gunicorn.app.base import BaseApplication
class Application(BaseApplication):
    def load_config(self):
        self.cfg.set("bind", f"127.0.0.1:{port}")
        self.cfg.set("worker_class", "gthread")
        self.cfg.set("threads", 8)
        self.cfg.set("keepalive", 30)
    def load(self):
        return app
Application().run()
"""
_HYPERCORN = """
from hypercorn.asyncio import serve
from hypercorn.config import Config
config = Config()
config.bind = [f"127.0.0.1:{port}"]
asyncio.run(serve(app, config))
"""
_GRANIAN = """
from granian.server.embed import Server
asyncio.run(Server(app, address="127.0.0.1", port=port, interface="asginl", log_enabled=False).serve())
"""
OTHERS = {
    "uvicorn, bare": (
        "uvicorn",
        _ASGI + "\nimport uvicorn\nuvicorn.run(app, port=port, http='h11', loop='asyncio',"
        " lifespan='off', ws='none', access_log=False, log_config=None)\n",
    ),
    "uvicorn, httptools": (
        "httptools",
        _ASGI + "\nimport uvicorn\nuvicorn.run(app, port=port, http='httptools',"
        " loop='asyncio', lifespan='off', ws='none', access_log=False, log_config=None)\n",
    ),
    "uvicorn, Starlette": ("starlette", _STARLETTE),
    "hypercorn": ("hypercorn", _ASGI + _HYPERCORN),
    "granian, embedded": ("granian", _ASGI + _GRANIAN),
    "waitress": (
        "waitress",
        _WSGI + "\nfrom waitress import serve\nserve(app, host='127.0.0.1', port=port, threads=8)\n",
    ),
    "cheroot": (
        "cheroot",
        _WSGI + "\nfrom cheroot.wsgi import Server\nServer(('127.0.0.1', port), app, numthreads=8).start()\n",
    ),
    "gunicorn, threads": ("gunicorn", _WSGI + _GUNICORN),
}


class Turn(NamedTuple):
    """One server's figures of one turn."""

    ping_seconds: float
    """From the start of the process to the first 200 of ``/ping``."""
    answer_seconds: float
    """And to the first answer."""
    cpu_seconds: float
    """Of the processor, up to then."""
    resident_mb: float
    rates: tuple[float, ...]
    """Requests per second, for each number of clients."""
    microseconds: tuple[float, ...]
    """The server's processor time for one request, likewise; unlike a rate it says little about who else is busy."""


def commands(port: int, model: Path, python: str, serve: Sequence[Path]) -> dict[str, list[str]]:
    """Return how each server is started; those whose library is missing are left out."""
    arguments = ["--model-dir", str(model), "--port", str(port)]
    found = {"this container": [python, str(CONTAINER / "serve.py"), *arguments]}
    found |= {f"{path.name} of {path.parent.name}": [python, str(path), *arguments] for path in serve}
    head = _HEAD.format(container=str(CONTAINER), model=str(model), port=port)
    for name, (library, source) in OTHERS.items():
        if subprocess.run([python, "-c", f"import {library}"], capture_output=True, check=False).returncode == 0:
            found[name] = [python, "-c", head + source]
    return found


def measure(command: list[str], port: int, body: bytes, requests: int) -> Turn:
    """Start a server, ask it, and end it."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not _ping(port):
            if process.poll() is not None:
                assert process.stderr is not None
                raise SystemExit(f"{command[:2]} ended: {process.stderr.read().decode(errors='replace')[-1500:]}")
            if time.perf_counter() - start > PATIENCE_SECONDS:
                raise SystemExit(f"{command[:2]} was not ready within {PATIENCE_SECONDS:g} seconds")
            time.sleep(0.01)
        ping_seconds = time.perf_counter() - start
        asyncio.run(_clients(port, 1, 1, body))
        answer_seconds = time.perf_counter() - start
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        cpu = _cpu_seconds(family)
        resident = sum(member.memory_info().rss for member in family) / 2**20
        rates, microseconds = [], []
        for count in CLIENTS:
            before, begun = _cpu_seconds(family), time.perf_counter()
            asyncio.run(_clients(port, count, requests, body))
            rates.append(requests / (time.perf_counter() - begun))
            microseconds.append((_cpu_seconds(family) - before) / requests * 1e6)
        return Turn(ping_seconds, answer_seconds, cpu, resident, tuple(rates), tuple(microseconds))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


async def _clients(port: int, count: int, requests: int, body: bytes) -> None:
    # Bare sockets: an HTTP library would cost more than the servers do.
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests // count):
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"a request was not answered: {answer!r} {await reader.read(500)!r}")
            fields = dict(line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields[b"content-length"]))
        writer.close()

    await asyncio.gather(*[client() for _ in range(count)])


def _cpu_seconds(family: Sequence[psutil.Process]) -> float:
    return float(sum(sum(member.cpu_times()[:2]) for member in family))


def table(turns: dict[str, list[Turn]]) -> str:
    """Return the medians as a Markdown table."""
    asked = [
        f"{unit}, {count} client{'s' * (count > 1)}" for unit in ("req/s", "CPU µs a request") for count in CLIENTS
    ]
    lines = [
        "| " + " | ".join(["server", "first ping, s", "first answer, s", "CPU until then, s", "MB", *asked]) + " |"
    ]
    lines.append("|---" * (5 + len(asked)) + "|")
    for name, values in turns.items():
        cold = [statistics.median(column) for column in list(zip(*[turn[:4] for turn in values], strict=True))]
        steady = [
            statistics.median(column)
            for rows in ([turn.rates for turn in values], [turn.microseconds for turn in values])
            for column in zip(*rows, strict=True)
        ]
        cells = [f"{cold[0]:.3f}", f"{cold[1]:.3f}", f"{cold[2]:.2f}", f"{cold[3]:.0f}", *[f"{x:,.0f}" for x in steady]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--archive", type=Path, help="model.tar.gz to serve; default: a model that does nothing")
    parser.add_argument("--body", default='{"inputs": "Where was she born?"}', help="what is asked, as JSON")
    parser.add_argument("--repeat", type=int, default=7, help="turns of each server")
    parser.add_argument("--requests", type=int, default=800, help="asked at each number of clients")
    parser.add_argument("--python", default=sys.executable, help="interpreter that the servers run in")
    parser.add_argument("--serve", type=Path, action="append", default=[], help="another serve.py to compare")
    options = parser.parse_args(argv)
    for name in ("OMP_NUM_THREADS", "ASKLINE_TORCH_THREADS"):
        os.environ.setdefault(name, "1")
    turns: dict[str, list[Turn]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        if options.archive:
            unpack(options.archive, model)
        else:
            (model / "code").mkdir(parents=True)
            (model / "code" / "inference.py").write_text(NOTHING, encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        found = commands(port, model, options.python, options.serve)
        for _ in range(options.repeat):
            for name, command in found.items():
                turns.setdefault(name, []).append(measure(command, port, options.body.encode(), options.requests))
    print(table(turns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
