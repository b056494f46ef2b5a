"""What :mod:`benchmarks.redeploy` is made of: one deployment in a process of its own, clients that ask, and a proxy.

The process is ``python -m benchmarks.redeploy_act``, fed with one JSON document on its standard input.
"""

import gzip
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from askline.clients import aws_client
from askline.config import DeployConfig, PackageConfig, SmokeConfig
from askline.errors import AsklineError
from askline.records import PackageRef, Scores, SplitScores, Target
from askline.store import ArtifactStore, sha256_of_file
from tasks.ask.endpoint import Caller
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.deploy_serverless import deploy_serverless
from tasks.deploy_serverless.plan import plan_deploy
from tasks.deployed.restore import restore
from tasks.deployed.teardown import sweep
from tasks.package.upload import upload_package
from tasks.smoke_invoke.smoke_invoke import smoke_invoke
from tasks.workplace import Workplace

ROOT = Path(__file__).parents[1]
#: The embedded SageMaker serves the archive itself. Named here, since the SDK with its table takes seconds to load.
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu-py312"
QUESTIONS = ("Who was she?", "Where was she born?", "What did she find?")
#: An archive that says which version it is. Loading takes a while, as it does for a model.
CODE = """
import json, time
def model_fn(model_dir):
    {load}
    return "{version}"
def predict_fn(data, model):
    {answer}
    said = "{said}" + " heard " + data["inputs"]
    return {{"answers": [{{"answer": said, "confidence": 1.0}}], "model_version": model}}
def output_fn(prediction, accept):
    return json.dumps(prediction)
"""


class Done(NamedTuple):
    """How a deployment ended."""

    said: str
    """``created``, ``updated``, ``unchanged``, ``failed`` or ``killed``."""
    error: str | None = None


class Bench:
    """Deployments of small archives to one embedded cloud."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder

    def act(
        self,
        mlkey: str,
        version: str,
        *,
        kind: str,
        breaks: str | None = None,
        target: Target | None = None,
        **options: str,
    ) -> Done:
        """Upload, deploy, ask, promote, in a process of its own; put right if that fails.

        ``options`` are further ones of ``deploy``.
        """
        order = {
            "target": (target or self.target).model_dump(),
            "folder": str(self.folder),
            "mlkey": mlkey,
            "version": version,
            "options": options,
            "kind": kind,
            "breaks": breaks,
        }
        command = [sys.executable, "-m", "benchmarks.redeploy_act"]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        _Killer.victim = process
        out, err = process.communicate(json.dumps(order), timeout=600)
        _Killer.victim = None
        if process.returncode == -signal.SIGKILL:
            return Done("killed")
        if process.returncode:
            raise RuntimeError(f"the deployment of {mlkey} ended with {process.returncode}: {out}{err[-2000:]}")
        return Done(**json.loads(out.splitlines()[-1]))

    def answering(self, mlkey: str) -> str:
        """Return the version that answers for an MLKey."""
        try:
            return Caller(f"serv-hf-endpoint-{mlkey}", target=self.target).ask("?").text.partition(" ")[0]
        except AsklineError as error:
            return f"nobody: {error}"

    def ask_badly(self, mlkey: str, question: str) -> str | None:
        """Return what is said when the endpoint is asked something impossible."""
        try:
            Caller(f"serv-hf-endpoint-{mlkey}", target=self.target).ask(question)
        except AsklineError as error:
            return str(error)
        return None

    def resources(self, mlkey: str) -> dict[str, set[str]]:
        """Return the names of all that there is of an MLKey, by kind."""
        client = aws_client(self.target, "sagemaker")
        part = f"askline-{mlkey}-"
        return {
            "models": {each["ModelName"] for each in client.list_models(NameContains=part, MaxResults=100)["Models"]},
            "configs": {
                each["EndpointConfigName"]
                for each in client.list_endpoint_configs(NameContains=part, MaxResults=100)["EndpointConfigs"]
            },
            "endpoints": {
                f"{each['EndpointName']} {each['EndpointStatus']}"
                for each in client.list_endpoints(NameContains=f"serv-hf-endpoint-{mlkey}")["Endpoints"]
            },
        }

    def left(self, mlkey: str) -> str:
        """Say what there is, in a few words."""
        found = self.resources(mlkey)
        status = next((name.rpartition(" ")[2] for name in found["endpoints"]), "no endpoint")
        return f"{len(found['models'])} models, {len(found['configs'])} configs, {status}"

    def orphans(self, mlkey: str) -> set[str]:
        """Return models and configurations that neither the endpoint nor a version of the registry refers to."""
        client = aws_client(self.target, "sagemaker")
        found = self.resources(mlkey)
        served = [entry.served_by for entry in registry.history(mlkey, self.target) if entry.served_by is not None]
        configs = {each.config_name for each in served}
        models = {each.model_name for each in served}
        for name in found["endpoints"]:
            config = client.describe_endpoint(EndpointName=name.partition(" ")[0])["EndpointConfigName"]
            configs.add(config)
            described = client.describe_endpoint_config(EndpointConfigName=config)
            models.add(described["ProductionVariants"][0]["ModelName"])
        return (found["configs"] - configs) | (found["models"] - models)


class Asked:
    """What clients met with while they asked."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.versions: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Requests that were made."""
        return len(self.seconds) + self.failed

    @property
    def failed(self) -> int:
        """Requests that were not answered."""
        return self.errors.total()

    def line(self) -> str:
        """Return the figures of a row."""
        cuts = statistics.quantiles(self.seconds, n=20) if len(self.seconds) > 1 else [0.0] * 19
        who = ", ".join(f"{version} {count}" for version, count in sorted(self.versions.items()))
        errors = "".join(f"; {count} × {error}" for error, count in self.errors.items())
        return f"{self.count:>9}{self.failed:>8}{1000 * cuts[9]:>8.1f}{1000 * cuts[18]:>8.1f}  {who}{errors}"


