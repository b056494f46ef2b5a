"""The embedded SageMaker's real-time endpoints: instances, data capture, guarded updates, many models."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.sagemaker import BUCKET, IMAGE, Aws, SageMaker, client, echo, eventually, refused

from local_cloud.sagemaker.instances import instance_type
from local_cloud.sagemaker.serving.multimodel import MultiModelDeployment
from local_cloud.sagemaker.serving.shifting import steps
from local_cloud.sagemaker.settings import Settings

pytestmark = pytest.mark.slow

CAPTURE = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": f"s3://{BUCKET}/captured",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    aws = Aws(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.stop()


@pytest.fixture(scope="module")
def sagemaker(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMaker]:
    folder = tmp_path_factory.mktemp("sagemaker")
    sagemaker = SageMaker(aws, folder, "--startup-seconds", "60", "--minute-seconds", "4", "--idle-seconds", "0.5")
    yield sagemaker
    sagemaker.stop()


@pytest.fixture(scope="module")
def url(aws: Aws) -> str:
    return aws.upload("echo/model.tar.gz", echo("one"))


@pytest.fixture(scope="module")
def two(sagemaker: SageMaker, url: str) -> str:
    """An endpoint of two instances that captures its data."""
    sagemaker.instances("two", url, 2, more={"DataCaptureConfig": CAPTURE})
    assert sagemaker.settled("two")["EndpointStatus"] == "InService", sagemaker.log.read_text()
    return "two"


def pids(sagemaker: SageMaker, name: str, calls: int = 8) -> set[int]:
    return {sagemaker.ask(name, {})["pid"] for _ in range(calls)}


def alive(sagemaker: SageMaker, name: str) -> int:
    count = 0
    for each in sagemaker.containers():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            count += f"/containers/{name}/" in " ".join(each.cmdline())
    return count


def test_memory_and_disks_are_those_of_the_instance_type() -> None:
    assert instance_type("ml.m5.large").memory_mb == 8192
    assert instance_type("ml.m5d.xlarge").local_nvme_gb == 150
    # In no price list: what the family and the size say.
    assert [instance_type(f"ml.{name}").memory_mb for name in ("c6i.8xlarge", "r6i.large", "m7i.24xlarge")] == [
        65_536,
        16_384,
        393_216,
    ]
    assert instance_type("ml.p4d.24xlarge").memory_mb is None


def test_calls_spread_over_instances_and_the_dead_come_back(sagemaker: SageMaker, two: str) -> None:
    described = sagemaker.api.describe_endpoint(EndpointName=two)
    variant = described["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (2, 2)
    assert variant["DeployedImages"][0]["ResolvedImage"] == IMAGE
    assert not {"CurrentServerlessConfig", "VariantStatus", "RoutingConfig"} & variant.keys()
    assert not {"AsyncInferenceConfig", "VpcConfig", "FailureReason"} & described.keys()
    first = pids(sagemaker, two)
    assert len(first) == 2
    # Two calls that take a while are answered side by side.
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: sagemaker.ask(two, {"sleep": 4}), range(2)))
    assert time.monotonic() - began < 8
    assert {each["pid"] for each in said} == first
    victim = psutil.Process(min(first))
    victim.kill()
    psutil.wait_procs([victim], timeout=60)
    assert all(sagemaker.ask(two, {})["word"] == "one" for _ in range(10))  # the other one answers meanwhile
    assert eventually(lambda: len(now := pids(sagemaker, two)) == 2 and now) != first


def test_captured_data_is_json_lines_in_sagemakers_layout(sagemaker: SageMaker, aws: Aws, two: str) -> None:
    shown = sagemaker.api.describe_endpoint(EndpointName=two)["DataCaptureConfig"]
    assert (shown["CaptureStatus"], shown["CurrentSamplingPercentage"]) == ("Started", 100)
    sagemaker.ask(two, {"q": "captured?"}, InferenceId="mine", CustomAttributes="team=blue")
    raw = {"EndpointName": two, "ContentType": "text/csv", "Accept": "application/json"}
    with refused("ModelError", status=424):  # what was not answered is not captured
        sagemaker.runtime.invoke_endpoint(Body=b"refused,csv", **raw)

    def lines() -> list[dict[str, Any]]:
        found = []
        for key in aws.keys(f"captured/{two}/AllTraffic/{time.strftime('%Y/%m/%d', time.gmtime())}/"):
            assert key.endswith(".jsonl")
            found += [json.loads(line) for line in aws.read(key).decode().splitlines()]
        return found

    (mine,) = eventually(lambda: [line for line in lines() if line["eventMetadata"].get("inferenceId") == "mine"])
    said, answered = mine["captureData"]["endpointInput"], mine["captureData"]["endpointOutput"]
    assert said == {
        "observedContentType": "application/json",
        "mode": "INPUT",
        "data": '{"q": "captured?"}',
        "encoding": "JSON",
    }
    assert (answered["mode"], json.loads(answered["data"])["got"]) == ("OUTPUT", {"q": "captured?"})
    assert mine["eventMetadata"]["customAttributes"] == ["team=blue"]
    assert mine["eventVersion"] == "0"
    assert "refused,csv" not in json.dumps(lines())


def test_the_number_of_instances_changes_and_survives_kill_9(sagemaker: SageMaker, url: str) -> None:
    sagemaker.instances("sized", url)
    sagemaker.settled("sized")
    wanted = {"EndpointName": "sized", "DesiredWeightsAndCapacities": [{"VariantName": "AllTraffic"}]}
    wanted["DesiredWeightsAndCapacities"][0]["DesiredInstanceCount"] = 2  # type: ignore[index]
    assert sagemaker.api.update_endpoint_weights_and_capacities(**wanted)["EndpointArn"].endswith("endpoint/sized")
    with refused("ValidationException", "in-progress"):
        sagemaker.api.update_endpoint_weights_and_capacities(**wanted)
    assert sagemaker.variant("sized")["DesiredInstanceCount"] == 2
    sagemaker.kill()  # in the middle of it
    sagemaker.start()
    sagemaker.settled("sized")
    assert sagemaker.variant("sized")["CurrentInstanceCount"] == 2
    assert eventually(lambda: len(pids(sagemaker, "sized")) == 2)
    for count, words in ((0, "only asynchronous endpoints"), (21, "ml.m5.large for endpoint usage")):
        wanted["DesiredWeightsAndCapacities"][0]["DesiredInstanceCount"] = count  # type: ignore[index]
        with pytest.raises(sagemaker.api.exceptions.ClientError, match=words):
            sagemaker.api.update_endpoint_weights_and_capacities(**wanted)
    wanted["DesiredWeightsAndCapacities"][0]["DesiredInstanceCount"] = 1  # type: ignore[index]
    sagemaker.api.update_endpoint_weights_and_capacities(**wanted)
    sagemaker.settled("sized")
    assert len(pids(sagemaker, "sized")) == alive(sagemaker, "sized") == 1
    # An update goes by the configuration, unless it is told to keep what is.
    sagemaker.config("sized-2", "sized", InstanceType="ml.m5.large", InitialInstanceCount=2)
    sagemaker.api.update_endpoint(EndpointName="sized", EndpointConfigName="sized-2", RetainAllVariantProperties=True)
    assert sagemaker.settled("sized")["EndpointConfigName"] == "sized-2"
    assert sagemaker.variant("sized")["CurrentInstanceCount"] == 1


def test_no_call_fails_while_instances_and_versions_come_and_go(sagemaker: SageMaker, aws: Aws, url: str) -> None:
    sagemaker.instances("moved", url)
    sagemaker.settled("moved")
    sagemaker.model("moved-2", aws.upload("echo/three.tar.gz", echo("three")))
    sagemaker.config("moved-2", "moved-2", InstanceType="ml.m5.large", InitialInstanceCount=1)
    over = False

    def ask() -> list[str]:
        said = []
        while not over:
            said.append(sagemaker.ask("moved", {"sleep": 0.02})["word"])
        return said

    def resize(count: int) -> None:
        wanted = {"VariantName": "AllTraffic", "DesiredInstanceCount": count}
        sagemaker.api.update_endpoint_weights_and_capacities(EndpointName="moved", DesiredWeightsAndCapacities=[wanted])
        sagemaker.settled("moved")

    with ThreadPoolExecutor(3) as pool:
        askers = [pool.submit(ask) for _ in range(3)]
        try:
            resize(2)
            resize(1)
            linear = {"LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 50}}
            routing = {"Type": "LINEAR", "WaitIntervalInSeconds": 5, **linear}
            sagemaker.api.update_endpoint(
                EndpointName="moved",
                EndpointConfigName="moved-2",
                DeploymentConfig={"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}},
            )
            sagemaker.settled("moved")
            time.sleep(0.3)
        finally:
            over = True
        answers = [asker.result(30) for asker in askers]  # raises what a call raised
    assert all(each[0] == "one" and each[-1] == "three" for each in answers)
    assert sum(map(len, answers)) > 10


def test_what_instances_have_is_checked(sagemaker: SageMaker, two: str) -> None:
    def config(**variant: Any) -> None:
        sagemaker.config("never", two, InstanceType="ml.m5d.xlarge", InitialInstanceCount=1, **variant)

    with refused("ValidationException", "VolumeSizeInGB", "local NVMe"):
        config(VolumeSizeInGB=20)
    with refused("ValidationException", "'dataCaptureConfig.captureOptions.1.member.captureMode'"):
        config(more={"DataCaptureConfig": CAPTURE | {"CaptureOptions": [{"CaptureMode": "All"}]}})
    for member, value in (("DataCaptureConfig", CAPTURE), ("AsyncInferenceConfig", {"OutputConfig": {}})):
        with refused("ValidationException", f"{member} is not supported for serverless endpoints"):
            sagemaker.config("never", two, more={member: value})
    with refused("ValidationException", "S3OutputPath"):
        config(more={"AsyncInferenceConfig": {"OutputConfig": {}}})


# -- guarded updates -------------------------------------------------------------------------------------------------


def test_traffic_moves_in_the_steps_that_are_asked_for() -> None:
    def of(kind: str, wait: int = 60, **sizes: Any) -> tuple[list[float], float]:
        routing = {"Type": kind, "WaitIntervalInSeconds": wait, **sizes}
        return steps({"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}, 4)

    assert steps({}, 4) == ([1.0], 0)
    assert of("ALL_AT_ONCE") == ([1.0], 60)
    assert of("CANARY", CanarySize={"Type": "CAPACITY_PERCENT", "Value": 10}) == ([0.1, 1.0], 60)
    assert of("CANARY", CanarySize={"Type": "INSTANCE_COUNT", "Value": 1}) == ([0.25, 1.0], 60)
    assert of("LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 40}) == ([0.4, 0.8, 1.0], 60)
    rolling = {"MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 2}, "WaitIntervalInSeconds": 5}
    assert steps({"RollingUpdatePolicy": rolling}, 4) == ([0.5, 1.0], 5)


def guarded(kind: str, wait: int, *alarms: str, **more: Any) -> dict[str, Any]:
    routing: dict[str, Any] = {"Type": kind, "WaitIntervalInSeconds": wait, **more}
    return {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 0},
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]},
    }


def test_an_alarm_while_an_update_bakes_brings_the_old_configuration_back(
    sagemaker: SageMaker, aws: Aws, url: str
) -> None:
    sagemaker.instances("guarded", url)
    sagemaker.settled("guarded")
    sagemaker.model("guarded-2", aws.upload("echo/two.tar.gz", echo("two")))
    sagemaker.config("guarded-2", "guarded-2", InstanceType="ml.m5.large", InitialInstanceCount=1)
    half = {"CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}}
    update = {"EndpointName": "guarded", "EndpointConfigName": "guarded-2"}
    with refused("ValidationException", "Could not find the alarms", "nowhere"):
        sagemaker.api.update_endpoint(**update, DeploymentConfig=guarded("CANARY", 60, "nowhere", **half))
    with refused("ValidationException", "CanarySize"):
        sagemaker.api.update_endpoint(**update, DeploymentConfig=guarded("CANARY", 60, "nowhere"))

    aws.alarm("errors")
    sagemaker.api.update_endpoint(**update, DeploymentConfig=guarded("CANARY", 1200, "errors", **half))
    eventually(lambda: {sagemaker.ask("guarded", {})["word"] for _ in range(8)} == {"one", "two"})
    words = [sagemaker.ask("guarded", {})["word"] for _ in range(10)]
    assert (words.count("one"), words.count("two")) == (5, 5)  # half of the calls
    assert sagemaker.api.describe_endpoint(EndpointName="guarded")["EndpointStatus"] == "Updating"
    aws.cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="test")
    described = sagemaker.settled("guarded")
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", "guarded")
    assert "errors" in described["FailureReason"]
    assert {sagemaker.ask("guarded", {})["word"] for _ in range(8)} == {"one"}
    assert alive(sagemaker, "guarded") == 1

    # In ALARM from the start: nothing moves at all.
    sagemaker.api.update_endpoint(**update, DeploymentConfig=guarded("ALL_AT_ONCE", 0, "errors"))
    assert sagemaker.settled("guarded")["EndpointConfigName"] == "guarded"
    # And with the alarm at rest it goes through, by steps.
    aws.alarm("errors")
    linear = {"LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 50}}
    sagemaker.api.update_endpoint(**update, DeploymentConfig=guarded("LINEAR", 15, "errors", **linear))
    described = sagemaker.settled("guarded")
    assert (described["EndpointConfigName"], described.get("FailureReason")) == ("guarded-2", None)
    assert {sagemaker.ask("guarded", {})["word"] for _ in range(8)} == {"two"}


def test_an_alarm_on_the_endpoints_own_errors_is_judged_by_what_callers_got(
    sagemaker: SageMaker, aws: Aws, url: str
) -> None:
    """A bad version is found by the errors that it causes, with no other help."""
    sagemaker.instances("watched", url)
    sagemaker.settled("watched")
    handler = "def model_fn(d):\n    return 1\ndef predict_fn(data, model):\n    raise OSError(1)\n"
    sagemaker.model("watched-2", aws.upload("broken.tar.gz", {"code/inference.py": handler}))
    sagemaker.config("watched-2", "watched-2", InstanceType="ml.m5.large", InitialInstanceCount=1)
    dimensions = [{"Name": "EndpointName", "Value": "watched"}, {"Name": "VariantName", "Value": "AllTraffic"}]
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocation5XXErrors", "Dimensions": dimensions}
    aws.alarm("5xx", Statistic="Sum", TreatMissingData="notBreaching", **metric)
    half = {"CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}}
    sagemaker.api.update_endpoint(
        EndpointName="watched",
        EndpointConfigName="watched-2",
        DeploymentConfig=guarded("CANARY", 1200, "5xx", **half),
    )

    def rolled_back() -> bool:
        with contextlib.suppress(sagemaker.runtime.exceptions.ModelError):
            sagemaker.ask("watched", {})
        return bool(sagemaker.api.describe_endpoint(EndpointName="watched")["EndpointStatus"] == "InService")

    eventually(rolled_back)
    described = sagemaker.api.describe_endpoint(EndpointName="watched")
    assert described["EndpointConfigName"] == "watched"
    assert "5xx" in described["FailureReason"]
    assert all(sagemaker.ask("watched", {})["word"] == "one" for _ in range(5))


# -- many models -----------------------------------------------------------------------------------------------------


def test_many_models_behind_one_endpoint_are_loaded_when_they_are_called(
    sagemaker: SageMaker, aws: Aws, two: str
) -> None:
    for word in ("red", "blue"):
        aws.upload(f"colours/{word}.tar.gz", echo(word))
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/colours/", "Mode": "MultiModel"}
    sagemaker.api.create_model(ModelName="colours", PrimaryContainer=container, ExecutionRoleArn=aws.role)
    sagemaker.config("colours-serverless", "colours")
    with refused("ValidationException", "multi-model"):
        sagemaker.api.create_endpoint(EndpointName="colours", EndpointConfigName="colours-serverless")
    sagemaker.config("colours", "colours", InstanceType="ml.m5.large", InitialInstanceCount=1)
    sagemaker.api.create_endpoint(EndpointName="colours", EndpointConfigName="colours")
    assert sagemaker.settled("colours")["EndpointStatus"] == "InService"
    assert alive(sagemaker, "colours") == 0
    for word in ("red", "blue", "red"):
        assert sagemaker.ask("colours", {}, TargetModel=f"{word}.tar.gz")["word"] == word
    assert alive(sagemaker, "colours") == 2
    with refused("ValidationError", "TargetModel"):
        sagemaker.ask("colours", {})
    with refused("ValidationError", "Failed to download model data", "colours/green.tar.gz"):
        sagemaker.ask("colours", {}, TargetModel="green.tar.gz")
    with refused("ValidationError", "not a multi-model endpoint"):
        sagemaker.ask(two, {}, TargetModel="red.tar.gz")
    aws.upload("colours/green.tar.gz", echo("green"))  # no update is needed for a new model
    assert sagemaker.ask("colours", {}, TargetModel="green.tar.gz")["word"] == "green"
    sagemaker.api.delete_endpoint(EndpointName="colours")
    eventually(lambda: alive(sagemaker, "colours") == 0)


class Loaded:
    """A loaded model, as far as its memory goes."""

    def __init__(self, megabytes: float, last_used: float, in_flight: int = 0) -> None:
        self.last_used, self.in_flight, self.gone = last_used, in_flight, False
        self._megabytes = megabytes

    def resident_mb(self) -> float:
        return self._megabytes

    async def remove(self) -> None:
        self.gone = True


def test_the_longest_unused_models_make_room(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, s3_url="", iam_url="", sns_url="", cloudwatch_url="")
    variant = {"VariantName": "AllTraffic", "InstanceType": "ml.c5.large", "InitialInstanceCount": 1}
    facts = {"Generation": "g", "Variant": variant, "Container": {"Mode": "MultiModel"}}
    models = {
        "old but busy": Loaded(1500, last_used=1, in_flight=1),
        "old": Loaded(1500, last_used=2),
        "older than new": Loaded(1500, last_used=3),
        "new": Loaded(500, last_used=4),
    }

    async def tidy() -> None:
        deployment = MultiModelDeployment("e", facts, settings, None)
        deployment._loaded = dict(models)  # type: ignore[arg-type]
        await deployment._make_room()  # 5,000 MB are used, and there are 4,096
        assert set(deployment._loaded) == {"old but busy", "older than new", "new"}

    asyncio.run(tidy())
    assert [name for name, model in models.items() if model.gone] == ["old"]


# -- provisioned concurrency -----------------------------------------------------------------------------------------


def test_provisioned_concurrency_stays_warm(sagemaker: SageMaker, url: str) -> None:
    sagemaker.model("warm", url)
    serverless = {"MemorySizeInMB": 1024, "MaxConcurrency": 4, "ProvisionedConcurrency": 2}
    sagemaker.config("warm", "warm", ServerlessConfig=serverless)
    sagemaker.api.create_endpoint(EndpointName="warm", EndpointConfigName="warm")
    sagemaker.settled("warm")
    time.sleep(2)
    first = pids(sagemaker, "warm")
    assert len(first) == alive(sagemaker, "warm") == 2
    time.sleep(1.5)
    assert pids(sagemaker, "warm") == first
    change: dict[str, Any] = {"EndpointName": "warm"}
    for wanted, code in ((5, "ValidationException"), (1, None)):
        capacity = {"VariantName": "AllTraffic", "ServerlessUpdateConfig": {"ProvisionedConcurrency": wanted}}
        change["DesiredWeightsAndCapacities"] = [capacity]
        if code:
            with refused(code, "MaxConcurrency"):
                sagemaker.api.update_endpoint_weights_and_capacities(**change)
        else:
            sagemaker.api.update_endpoint_weights_and_capacities(**change)
            sagemaker.settled("warm")
    assert sagemaker.variant("warm")["CurrentServerlessConfig"]["ProvisionedConcurrency"] == 1
    eventually(lambda: alive(sagemaker, "warm") == 1)
    sagemaker.api.delete_endpoint(EndpointName="warm")
    eventually(lambda: alive(sagemaker, "warm") == 0)


# -- quotas ----------------------------------------------------------------------------------------------------------


def test_quotas_bound_what_is_created(sagemaker: SageMaker, url: str) -> None:
    api = client("service-quotas", sagemaker.url)
    listed = [
        quota
        for page in api.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
        for quota in page["Quotas"]
    ]
    by_name = {quota["QuotaName"]: quota for quota in listed}
    quota = by_name["ml.m5.xlarge for endpoint usage"]
    assert (quota["QuotaCode"], quota["Value"]) == ("L-2F737F8D", 20)
    (sagemaker.state / "quotas.json").write_text(
        json.dumps(
            {
                "ml.m5.xlarge for endpoint usage": 0,
                "Memory size in MB per serverless endpoint": 3072,
                "Maximum total concurrency that can be allocated across all serverless endpoints": 10,
            }
        )
    )
    code = {"ServiceCode": "sagemaker", "QuotaCode": quota["QuotaCode"]}
    assert api.get_service_quota(**code)["Quota"]["Value"] == 0
    assert api.get_aws_default_service_quota(**code)["Quota"]["Value"] == 20
    with refused("NoSuchResourceException"):
        api.get_service_quota(ServiceCode="sagemaker", QuotaCode="L-00000000")
    sagemaker.model("q", url)
    sagemaker.config("instances", "q", InstanceType="ml.m5.xlarge", InitialInstanceCount=2)
    sagemaker.config("large", "q", memory=4096)
    sagemaker.config("wide", "q", concurrency=11)
    sagemaker.config("fits", "q", concurrency=6)
    for config, words in (
        (
            "instances",
            "The account-level service limit 'ml.m5.xlarge for endpoint usage' is 0 Instances, with current "
            "utilization of 0 Instances and a request delta of 2 Instances. Please use AWS Service Quotas",
        ),
        ("large", "'Memory size in MB per serverless endpoint' is 3072 MBs"),
        ("wide", "across all serverless endpoints' is 10, with current utilization of 0 and a request delta of 11"),
    ):
        with refused("ResourceLimitExceeded", words):
            sagemaker.api.create_endpoint(EndpointName="q", EndpointConfigName=config)
    assert sagemaker.api.list_endpoints(NameContains="q")["Endpoints"] == []
    sagemaker.api.create_endpoint(EndpointName="first", EndpointConfigName="fits")
    sagemaker.settled("first")
    with refused("ResourceLimitExceeded", "current utilization of 6 and a request delta of 6"):
        sagemaker.api.create_endpoint(EndpointName="second", EndpointConfigName="fits")
    sagemaker.api.update_endpoint(EndpointName="first", EndpointConfigName="fits")  # its own 6 become 6
    assert sagemaker.settled("first")["EndpointStatus"] == "InService"
    (sagemaker.state / "quotas.json").unlink()
    assert api.get_service_quota(**code)["Quota"]["Value"] == 20
