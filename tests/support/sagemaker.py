"""A real embedded SageMaker beside a real MiniStack, and the small archive that most tests serve."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

REPOSITORY = Path(__file__).parents[2]
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu-py312"
BUCKET = "archives"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


#: What a request looks like that is signed with the key of a SageMaker that runs by itself.
SIGNED = {"authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sagemaker/aws4_request"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def client(service: str, url: str, **options: Any) -> Any:
    config = Config(retries={"total_max_attempts": 1}, read_timeout=90, proxies={}, s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.session.Session(**keys).client(service, endpoint_url=url, config=config, **options)


def wait_for_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} is not healthy: {log.read_text()}")


class Aws:
    """MiniStack with a bucket, a role that SageMaker may take on, and one that it may not."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "ministack.log"
        environment = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(folder / "s3"),
            "STATE_DIR": str(folder / "state"),
            "DOCKER_HOST": f"unix://{folder}/no-docker",
        }
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ministack"],
                env={**os.environ, **environment},
                stdout=file,
                stderr=file,
                cwd=folder,
            )
        wait_for_health(f"{self.url}/_ministack/health", self.process, self.log)
        self.s3 = client("s3", self.url)
        self.s3.create_bucket(Bucket=BUCKET)
        iam = client("iam", self.url)
        self.sns, self.sqs, self.cloudwatch = (client(name, self.url) for name in ("sns", "sqs", "cloudwatch"))
        self.role = iam.create_role(RoleName="serving", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
        other = json.loads(json.dumps(TRUST).replace("sagemaker", "lambda"))
        self.untrusted = iam.create_role(RoleName="other", AssumeRolePolicyDocument=json.dumps(other))["Role"]["Arn"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def upload(self, key: str, members: dict[str, str], *, damage: Callable[[bytes], bytes] | None = None) -> str:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, text in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))
        body = buffer.getvalue()
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=damage(body) if damage else body)
        return f"s3://{BUCKET}/{key}"

    def keys(self, prefix: str) -> list[str]:
        """Return the keys under a prefix of the bucket."""
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    def read(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def alarm(self, name: str, **changes: Any) -> None:
        """Make an alarm, in the state OK, on a metric that nobody writes unless ``changes`` say otherwise."""
        alarm = {"Namespace": "Test", "MetricName": name, "Statistic": "Average", "Period": 60, "Threshold": 1}
        alarm |= {"EvaluationPeriods": 1, "ComparisonOperator": "GreaterThanOrEqualToThreshold"}
        self.cloudwatch.put_metric_alarm(AlarmName=name, **(alarm | changes))
        self.cloudwatch.set_alarm_state(AlarmName=name, StateValue="OK", StateReason="test")


class SageMaker:
    """One embedded SageMaker on a state folder of its own, which can be killed and started again."""

    def __init__(self, aws: Aws, folder: Path, *options: str) -> None:
        self.aws = aws
        self.state = folder / "state"
        self.log = folder / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = options
        self.start()
        self.api = client("sagemaker", self.url)
        self.runtime = client("sagemaker-runtime", self.url)

    def command(self) -> list[str]:
        command = [sys.executable, "-m", "local_cloud.sagemaker", "--port", str(self.port), "--state", str(self.state)]
        return [*command, "--s3", self.aws.url, "--iam", self.aws.url, *self.options]

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.command(), cwd=REPOSITORY, stdout=file, stderr=file)
        wait_for_health(f"{self.url}/_askline/health", self.process, self.log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        containers = self.containers()
        self.process.terminate()
        self.process.wait(20)
        _gone, alive = psutil.wait_procs(containers, timeout=60)
        assert not alive

    def containers(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def container(self, endpoint: str) -> psutil.Process:
        found = [child for child in self.containers() if f"/containers/{endpoint}/" in " ".join(child.cmdline())]
        assert len(found) == 1, found
        return found[0]

    def kill_container(self, endpoint: str) -> None:
        container = self.container(endpoint)
        container.kill()
        psutil.wait_procs([container], timeout=60)

    def model(self, name: str, url: str, **environment: str) -> None:
        container = {"Image": IMAGE, "ModelDataUrl": url, "Environment": environment}
        self.api.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=self.aws.role)

    def config(
        self,
        name: str,
        model: str,
        memory: int = 1024,
        concurrency: int = 5,
        *,
        more: dict[str, Any] | None = None,
        **variant: Any,
    ) -> None:
        serverless = {"ServerlessConfig": {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}}
        self.api.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[{"VariantName": "AllTraffic", "ModelName": model, **(variant or serverless)}],
            **(more or {}),
        )

    def instances(
        self, name: str, url: str, count: int = 1, kind: str = "ml.m5.large", more: dict[str, Any] | None = None
    ) -> None:
        """Create an endpoint on instances, with a model and a configuration of its name; do not wait."""
        self.model(name, url)
        self.config(name, name, InstanceType=kind, InitialInstanceCount=count, more=more)
        self.api.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def variant(self, name: str) -> dict[str, Any]:
        described = self.api.describe_endpoint(EndpointName=name)
        return dict(described["ProductionVariants"][0])

    def create(self, name: str, url: str, *, memory: int = 1024, concurrency: int = 5, **environment: str) -> None:
        self.model(name, url, **environment)
        self.config(name, name, memory, concurrency)
        self.api.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def settled(self, name: str, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            described: dict[str, Any] = self.api.describe_endpoint(EndpointName=name)
            if described["EndpointStatus"] in ("InService", "Failed"):
                return described
            time.sleep(0.1)
        raise AssertionError(f"{name} did not settle: {described} {self.log.read_text()[-3000:]}")

    def ask(self, name: str, body: object, **options: Any) -> Any:
        answer = self.runtime.invoke_endpoint(
            EndpointName=name, Body=json.dumps(body), ContentType="application/json", **options
        )
        return json.loads(answer["Body"].read())


#: For an archive's code: says that a call has begun, and keeps it until the file is there.
HOLD = """
import pathlib, time

def hold(path):
    held = pathlib.Path(path)
    held.with_suffix(".begun").touch()
    until = time.monotonic() + 60
    while not held.exists() and time.monotonic() < until:
        time.sleep(0.05)
"""
ECHO = (
    HOLD
    + """
import json, os, tempfile
def model_fn(model_dir):
    return {"dir": model_dir, "word": pathlib.Path(model_dir, "word.txt").read_text()}
def predict_fn(data, model):
    if data.get("refuse"):
        raise ValueError("this question is refused")
    if data.get("fail"):
        raise RuntimeError("no secret")
    if data.get("exit"):
        os._exit(7)
    if data.get("eat"):
        model["food"] = b"x" * data["eat"]
    if data.get("count"):
        return len(data["x"])
    if data.get("big"):
        return "x" * data["big"]
    time.sleep(data.get("sleep", 0))
    if data.get("hold"):
        hold(data["hold"])
    return {"word": model["word"], "pid": os.getpid(), "env": os.environ.get("WORD"), "home": os.environ["HOME"],
            "tmp": tempfile.gettempdir(), "got": data}
"""
)


def echo(word: str) -> dict[str, str]:
    return {"code/inference.py": ECHO, "word.txt": word}


def eventually(look: Callable[[], Any], seconds: float = 120) -> Any:
    """Return what ``look`` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} seconds; at last: {found!r}")


@contextlib.contextmanager
def refused(code: str, *words: str, status: int = 400) -> Iterator[list[dict[str, Any]]]:
    caught: list[dict[str, Any]] = []
    with pytest.raises(ClientError) as info:
        yield caught
    response: Any = info.value.response
    assert response["Error"]["Code"] == code, response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status
    for word in words:
        assert word in response["Error"]["Message"], response["Error"]["Message"]
    caught.append(response)