@contextmanager
def clients(target: Target, mlkey: str, *, at_least: int, threads: int = 4) -> Iterator[Asked]:
    """Ask from several threads without a pause while the block runs, and on until there were enough requests."""
    asked, over, lock = Asked(), threading.Event(), threading.Lock()

    def ask() -> None:
        runtime = aws_client(target, "sagemaker-runtime", read_timeout=70, retries={"total_max_attempts": 1})
        while not over.is_set():
            started = time.monotonic()
            try:
                reply = runtime.invoke_endpoint(
                    EndpointName=f"serv-hf-endpoint-{mlkey}",
                    ContentType="application/json",
                    Body=json.dumps({"inputs": QUESTIONS[0]}).encode(),
                )
                version = json.loads(reply["Body"].read())["answers"][0]["answer"].partition(" ")[0]
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                with lock:
                    asked.errors[f"{type(error).__name__}: {error}"[:200]] += 1
                continue
            with lock:
                asked.seconds.append(time.monotonic() - started)
                asked.versions[version] += 1
            time.sleep(0.002)  # a client reads what it gets

    askers = [threading.Thread(target=ask) for _ in range(threads)]
    for asker in askers:
        asker.start()
    try:
        yield asked
        deadline = time.monotonic() + 120
        while asked.count < at_least and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        over.set()
        for asker in askers:
            asker.join()


