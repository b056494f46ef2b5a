"""What the API's handler costs before it answers, beside a plain boto3 handler such as the first version's.

::

    python -m benchmarks.handler [--runs 11] [--json]

Both are started as Lambda starts them, each time in a fresh process that finds nothing but the handler's own zip and
boto3: the import with ``python -X importtime``, then, in other processes and by the clock, the import together with the
first call and the second one, against a SageMaker runtime and a Parameter Store on loopback. Runs of the two handlers
alternate, so that a busy machine slows both; what is printed is the median.

The zip is unpacked where nothing can be written beside it, as on Lambda. The line "without bytecode" is what the same
zip would cost if it held sources only.
"""

import argparse
import http.server
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.deploy_api import lambda_zip

#: What the first version did, in our words: a client for each call, the key straight into the endpoint's name, and
#: JSON in JSON.
PLAIN = """
import json

import boto3


def handler(event, context):
    runtime = boto3.client("sagemaker-runtime")
    reply = runtime.invoke_endpoint(
        EndpointName="serv-hf-endpoint-" + event["MLKey"],
        ContentType="application/json",
        Body=json.dumps({"inputs": event["question"]}),
    )
    return {"statusCode": 200, "body": json.dumps(reply["Body"].read().decode())}
"""
CALLS = """
import json, sys, time
started, cpu = time.perf_counter(), time.process_time()
from {module} import handler
imported = time.perf_counter()
class Context:
    aws_request_id = function_name = invoked_function_arn = "x"
    memory_limit_in_mb = 256
    def get_remaining_time_in_millis(self):
        return 28_000
took = [imported - started]
for call in range(2):
    before = time.perf_counter()
    assert "yes" in json.dumps(handler({{"MLKey": "biography", "question": "Who?"}}, Context()))
    took.append(time.perf_counter() - before)
    if call == 0:
        took.append(time.process_time() - cpu)
print("\\n" + json.dumps(took))
"""


@dataclass(frozen=True)
class Cost:
    """Medians, in milliseconds; the zip in bytes."""

    handler: str
    zip_bytes: int
    import_ms: float
    modules: int
    first_answer_ms: float
    """Import and first call."""
    first_answer_cpu_ms: float
    """The processor time of that, which a busy machine stretches less."""
    next_answer_ms: float


class Aws(http.server.BaseHTTPRequestHandler):
    """One endpoint that says yes, and one registry entry."""

    def do_POST(self) -> None:
        """Answer either service."""
        self.rfile.read(int(self.headers["Content-Length"]))
        entry = {"mlkey": "biography", "endpoint": "serv-hf-endpoint-biography", "model_version": "m"}
        answer: dict[str, Any] = {"answers": [{"answer": "yes", "confidence": 1.0}], "model_version": "m"}
        if "X-Amz-Target" in self.headers:
            answer = {
                "Parameter": {"Name": "/askline/registry/biography", "Type": "String", "Value": json.dumps(entry)}
            }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="processes for each handler and measurement")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Aws)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            costs = measure(Path(scratch), options.runs, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    print(json.dumps([asdict(cost) for cost in costs], indent=2) if options.json else table(costs, options.runs))


def measure(scratch: Path, runs: int, url: str) -> list[Cost]:
    """Return what each handler costs, the plain one first."""
    boto3 = _boto3(scratch / "boto3")
    handlers = {
        "plain boto3": (_unpacked(_plain_zip(), scratch / "plain"), "plain"),
        "askline": (_unpacked(lambda_zip.build().content, scratch / "askline"), "lambda_handler.app"),
        "askline without bytecode": (_unpacked(_sources_only(), scratch / "sources"), "lambda_handler.app"),
    }
    imports: dict[str, list[tuple[float, int]]] = {name: [] for name in handlers}
    answers: dict[str, list[tuple[float, float, float]]] = {name: [] for name in handlers}
    # The first round only warms the disk's cache and compiles boto3, which comes compiled on Lambda.
    for turn in range(runs + 1):
        for name, ((folder, _), module) in handlers.items():
            imported = _importtime(module, folder, boto3, url)
            took = json.loads(_python(["-c", CALLS.format(module=module)], folder, boto3, url).stdout.splitlines()[-1])
            if turn:
                imports[name].append(imported)
                answers[name].append((took[0] + took[1], took[2], took[3]))
    return [
        Cost(
            handler=name,
            zip_bytes=size,
            import_ms=statistics.median(ms for ms, _ in imports[name]),
            modules=imports[name][0][1],
            first_answer_ms=statistics.median(first for first, _, _ in answers[name]) * 1000,
            first_answer_cpu_ms=statistics.median(cpu for _, cpu, _ in answers[name]) * 1000,
            next_answer_ms=statistics.median(following for _, _, following in answers[name]) * 1000,
        )
        for name, ((_, size), _) in handlers.items()
    ]


def table(costs: list[Cost], runs: int) -> str:
    """Return the figures for people."""
    lines = [
        f"Python {platform.python_version()}, boto3 {metadata.version('boto3')}, "
        f"Powertools {metadata.version(lambda_zip.LIBRARY)}, {os.cpu_count()} processors; medians of {runs} processes",
        "",
        "| handler | zip | import | modules | import + first answer | of it processor | next answer |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cost.handler} | {cost.zip_bytes / 1024:,.0f} KiB | {cost.import_ms:.0f} ms | {cost.modules} "
        f"| {cost.first_answer_ms:.0f} ms | {cost.first_answer_cpu_ms:.0f} ms | {cost.next_answer_ms:.1f} ms |"
        for cost in costs
    ]
    return "\n".join(lines)


def _importtime(module: str, folder: Path, boto3: Path, url: str) -> tuple[float, int]:
    """Return the milliseconds and the number of modules that ``-X importtime`` counts for one import."""
    lines = _python(["-X", "importtime", "-c", f"import {module}"], folder, boto3, url).stderr.splitlines()
    counted = [line.split("|") for line in lines if line.startswith("import time:")]
    (milliseconds,) = [int(parts[1]) / 1000 for parts in counted if parts[2].strip() == module]
    return milliseconds, len(counted) - 1


def _python(arguments: list[str], folder: Path, boto3: Path, url: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(folder), str(boto3)]),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": url,
        "POWERTOOLS_METRICS_NAMESPACE": "askline",
        "NO_PROXY": "127.0.0.1",
    }
    # -S: without the site packages of this environment, which Lambda lacks; -B: nothing is written beside the code.
    done = subprocess.run(
        [sys.executable, "-S", "-B", *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done


def _boto3(folder: Path) -> Path:
    """Return a folder with boto3 and what it needs, and nothing else, compiled as on Lambda."""
    import compileall
    import shutil

    folder.mkdir()
    for name in lambda_zip.with_dependencies("boto3"):
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(distribution.locate_file(file)), target)
    compileall.compile_dir(folder, quiet=2)
    return folder


def _plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plain.py", PLAIN)
    return buffer.getvalue()


def _sources_only() -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(lambda_zip.build().content)) as whole,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for name in whole.namelist():
            if not name.endswith(".pyc"):
                archive.writestr(name, whole.read(name))
    return buffer.getvalue()


def _unpacked(content: bytes, folder: Path) -> tuple[Path, int]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
    return folder, len(content)


if __name__ == "__main__":
    main()
