"""The embedded SageMaker as its clients see it: real server, real archives, MiniStack for S3 and IAM."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support.sagemaker import (
    BUCKET,
    ECHO,
    IMAGE,
    REPOSITORY,
    SIGNED,
    Aws,
    SageMaker,
    echo,
    eventually,
    refused,
)

from local_cloud.sagemaker.api.validation import service_model, validate
from local_cloud.sagemaker.archive import remove_tree
from local_cloud.sagemaker.errors import StateError
from local_cloud.sagemaker.serving.container import end_leftover
from local_cloud.sagemaker.state import State

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    aws = Aws(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.stop()


@pytest.fixture(scope="module")
def sagemaker(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMaker]:
    sagemaker = SageMaker(aws, tmp_path_factory.mktemp("sagemaker"), "--startup-seconds", "30")
    yield sagemaker
    sagemaker.stop()


@pytest.fixture
def own(aws: Aws, tmp_path: Path) -> Iterator[Callable[..., SageMaker]]:
    """A server for one test, with options of its own."""
    started: list[SageMaker] = []

    def start(*options: str) -> SageMaker:
        started.append(SageMaker(aws, tmp_path, *options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def url(aws: Aws) -> str:
    return aws.upload("echo/model.tar.gz", echo("one"))


@pytest.fixture(scope="module")
def endpoint(sagemaker: SageMaker, url: str) -> str:
    sagemaker.create("shared", url, WORD="from the model")
    assert sagemaker.settled("shared")["EndpointStatus"] == "InService", sagemaker.log.read_text()
    return "shared"


# -- the life of an endpoint -----------------------------------------------------------------------------------------


def test_an_archive_becomes_an_endpoint_that_answers(sagemaker: SageMaker, endpoint: str) -> None:
    described = sagemaker.api.describe_endpoint(EndpointName=endpoint)
    assert described["EndpointArn"].endswith(":endpoint/shared")
    variant = described["ProductionVariants"][0]
    assert variant["VariantName"] == "AllTraffic"
    assert variant["CurrentServerlessConfig"] == {"MemorySizeInMB": 1024, "MaxConcurrency": 5}
    assert variant["DeployedImages"][0]["SpecifiedImage"] == IMAGE
    assert not {"VpcConfig", "DataCaptureConfig", "FailureReason", "PendingDeploymentSummary"} & set(described)

    answer = sagemaker.runtime.invoke_endpoint(
        EndpointName=endpoint,
        Body=b'{"question": "gr\xc3\xbc\xc3\x9fe"}',
        ContentType="application/json",
        Accept="application/json",
    )
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    said = json.loads(answer["Body"].read())
    assert (said["word"], said["env"], said["got"]) == ("one", "from the model", {"question": "grüße"})
    assert said["tmp"].startswith(str(sagemaker.state))
    assert said["home"].startswith(str(sagemaker.state))
    assert "model loaded" in (sagemaker.state / "logs" / "shared.log").read_text()


def test_answers_fit_the_service_model(sagemaker: SageMaker, endpoint: str) -> None:
    for operation, request in [
        ("DescribeModel", {"ModelName": endpoint}),
        ("DescribeEndpointConfig", {"EndpointConfigName": endpoint}),
        ("DescribeEndpoint", {"EndpointName": endpoint}),
        ("ListModels", {}),
        ("ListEndpointConfigs", {}),
        ("ListEndpoints", {}),
    ]:
        headers = {"x-amz-target": f"SageMaker.{operation}", **SIGNED}
        answer = httpx.post(sagemaker.url, json=request, headers=headers, trust_env=False)
        assert answer.headers["content-type"] == "application/x-amz-json-1.1"
        shape = service_model("sagemaker").operation_model(operation).output_shape
        validate(shape, answer.json())
        assert set(answer.json()) <= set(shape.members)


def test_creating_is_answered_at_once_and_cannot_be_called_or_changed(sagemaker: SageMaker, aws: Aws) -> None:
    slow = aws.upload(
        "slow.tar.gz", {"code/inference.py": "import time\ndef model_fn(d):\n    time.sleep(2)\n    return str\n"}
    )
    began = time.monotonic()
    sagemaker.create("creating", slow)
    described = sagemaker.api.describe_endpoint(EndpointName="creating")
    assert time.monotonic() - began < 2
    assert described["EndpointStatus"] == "Creating"
    assert described["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Creating"
    assert described["PendingDeploymentSummary"]["EndpointConfigName"] == "creating"
    with refused("ValidationError", "creating", "not in service"):
        sagemaker.ask("creating", {})
    with refused("ValidationException", "Cannot update in-progress endpoint"):
        sagemaker.api.delete_endpoint(EndpointName="creating")
    with refused("ValidationException", "Cannot update in-progress endpoint"):
        sagemaker.api.update_endpoint(EndpointName="creating", EndpointConfigName="creating")
    assert sagemaker.settled("creating")["EndpointStatus"] == "InService"


def test_what_is_deleted_is_gone_and_can_be_made_again(sagemaker: SageMaker, url: str) -> None:
    for _ in range(2):
        sagemaker.create("brief", url)
        assert sagemaker.settled("brief")["EndpointStatus"] == "InService"
        container = sagemaker.container("brief")
        sagemaker.api.delete_endpoint(EndpointName="brief")
        sagemaker.api.get_waiter("endpoint_deleted").wait(EndpointName="brief", WaiterConfig={"Delay": 1})
        assert not psutil.pid_exists(container.pid)
        assert not (sagemaker.state / "containers" / "brief").exists()
        # An endpoint does not need its configuration and model any more; they are deleted on their own.
        sagemaker.api.delete_endpoint_config(EndpointConfigName="brief")
        sagemaker.api.delete_model(ModelName="brief")
    for call in (
        lambda: sagemaker.api.describe_endpoint(EndpointName="brief"),
        lambda: sagemaker.api.delete_endpoint(EndpointName="brief"),
        lambda: sagemaker.api.describe_model(ModelName="brief"),
        lambda: sagemaker.api.delete_endpoint_config(EndpointConfigName="brief"),
        lambda: sagemaker.config("brief", "brief"),
        lambda: sagemaker.api.create_endpoint(EndpointName="brief", EndpointConfigName="brief"),
        lambda: sagemaker.api.list_tags(ResourceArn="arn:aws:sagemaker:us-east-1:000000000000:model/brief"),
    ):
        with refused("ValidationException", "Could not find", "brief"):
            call()
    with refused("ValidationError", "Endpoint brief of account 000000000000 not found"):
        sagemaker.ask("brief", {})


def test_a_name_can_be_taken_once(sagemaker: SageMaker, endpoint: str, url: str) -> None:
    with refused("ValidationException", "Cannot create already existing model", ":model/shared"):
        sagemaker.model(endpoint, url)
    with refused("ValidationException", "Cannot create already existing endpoint configuration"):
        sagemaker.config(endpoint, endpoint)
    for name in (endpoint, endpoint.upper()):
        with refused("ValidationException", "Cannot create already existing endpoint"):
            sagemaker.api.create_endpoint(EndpointName=name, EndpointConfigName=endpoint)


# -- archives that cannot be served ----------------------------------------------------------------------------------

GREEDY = "def model_fn(d):\n    hoard = []\n    while True:\n        hoard.append(bytearray(b'x') * (16 << 20))\n"


@pytest.mark.parametrize(
    ("name", "members", "damage", "words"),
    [
        (
            "raises",
            {"code/inference.py": "def model_fn(d):\n    raise OSError('weights are torn')\n"},
            None,
            ["ping", "weights are torn"],
        ),
        ("exits", {"code/inference.py": "import os\nprint('bye')\nos._exit(9)\n"}, None, ["exit code 9", "bye"]),
        ("greedy", {"code/inference.py": GREEDY}, None, ["out of memory", "1024 MB"]),
        (
            "nested",
            {"model/code/inference.py": ECHO, "model/word.txt": "x"},
            None,
            ["model/code/inference.py", "at the root"],
        ),
        ("empty", {"readme.txt": "x"}, None, ["no code/inference.py"]),
        ("outside", {"code/inference.py": ECHO, "../../escaped.txt": "x"}, None, ["unsafe member", "escaped.txt"]),
        ("cut", {"code/inference.py": ECHO}, lambda body: body[: len(body) // 2], ["not a valid tar.gz"]),
        ("flipped", {"code/inference.py": ECHO}, lambda body: body[:-6] + b"\0\0" + body[-4:], ["not a valid tar.gz"]),
        ("text", {"code/inference.py": ECHO}, lambda body: b"not an archive", ["not a valid tar.gz"]),
    ],
)
def test_a_bad_archive_fails_with_its_reason(
    sagemaker: SageMaker, aws: Aws, name: str, members: dict[str, str], damage: Any, words: list[str]
) -> None:
    sagemaker.create(name, aws.upload(f"{name}.tar.gz", members, damage=damage))
    described = sagemaker.settled(name)
    assert described["EndpointStatus"] == "Failed"
    for word in words:
        assert word in described["FailureReason"], described["FailureReason"]
    assert not (sagemaker.state / "containers" / name).exists()
    assert not list(sagemaker.state.rglob("escaped.txt"))
    with refused("ValidationError", "Failed"):
        sagemaker.ask(name, {})
    sagemaker.api.delete_endpoint(EndpointName=name)


def test_a_model_that_loads_too_long_fails(own: Callable[..., SageMaker], aws: Aws) -> None:
    sagemaker = own("--startup-seconds", "1.5")
    source = "import time\ndef model_fn(d):\n    time.sleep(60)\n"
    sagemaker.create("sleepy", aws.upload("sleepy.tar.gz", {"code/inference.py": source}))
    described = sagemaker.settled("sleepy")
    assert described["EndpointStatus"] == "Failed"
    assert "within 1.5 seconds" in described["FailureReason"]
    assert not sagemaker.containers()


def test_an_object_that_vanished_fails(sagemaker: SageMaker, aws: Aws) -> None:
    url = aws.upload("vanishing.tar.gz", echo("x"))
    sagemaker.model("vanished", url)
    sagemaker.config("vanished", "vanished")
    aws.s3.delete_object(Bucket=BUCKET, Key="vanishing.tar.gz")
    sagemaker.api.create_endpoint(EndpointName="vanished", EndpointConfigName="vanished")
    described = sagemaker.settled("vanished")
    assert described["EndpointStatus"] == "Failed"
    assert url in described["FailureReason"]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_role_and_archive_are_looked_up(sagemaker: SageMaker, aws: Aws, url: str) -> None:
    container = {"Image": IMAGE, "ModelDataUrl": url}
    for role in (aws.untrusted, aws.role.replace("serving", "nobody"), aws.role.replace(":role/", ":role/path/")):
        with refused("ValidationException", "Could not access model data", role, "trust relationship"):
            sagemaker.api.create_model(ModelName="m", PrimaryContainer=container, ExecutionRoleArn=role)
    for missing in (f"s3://{BUCKET}/none.tar.gz", "s3://no-such-bucket/model.tar.gz"):
        with refused("ValidationException", f"Could not find model data at {missing}."):
            sagemaker.model("m", missing)
    with refused("ValidationException", "non-ECR image"):
        sagemaker.api.create_model(
            ModelName="m", PrimaryContainer={**container, "Image": "python:3.12"}, ExecutionRoleArn=aws.role
        )
    source = {"S3DataSource": {"S3Uri": url, "S3DataType": "S3Object", "CompressionType": "Gzip"}}
    sagemaker.api.create_model(
        ModelName="by-source", PrimaryContainer={"Image": IMAGE, "ModelDataSource": source}, ExecutionRoleArn=aws.role
    )


def test_requests_are_held_against_the_service_model(sagemaker: SageMaker, endpoint: str) -> None:
    lenient = boto3.session.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    ).client(
        "sagemaker",
        endpoint_url=sagemaker.url,
        config=Config(parameter_validation=False, retries={"total_max_attempts": 1}, proxies={}),
    )
    serverless = {"MemorySizeInMB": 1024, "MaxConcurrency": 5}

    def config(**changes: Any) -> None:
        variant = {"VariantName": "v", "ModelName": endpoint, "ServerlessConfig": serverless, **changes}
        variant = {member: value for member, value in variant.items() if value is not None}
        lenient.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])

    with refused("ValidationException", "1 validation error detected: Value null at 'modelName'", "must not be null"):
        lenient.describe_model()
    with refused("ValidationException", "Value 'a_b' at 'modelName'", "regular expression pattern"):
        lenient.describe_model(ModelName="a_b")
    with refused("ValidationException", "2 validation errors", "length less than or equal to 63"):
        lenient.describe_endpoint(EndpointName="x" * 64)
    with refused("ValidationException", "'sortBy'", "enum value set: [Name, CreationTime, Status]"):
        lenient.list_endpoints(SortBy="Size")
    with refused(
        "ValidationException", "'productionVariants.1.member.serverlessConfig.maxConcurrency'", "equal to 200"
    ):
        config(ServerlessConfig={"MemorySizeInMB": 1024, "MaxConcurrency": 201})
    with refused("ValidationException", "memorySizeInMB", "[1024, 2048, 3072, 4096, 5120, 6144]"):
        config(ServerlessConfig={"MemorySizeInMB": 1500, "MaxConcurrency": 1})
    with refused("ValidationException", "ProvisionedConcurrency"):
        config(ServerlessConfig={**serverless, "ProvisionedConcurrency": 6})
    with refused("ValidationException", "InstanceType"):
        config(InstanceType="ml.m5.large")
    with refused("ValidationException", "ServerlessConfig, or InstanceType"):
        config(ServerlessConfig=None)
    with refused("ValidationException", "'tags.1.member.key'"):
        lenient.add_tags(
            ResourceArn="arn:aws:sagemaker:us-east-1:000000000000:model/m", Tags=[{"Key": "€", "Value": ""}]
        )
    with refused("SerializationException", "modelName", "must be a string"):
        lenient.describe_model(ModelName=7)
    with refused("UnknownOperationException", "CreateNotebookInstance", "CreateEndpoint"):
        lenient.create_notebook_instance()


def test_requests_that_no_client_makes(sagemaker: SageMaker) -> None:
    call = {"x-amz-target": "SageMaker.ListModels", **SIGNED}
    with httpx.Client(base_url=sagemaker.url, trust_env=False) as http:
        unsigned = http.post("/", json={}, headers={"x-amz-target": "SageMaker.ListModels"})
        assert (unsigned.status_code, unsigned.json()["__type"]) == (403, "MissingAuthenticationToken")
        unsigned = http.post("/endpoints/shared/invocations", json={})
        assert (unsigned.status_code, unsigned.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationToken")
        other = {**call, "authorization": SIGNED["authorization"].replace("test", "AKIASOMEBODYELSES000")}
        unknown = http.post("/", json={}, headers=other)
        assert (unknown.status_code, unknown.json()["__type"]) == (403, "UnrecognizedClientException")
        assert http.post("/", content=b"{", headers=call).json()["__type"] == "SerializationException"
        assert http.post("/", content=b"[]", headers=call).json()["__type"] == "SerializationException"
        assert http.post("/", json={}, headers=SIGNED).json()["__type"] == "UnknownOperationException"
        assert http.get("/nowhere").status_code == 404
        assert http.post("/", content=b"", headers=call).status_code == 200


# -- calls -----------------------------------------------------------------------------------------------------------


def test_errors_in_the_container_are_model_errors(sagemaker: SageMaker, endpoint: str) -> None:
    with refused("ModelError", "Received client error (400)", "this question is refused", status=424) as caught:
        sagemaker.ask(endpoint, {"refuse": True})
    assert caught[0]["OriginalStatusCode"] == 400
    assert json.loads(caught[0]["OriginalMessage"])["message"] == "this question is refused"
    assert caught[0]["LogStreamArn"].endswith(":log-group:/aws/sagemaker/Endpoints/shared")
    with refused("ModelError", "Received server error (500)", "RuntimeError", status=424) as caught:
        sagemaker.ask(endpoint, {"fail": True})
    assert caught[0]["OriginalStatusCode"] == 500
    assert "no secret" not in json.dumps(caught[0]["OriginalMessage"])
    with refused("ModelError", "not valid JSON", status=424):
        sagemaker.runtime.invoke_endpoint(EndpointName=endpoint, Body=b"{", ContentType="application/json")


def test_sizes_are_limited_both_ways(sagemaker: SageMaker, endpoint: str) -> None:
    most = 4 * 1024**2
    frame = len(json.dumps({"count": True, "x": ""}))
    assert sagemaker.ask(endpoint, {"count": True, "x": "y" * (most - frame)}) == most - frame
    for size in (most - frame + 1, 6 * 1024**2, 20 * 1024**2):
        with refused("ValidationError", "'body'", "less than or equal to 4194304"):
            sagemaker.ask(endpoint, {"count": True, "x": "y" * size})
    with refused("ModelError", "4,194,304", status=424):
        sagemaker.ask(endpoint, {"big": most})


def test_headers_and_variants(sagemaker: SageMaker, endpoint: str) -> None:
    assert sagemaker.ask(endpoint, {}, TargetVariant="AllTraffic")["word"] == "one"
    with refused("ValidationError", "Other", "AllTraffic"):
        sagemaker.ask(endpoint, {}, TargetVariant="Other")
    with refused("ValidationError", "TargetModel"):
        sagemaker.ask(endpoint, {}, TargetModel="m.tar.gz")
    with refused("ModelError", "image/png", status=424):
        sagemaker.ask(endpoint, {}, Accept="image/png")


def test_more_calls_than_the_concurrency_are_throttled(sagemaker: SageMaker, url: str, tmp_path: Path) -> None:
    sagemaker.create("narrow", url, concurrency=2)
    assert sagemaker.settled("narrow")["EndpointStatus"] == "InService"
    held = tmp_path / "held"
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(sagemaker.ask, "narrow", {"hold": str(held)}) for _ in range(2)]
        eventually(held.with_suffix(".begun").exists)
        time.sleep(0.4)  # the other one waits for its turn, where nothing can be seen of it
        with refused("ThrottlingException", "Rate exceeded", "MaxConcurrency"):
            sagemaker.ask("narrow", {})
        held.touch()
        assert {call.result()["word"] for call in busy} == {"one"}
    assert sagemaker.ask("narrow", {})["word"] == "one"


def test_a_dead_container_comes_back_on_the_next_call(sagemaker: SageMaker, url: str) -> None:
    sagemaker.create("mortal", url)
    assert sagemaker.settled("mortal")["EndpointStatus"] == "InService"
    first = sagemaker.ask("mortal", {})["pid"]
    sagemaker.kill_container("mortal")
    second = sagemaker.ask("mortal", {})["pid"]
    assert second != first
    with refused("ModelError", "exit code 7", status=424):
        sagemaker.ask("mortal", {"exit": True})
    third = sagemaker.ask("mortal", {})["pid"]
    with refused("ModelError", "out of memory", "1024 MB", status=424):
        sagemaker.ask("mortal", {"eat": 1200 * 1024**2})
    assert not psutil.pid_exists(third)
    assert sagemaker.ask("mortal", {})["word"] == "one"
    assert sagemaker.api.describe_endpoint(EndpointName="mortal")["EndpointStatus"] == "InService"


def test_a_container_that_cannot_come_back_says_so_each_time(sagemaker: SageMaker, aws: Aws, tmp_path: Path) -> None:
    source = (
        "import os\ndef model_fn(d):\n"
        "    if os.path.exists(os.environ['GONE']):\n        raise OSError('no more')\n    return str\n"
    )
    gone = tmp_path / "gone"
    sagemaker.create("once", aws.upload("once.tar.gz", {"code/inference.py": source}), GONE=str(gone))
    assert sagemaker.settled("once")["EndpointStatus"] == "InService"
    gone.touch()
    sagemaker.kill_container("once")
    for _ in range(3):
        with refused("ModelError", "no more", status=424):
            sagemaker.ask("once", {"inputs": 1})
    starts = (sagemaker.state / "logs" / "once.log").read_text().count("the model could not be loaded")
    assert starts <= 3, "every call started a container"
    gone.unlink()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(ClientError):
            assert sagemaker.ask("once", {"inputs": 1}) == "1"
            break
        time.sleep(0.2)
    else:
        raise AssertionError("it did not come back")


def test_a_call_that_takes_too_long_is_ended(own: Callable[..., SageMaker], url: str) -> None:
    sagemaker = own("--invocation-seconds", "1.5")
    sagemaker.create("slow", url)
    assert sagemaker.settled("slow")["EndpointStatus"] == "InService"
    with refused("ModelError", "timed out", status=424):
        sagemaker.ask("slow", {"sleep": 60})
    assert sagemaker.ask("slow", {})["word"] == "one"


def test_an_idle_serverless_container_is_stopped_and_started_again(own: Callable[..., SageMaker], url: str) -> None:
    sagemaker = own("--idle-seconds", "1")
    sagemaker.create("idle", url)
    assert sagemaker.settled("idle")["EndpointStatus"] == "InService"
    first = sagemaker.ask("idle", {})["pid"]
    psutil.wait_procs([psutil.Process(first)], timeout=60)
    assert not psutil.pid_exists(first)
    assert sagemaker.api.describe_endpoint(EndpointName="idle")["EndpointStatus"] == "InService"
    with ThreadPoolExecutor(3) as pool:
        pids = {answer["pid"] for answer in pool.map(lambda _: sagemaker.ask("idle", {"sleep": 0.1}), range(3))}
    assert len(pids) == 1
    assert pids != {first}


def test_a_call_waits_for_a_cold_start_but_not_for_ever(
    own: Callable[..., SageMaker], aws: Aws, tmp_path: Path
) -> None:
    source = (
        "import json, os, time\ndef model_fn(d):\n"
        "    if os.path.exists(os.environ['SLOW']):\n        time.sleep(4)\n    return lambda x: os.getpid()\n"
    )
    slow = tmp_path / "slow"
    sagemaker = own("--cold-seconds", "2")
    sagemaker.create("asleep", aws.upload("asleep.tar.gz", {"code/inference.py": source}), SLOW=str(slow))
    assert sagemaker.settled("asleep")["EndpointStatus"] == "InService"
    slow.touch()
    sagemaker.kill_container("asleep")
    with refused("ModelNotReadyException", "still starting", "2 seconds", status=429):
        sagemaker.ask("asleep", {"inputs": 1})
    started = sagemaker.container("asleep").pid
    with refused("ModelNotReadyException", status=429):
        sagemaker.ask("asleep", {"inputs": 1})
    # The start that the first call began went on, and is the one that answers.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(ClientError):
            assert sagemaker.ask("asleep", {"inputs": 1}) == started
            break
    else:
        raise AssertionError("it did not come up")


def test_deleting_and_stopping_do_not_wait_for_a_cold_start(
    own: Callable[..., SageMaker], aws: Aws, tmp_path: Path
) -> None:
    source = (
        "import os, time\ndef model_fn(d):\n"
        "    if os.path.exists(os.environ['SLOW']):\n        time.sleep(600)\n    return str\n"
    )
    slow = tmp_path / "slow"
    sagemaker = own("--cold-seconds", "0.5")
    url = aws.upload("heavy.tar.gz", {"code/inference.py": source})
    for name in ("heavy", "heavier"):
        sagemaker.create(name, url, SLOW=str(slow))
        assert sagemaker.settled(name)["EndpointStatus"] == "InService"
    slow.touch()
    for name in ("heavy", "heavier"):
        sagemaker.kill_container(name)
        with refused("ModelNotReadyException", status=429):
            sagemaker.ask(name, {"inputs": 1})
    container = sagemaker.container("heavy")
    sagemaker.api.delete_endpoint(EndpointName="heavy")
    _gone, alive = psutil.wait_procs([container], timeout=60)
    assert not alive
    sagemaker.stop()


# -- updates ---------------------------------------------------------------------------------------------------------


def test_two_updates_swap_without_an_outage_and_a_bad_one_changes_nothing(
    sagemaker: SageMaker, aws: Aws, url: str
) -> None:
    sagemaker.create("live", url)
    assert sagemaker.settled("live")["EndpointStatus"] == "InService"
    first = sagemaker.container("live")
    words: list[str] = []

    def update(word: str, members: dict[str, str]) -> dict[str, Any]:
        # It takes a while to load, so that what is asked meanwhile is asked meanwhile.
        slow = {**members, "code/inference.py": "import time\ntime.sleep(2)\n" + members["code/inference.py"]}
        sagemaker.model(f"live-{word}", aws.upload(f"live-{word}.tar.gz", slow))
        sagemaker.config(f"live-{word}", f"live-{word}", memory=2048)
        sagemaker.api.update_endpoint(EndpointName="live", EndpointConfigName=f"live-{word}")
        assert sagemaker.api.describe_endpoint(EndpointName="live")["EndpointStatus"] == "Updating"
        with refused("ValidationException", "in-progress"):
            sagemaker.api.update_endpoint(EndpointName="live", EndpointConfigName=f"live-{word}")
        while sagemaker.api.describe_endpoint(EndpointName="live")["EndpointStatus"] == "Updating":
            words.append(sagemaker.ask("live", {})["word"])
        return sagemaker.settled("live")

    described = update("two", echo("two"))
    assert described["EndpointStatus"] == "InService"
    assert described["EndpointConfigName"] == "live-two"
    assert described["ProductionVariants"][0]["CurrentServerlessConfig"]["MemorySizeInMB"] == 2048
    assert sagemaker.ask("live", {})["word"] == "two"
    psutil.wait_procs([first], timeout=60)
    assert not first.is_running()

    described = update("broken", {"code/inference.py": "raise OSError('not today')\n"})
    assert described["EndpointStatus"] == "InService"
    assert described["EndpointConfigName"] == "live-two"
    assert "not today" in described["FailureReason"]
    assert sagemaker.ask("live", {})["word"] == "two"

    described = update("three", echo("three"))
    assert described["EndpointConfigName"] == "live-three"
    assert "FailureReason" not in described
    assert sagemaker.ask("live", {})["word"] == "three"
    assert set(words) <= {"one", "two", "three"}
    deadline = time.monotonic() + 60
    while len(generations := list((sagemaker.state / "containers" / "live").iterdir())) > 1:
        assert time.monotonic() < deadline, generations
        time.sleep(0.1)


def test_a_call_in_flight_is_answered_by_what_it_was_put_to(
    sagemaker: SageMaker, aws: Aws, url: str, tmp_path: Path
) -> None:
    sagemaker.create("drain", url)
    assert sagemaker.settled("drain")["EndpointStatus"] == "InService"
    sagemaker.model("drain-two", aws.upload("drain-two.tar.gz", echo("two")))
    sagemaker.config("drain-two", "drain-two")
    with ThreadPoolExecutor(1) as pool:
        held = tmp_path / "held"
        long = pool.submit(sagemaker.ask, "drain", {"hold": str(held)})
        eventually(held.with_suffix(".begun").exists)
        sagemaker.api.update_endpoint(EndpointName="drain", EndpointConfigName="drain-two")
        sagemaker.settled("drain")
        assert sagemaker.ask("drain", {})["word"] == "two"
        assert not long.done()
        held.touch()
        assert long.result()["word"] == "one"


def test_instances_do_not_become_serverless(sagemaker: SageMaker, endpoint: str) -> None:
    sagemaker.config("instance", endpoint, InstanceType="ml.m5.large", InitialInstanceCount=1)
    sagemaker.api.create_endpoint(EndpointName="instance", EndpointConfigName="instance")
    described = sagemaker.settled("instance")
    assert described["EndpointStatus"] == "InService"
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert "CurrentServerlessConfig" not in described["ProductionVariants"][0]
    assert sagemaker.ask("instance", {"count": True, "x": "y" * (5 * 1024**2)}) == 5 * 1024**2
    with refused("ValidationException", "cannot become serverless"):
        sagemaker.api.update_endpoint(EndpointName="instance", EndpointConfigName=endpoint)


# -- lists and tags --------------------------------------------------------------------------------------------------


def test_lists_are_filtered_sorted_and_paged(own: Callable[..., SageMaker], aws: Aws, url: str) -> None:
    sagemaker = own()
    names = [f"m{number}" for number in range(5)]
    for name in names:
        sagemaker.model(name, url)
    pages = sagemaker.api.get_paginator("list_models").paginate(
        SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    assert [[model["ModelName"] for model in page["Models"]] for page in pages] == [["m0", "m1"], ["m2", "m3"], ["m4"]]
    newest_first = [model["ModelName"] for model in sagemaker.api.list_models()["Models"]]
    assert newest_first == names[::-1]
    assert [model["ModelName"] for model in sagemaker.api.list_models(NameContains="M3")["Models"]] == ["m3"]
    created = sagemaker.api.describe_model(ModelName="m2")["CreationTime"]
    later = sagemaker.api.list_models(CreationTimeAfter=created, SortOrder="Ascending")["Models"]
    assert {"m4"} <= {model["ModelName"] for model in later} <= {"m2", "m3", "m4"}
    earlier = sagemaker.api.list_models(CreationTimeBefore=created)["Models"]
    assert {"m0"} <= {model["ModelName"] for model in earlier} <= {"m0", "m1", "m2"}
    with refused("ValidationException", "NextToken"):
        sagemaker.api.list_models(NextToken="nonsense")

    sagemaker.config("c", "m0")
    sagemaker.api.create_endpoint(EndpointName="e", EndpointConfigName="c")
    sagemaker.settled("e")
    assert sagemaker.api.list_endpoints(StatusEquals="Failed")["Endpoints"] == []
    [listed] = sagemaker.api.list_endpoints(StatusEquals="InService", SortBy="Status")["Endpoints"]
    assert listed["EndpointName"] == "e"
    modified = sagemaker.api.describe_endpoint(EndpointName="e")["LastModifiedTime"]
    for edge, names_of_it in (("LastModifiedTimeAfter", []), ("LastModifiedTimeBefore", ["e"])):
        found = sagemaker.api.list_endpoints(**{edge: modified + timedelta(seconds=1)})["Endpoints"]
        assert [each["EndpointName"] for each in found] == names_of_it
    # The page's mark is a place in the order: what comes and goes meanwhile shifts nothing.
    for name in ("c0", "d"):
        sagemaker.config(name, "m0")
    first = sagemaker.api.list_endpoint_configs(SortBy="Name", SortOrder="Ascending", MaxResults=1)
    sagemaker.api.delete_endpoint_config(EndpointConfigName="c")
    rest = sagemaker.api.list_endpoint_configs(SortBy="Name", SortOrder="Ascending", NextToken=first["NextToken"])
    assert [each["EndpointConfigName"] for each in rest["EndpointConfigs"]] == ["c0", "d"]
    for name in ("c0", "d"):
        sagemaker.api.delete_endpoint_config(EndpointConfigName=name)
    sagemaker.config("c", "m0")
    assert [config["EndpointConfigName"] for config in sagemaker.api.list_endpoint_configs()["EndpointConfigs"]] == [
        "c"
    ]


def test_tags(sagemaker: SageMaker, aws: Aws, url: str) -> None:
    tags = [{"Key": "project", "Value": "askline"}, {"Key": "größe", "Value": ""}]
    arn = sagemaker.api.create_model(
        ModelName="tagged", PrimaryContainer={"Image": IMAGE, "ModelDataUrl": url}, ExecutionRoleArn=aws.role, Tags=tags
    )["ModelArn"]
    assert sagemaker.api.list_tags(ResourceArn=arn)["Tags"] == tags
    added = sagemaker.api.add_tags(
        ResourceArn=arn, Tags=[{"Key": "project", "Value": "other"}, {"Key": "b", "Value": "1"}]
    )
    assert {tag["Key"]: tag["Value"] for tag in added["Tags"]} == {"project": "other", "größe": "", "b": "1"}
    sagemaker.api.delete_tags(ResourceArn=arn, TagKeys=["größe", "absent"])
    assert {tag["Key"] for tag in sagemaker.api.list_tags(ResourceArn=arn)["Tags"]} == {"project", "b"}
    with refused("ValidationException", "50"):
        sagemaker.api.add_tags(ResourceArn=arn, Tags=[{"Key": str(n), "Value": ""} for n in range(49)])
    with refused("ValidationException", "Duplicate"):
        sagemaker.api.create_model(
            ModelName="twice",
            PrimaryContainer={"Image": IMAGE, "ModelDataUrl": url},
            ExecutionRoleArn=aws.role,
            Tags=[tags[0], tags[0]],
        )


# -- the state folder ------------------------------------------------------------------------------------------------


def test_everything_survives_kill_9_and_the_containers_do_not(
    own: Callable[..., SageMaker], aws: Aws, url: str
) -> None:
    sagemaker = own()
    sagemaker.create("kept", url, WORD="kept")
    before = sagemaker.settled("kept")
    slow = "import time\ndef model_fn(d):\n    time.sleep(1.5)\n    return str\n"
    sagemaker.create("unfinished", aws.upload("unfinished.tar.gz", {"code/inference.py": slow}))
    sagemaker.model(
        "kept-two", aws.upload("kept-two.tar.gz", {**echo("two"), "code/inference.py": ECHO + "\ntime.sleep(1)\n"})
    )
    sagemaker.config("kept-two", "kept-two")
    children = eventually(lambda: found if len(found := sagemaker.containers()) >= 2 else None)
    sagemaker.kill()
    _gone, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "containers outlived the server"

    sagemaker.start()
    after = sagemaker.api.describe_endpoint(EndpointName="kept")
    changed = {key for key in before if before[key] != after.get(key)}
    assert changed <= {"ResponseMetadata"}
    assert sagemaker.ask("kept", {})["env"] == "kept"
    assert sagemaker.settled("unfinished")["EndpointStatus"] == "InService"

    sagemaker.api.update_endpoint(EndpointName="kept", EndpointConfigName="kept-two")
    time.sleep(0.3)
    sagemaker.kill()
    sagemaker.start()
    assert sagemaker.ask("kept", {})["word"] in ("one", "two")
    assert sagemaker.settled("kept")["EndpointConfigName"] == "kept-two"
    assert sagemaker.ask("kept", {})["word"] == "two"
    sagemaker.stop()
    sagemaker.start()
    assert sagemaker.ask("kept", {})["word"] == "two"


def test_a_lost_folder_is_fetched_again(own: Callable[..., SageMaker], url: str) -> None:
    sagemaker = own()
    sagemaker.create("again", url)
    sagemaker.settled("again")
    sagemaker.stop()
    remove_tree(sagemaker.state / "containers")
    sagemaker.start()
    assert sagemaker.ask("again", {})["word"] == "one"


def test_a_folder_goes_while_somebody_else_deletes_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path, mode: int) -> None:
        raise FileNotFoundError(path)

    (tmp_path / "job" / "deep").mkdir(parents=True)
    monkeypatch.setattr(Path, "chmod", gone)
    remove_tree(tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_a_leftover_container_is_ended_by_its_process_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as sleeper:
        try:
            started = psutil.Process(sleeper.pid).create_time()
            # A process of the same number that started at another time is somebody else's.
            for stated, ended in ((started - 5, False), (started, True)):
                (tmp_path / "process.json").write_text(json.dumps({"pid": sleeper.pid, "started": stated}))
                end_leftover(tmp_path)
                assert not (tmp_path / "process.json").exists()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    sleeper.wait(1)
                assert (sleeper.poll() is not None) is ended
        finally:
            sleeper.kill()


def test_damaged_state_a_taken_folder_and_a_taken_port_are_clear_errors(
    own: Callable[..., SageMaker], url: str
) -> None:
    sagemaker = own()
    sagemaker.model("m", url)

    def attempt() -> str:
        done = subprocess.run(
            sagemaker.command(), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "another embedded SageMaker uses this folder" in attempt()
    sagemaker.stop()
    file = sagemaker.state / "model" / "m.json"
    whole = file.read_text()
    for damaged in (whole[: len(whole) // 2], "[]", "{}", '{"ModelName": "other"}', "", '{"ModelName": null}'):
        file.write_text(damaged)
        with pytest.raises(StateError, match=re.escape(str(file))):
            State(sagemaker.state)
    assert str(file) in attempt()
    file.write_text(whole)
    with socket.create_server(("127.0.0.1", sagemaker.port)):
        assert f"--port {sagemaker.port}" in attempt()
    sagemaker.start()
    assert sagemaker.api.describe_model(ModelName="m")["ModelName"] == "m"


# -- other official clients ------------------------------------------------------------------------------------------


def test_the_aws_command_line(sagemaker: SageMaker, endpoint: str, tmp_path: Path) -> None:
    aws = Path(sys.executable).with_name("aws")
    environment = {**os.environ, "AWS_ENDPOINT_URL": sagemaker.url}

    def run(*arguments: str) -> Any:
        done = subprocess.run([str(aws), *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("sagemaker", "describe-endpoint", "--endpoint-name", endpoint)["EndpointStatus"] == "InService"
    assert endpoint in [each["EndpointName"] for each in run("sagemaker", "list-endpoints")["Endpoints"]]
    output = tmp_path / "answer.json"
    arguments = ["--endpoint-name", endpoint, "--content-type", "application/json", "--body", '{"q": "who?"}']
    said = run("sagemaker-runtime", "invoke-endpoint", *arguments, str(output))
    assert said["InvokedProductionVariant"] == "AllTraffic"
    assert json.loads(output.read_text())["got"] == {"q": "who?"}