class _Killer(BaseHTTPRequestHandler):
    """Passes calls on to SageMaker, and kills the caller as soon as the chosen one is answered, or asked."""

    victim: subprocess.Popen[str] | None = None
    backend = ""
    call = ""
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        called = self.headers.get("X-Amz-Target", "").removeprefix("SageMaker.")
        if self.call == "InvokeEndpoint" and self.path.endswith("/invocations"):
            return self._kill()
        place = urlsplit(self.backend)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        connection.request("POST", self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        if called == self.call:
            return self._kill()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def _kill(self) -> None:
        if self.victim is not None:
            self.victim.kill()
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def proxied(target: Target, call: str) -> Iterator[Target]:
    """Return the target with a proxy in front of SageMaker that kills whoever deploys at ``call``."""
    _Killer.backend, _Killer.call = target.endpoints["sagemaker"], call
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Killer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        here = f"http://127.0.0.1:{server.server_port}"
        yield target.model_copy(
            update={"endpoints": {**target.endpoints, "sagemaker": here, "sagemaker-runtime": here}}
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_package(store: ArtifactStore, version: str, breaks: str | None) -> tuple[PackageRef, Scores]:
    """Store an archive, and the evaluation that its answers should agree with."""
    code = CODE.format(
        version=version,
        load="raise RuntimeError('broken on purpose')" if breaks == "load" else "time.sleep(1.5)",
        answer={"slow": "time.sleep(61)", "hold": "time.sleep(20)"}.get(breaks or "", "pass"),
        said="nonsense" if breaks == "answer" else version,
    )
    with store.new("package") as draft:
        path = draft.folder / "model.tar.gz"
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as tar:
            member = tarfile.TarInfo("readme.txt" if breaks == "empty" else "code/inference.py")
            member.size = len(code.encode())
            tar.addfile(member, io.BytesIO(code.encode()))
        path.write_bytes(gzip.compress(held.getvalue(), mtime=0))  # the same version is the same archive
        facts: dict[str, Any] = {"archive_sha256": sha256_of_file(path), "size": path.stat().st_size}
        package = PackageRef(sha256=draft.commit(), model_sha256=version, members=(), unpacked_size=1000, **facts)
    with store.new("scores") as draft:
        lines = [
            {
                "split": "test",
                "question": each,
                "answer": "?",
                "prediction": f"{version} heard {each}",
                "in_scope": True,
            }
            for each in QUESTIONS
        ]
        text = "".join(json.dumps(line | {"confidence": 1.0}) + "\n" for line in lines)
        (draft.folder / "predictions.jsonl").write_text(text)
        sha256 = draft.commit()
    split = SplitScores(questions=len(QUESTIONS), exact_match=1, token_f1=1, rouge_l=1)
    scores = Scores(
        sha256=sha256,
        model_sha256=version,
        train=split,
        test=split,
        out_of_scope=None,
        false_abstention=0,
        baselines={},
        seconds=0,
    )
    return package, scores


def act_in_process(order: dict[str, Any]) -> Done:
    """Do what the flow does from the upload on, as one act that undoes itself."""
    target, folder, mlkey = Target.model_validate(order["target"]), Path(order["folder"]), order["mlkey"]
    store = ArtifactStore(folder)
    config = None
    endpoint = None
    try:
        try:
            size: dict[str, Any] = {"memory_mb": 1024, "max_concurrency": 20} if order["kind"] == "serverless" else {}
            config = DeployConfig(mlkey=mlkey, target=order["kind"], image=IMAGE, **size, **order.get("options", {}))
        except ValueError as error:
            return Done("failed", str(error))
        package, scores = make_package(store, order["version"], order["breaks"])
        sent = upload_package(PackageConfig(), package, mlkey=mlkey, tags={}, place=Workplace(target, store=store))
        plan = plan_deploy(config, PackageConfig(), package, target=target)
        endpoint = deploy_serverless(config, plan, sent, place=Workplace(target))
        smoke_invoke(SmokeConfig(questions=3), endpoint, scores, place=Workplace(target, store=store))
        registry.promote(
            mlkey,
            endpoint=endpoint.name,
            model_version=order["version"],
            archive_sha256=package.archive_sha256,
            dataset="redeploy",
            exact_match=1.0,
            run_id="redeploy",
            target=target,
            target_model=endpoint.target_model,
        )
        sweep(endpoint.name, mlkey, target=target)
        return Done(endpoint.action)
    except AsklineError as error:
        stands = restore(config, deployed=endpoint, place=Workplace(target, folder)) if config else None
        return Done("failed", f"{error}\n{stands.said if stands else ''}")


if __name__ == "__main__":
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    print(json.dumps(act_in_process(json.loads(sys.stdin.read()))._asdict()))
