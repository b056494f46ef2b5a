"""The embedded SageMaker's asynchronous endpoints, and what Application Auto Scaling does with them."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.sagemaker import BUCKET, IMAGE, SIGNED, Aws, SageMaker, client, echo, eventually, refused

from local_cloud.sagemaker.metrics import Metrics
from local_cloud.sagemaker.scaling.scaler import adjusted

pytestmark = pytest.mark.slow

INSTANCES = "sagemaker:variant:DesiredInstanceCount"
PROVISIONED = "sagemaker:variant:DesiredProvisionedConcurrency"
OPTION = {
    "ServiceNamespace": "service-namespace",
    "ResourceId": "resource-id",
    "ScalableDimension": "scalable-dimension",
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    aws = Aws(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.stop()


@pytest.fixture(scope="module")
def sagemaker(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMaker]:
    folder = tmp_path_factory.mktemp("sagemaker")
    # A minute takes 0.2 seconds: fifteen minutes of nothing to do take three.
    sagemaker = SageMaker(aws, folder, "--startup-seconds", "60", "--minute-seconds", "0.2")
    yield sagemaker
    sagemaker.stop()


@pytest.fixture(scope="module")
def url(aws: Aws) -> str:
    return aws.upload("echo/model.tar.gz", echo("one"))


@pytest.fixture(scope="module")
def topics(aws: Aws) -> dict[str, str]:
    """Topics by name, with a queue of the same name behind each."""
    found = {}
    for name in ("success", "error"):
        found[name] = aws.sns.create_topic(Name=name)["TopicArn"]
        queue = aws.sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        aws.sns.subscribe(TopicArn=found[name], Protocol="sqs", Endpoint=arn)
    return found


def asynchronous(topics: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    output: dict[str, Any] = {
        "S3OutputPath": f"s3://{BUCKET}/out/",
        "S3FailurePath": f"s3://{BUCKET}/failed",
    }
    if topics:
        output["NotificationConfig"] = {
            "SuccessTopic": topics["success"],
            "ErrorTopic": topics["error"],
            "IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"],
        }
    client_config = {"MaxConcurrentInvocationsPerInstance": 2}
    return {"AsyncInferenceConfig": {"OutputConfig": output, "ClientConfig": client_config, **more}}


@pytest.fixture(scope="module")
def endpoint(sagemaker: SageMaker, url: str, topics: dict[str, str]) -> str:
    sagemaker.instances("later", url, more=asynchronous(topics))
    assert sagemaker.settled("later")["EndpointStatus"] == "InService", sagemaker.log.read_text()
    return "later"


def submit(sagemaker: SageMaker, name: str, question: Any, **options: Any) -> dict[str, Any]:
    key = f"in/{time.monotonic_ns()}.json"
    sagemaker.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(question))
    given = {"ContentType": "application/json", "InputLocation": f"s3://{BUCKET}/{key}", **options}
    answer: dict[str, Any] = sagemaker.runtime.invoke_endpoint_async(EndpointName=name, **given)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    return answer


def result(aws: Aws, location: str, seconds: float = 20) -> bytes:
    key = location.removeprefix(f"s3://{BUCKET}/")
    eventually(lambda: key in aws.keys(key), seconds)
    return aws.read(key)


def told(aws: Aws, queue: str, inference_id: str) -> dict[str, Any]:
    """Return the notification of a call."""
    address = aws.sqs.get_queue_url(QueueName=queue)["QueueUrl"]

    def look() -> Any:
        for message in aws.sqs.receive_message(QueueUrl=address, MaxNumberOfMessages=10).get("Messages", []):
            aws.sqs.delete_message(QueueUrl=address, ReceiptHandle=message["ReceiptHandle"])
            found = json.loads(json.loads(message["Body"])["Message"])
            if found["inferenceId"] == inference_id:
                return found
        return None

    found: dict[str, Any] = eventually(look)
    return found


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_is_taken_at_once_and_its_result_is_told(sagemaker: SageMaker, aws: Aws, endpoint: str) -> None:
    described = sagemaker.api.describe_endpoint(EndpointName=endpoint)
    assert described["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"] == f"s3://{BUCKET}/out/"
    began = time.monotonic()
    answer = submit(sagemaker, endpoint, {"sleep": 1.5, "q": "who?"}, InferenceId="mine")
    assert time.monotonic() - began < 1
    assert answer["InferenceId"] == "mine"
    assert answer["OutputLocation"].startswith(f"s3://{BUCKET}/out/")
    assert answer["FailureLocation"].startswith(f"s3://{BUCKET}/failed/")
    said = json.loads(result(aws, answer["OutputLocation"]))
    assert (said["word"], said["got"]["q"]) == ("one", "who?")
    message = told(aws, "success", "mine")
    assert (message["invocationStatus"], message["eventName"]) == ("Completed", "InferenceResult")
    assert message["responseParameters"]["outputLocation"] == answer["OutputLocation"]
    assert message["requestParameters"]["endpointName"] == endpoint
    assert json.loads(base64.b64decode(message["responseBody"]["content"])) == said

    named = submit(sagemaker, endpoint, {}, S3OutputPathExtension="team/blue", Filename="answer.json")
    assert named["OutputLocation"] == f"s3://{BUCKET}/out/team/blue/answer.json"
    assert json.loads(result(aws, named["OutputLocation"]))["word"] == "one"
    small = sagemaker.runtime.invoke_endpoint_async(
        EndpointName=endpoint, Body=b'{"q": "inline"}', ContentType="application/json"
    )
    assert json.loads(result(aws, small["OutputLocation"]))["got"] == {"q": "inline"}


def test_what_cannot_be_answered_is_told_with_its_reason(sagemaker: SageMaker, aws: Aws, endpoint: str) -> None:
    answer = submit(sagemaker, endpoint, {"refuse": True}, InferenceId="refused")
    assert b"this question is refused" in result(aws, answer["FailureLocation"])
    message = told(aws, "error", "refused")
    assert message["invocationStatus"] == "Failed"
    assert "client error (400)" in message["failureReason"]
    assert "responseBody" not in message
    for inference_id, options, words in (
        ("missing", {"InputLocation": f"s3://{BUCKET}/in/nothing.json"}, "in/nothing.json"),
        ("slow", {"InvocationTimeoutSeconds": 1}, "timed out"),
    ):
        answer = submit(sagemaker, endpoint, {"sleep": 5}, InferenceId=inference_id, **options)
        assert words in result(aws, answer["FailureLocation"]).decode()
        assert words in told(aws, "error", inference_id)["failureReason"]
    assert not [key for key in aws.keys("out/") if key in answer["OutputLocation"]]


def test_only_asynchronous_endpoints_take_asynchronous_calls(sagemaker: SageMaker, endpoint: str, url: str) -> None:
    with refused("ValidationError", "InvokeEndpointAsync"):
        sagemaker.ask(endpoint, {})
    sagemaker.create("now", url)
    with refused("ValidationError", "now", "not in service"):
        submit(sagemaker, "now", {})
    sagemaker.settled("now")
    with refused("ValidationError", "AsyncInferenceConfig"):
        submit(sagemaker, "now", {})
    with refused("ValidationError", "not found"):
        submit(sagemaker, "nowhere", {})
    with refused("ValidationError", "InputLocation or a Body"):
        sagemaker.runtime.invoke_endpoint_async(EndpointName=endpoint)
    headers = {**SIGNED, "X-Amzn-SageMaker-InputLocation": "s3://b/k"}
    headers["X-Amzn-SageMaker-RequestTTLSeconds"] = "59"  # boto3 would not send it
    address = f"{sagemaker.url}/endpoints/{endpoint}/async-invocations"
    answer = httpx.post(address, headers=headers, trust_env=False)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, "ValidationError")
    assert "requestTTLSeconds" in answer.json()["Message"]


def test_the_queue_survives_kill_9(sagemaker: SageMaker, aws: Aws, url: str) -> None:
    def waiting() -> list[Path]:
        return list((sagemaker.state / "async-call").glob("*.json"))

    sagemaker.instances("kept", url, more=asynchronous())
    sagemaker.settled("kept")
    answers = [submit(sagemaker, "kept", {"sleep": 0.5, "n": n}) for n in range(6)]
    result(aws, answers[0]["OutputLocation"])
    sagemaker.kill()  # two are being answered, the others wait
    assert len(waiting()) >= 2
    sagemaker.start()
    for n, answer in enumerate(answers):
        assert json.loads(result(aws, answer["OutputLocation"], 40))["got"]["n"] == n
    eventually(lambda: not waiting())
    # What waits goes with its endpoint.
    sagemaker.api.update_endpoint_weights_and_capacities(
        EndpointName="kept", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}]
    )
    sagemaker.settled("kept")
    submit(sagemaker, "kept", {})
    sagemaker.api.delete_endpoint(EndpointName="kept")
    eventually(lambda: not waiting())


SDK = """
import json, sys
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import (
    AsyncInferenceConfig, AsyncInferenceOutputConfig, ContainerDefinition, DataCaptureConfig, CaptureOption,
    ProductionVariant,
)
role, image, url, bucket, source = sys.argv[1:]
model = Model.create(
    model_name="sdk",
    primary_container=ContainerDefinition(image=image, model_data_url=url),
    execution_role_arn=role,
)
variant = ProductionVariant(
    variant_name="AllTraffic", model_name="sdk", instance_type="ml.m5.large", initial_instance_count=1
)
output = AsyncInferenceOutputConfig(s3_output_path=f"s3://{bucket}/sdk", s3_failure_path=f"s3://{bucket}/sdk-failed")
capture = DataCaptureConfig(
    initial_sampling_percentage=100, destination_s3_uri=f"s3://{bucket}/sdk-captured",
    capture_options=[CaptureOption(capture_mode="Input")],
)
for name, more in (
    ("sdk-later", {"async_inference_config": AsyncInferenceConfig(output_config=output)}),
    ("sdk-now", {"data_capture_config": capture}),
):
    EndpointConfig.create(endpoint_config_name=name, production_variants=[variant], **more)
    Endpoint.create(endpoint_name=name, endpoint_config_name=name)
for name in ("sdk-later", "sdk-now"):
    endpoint = Endpoint.get(endpoint_name=name)
    endpoint.wait_for_status("InService", poll=1, timeout=60)
    assert endpoint.production_variants[0].current_instance_count == 1, endpoint
later, now = Endpoint.get(endpoint_name="sdk-later"), Endpoint.get(endpoint_name="sdk-now")
assert now.data_capture_config.capture_status == "Started", now
assert later.async_inference_config.output_config.s3_output_path.endswith("/sdk"), later
answer = now.invoke(body=json.dumps({"q": 1}), content_type="application/json")
assert json.loads(answer.body.read())["got"] == {"q": 1}
place = later.invoke_async(input_location=source, content_type="application/json")
assert EndpointConfig.get(endpoint_config_name="sdk-later").production_variants[0].model_name == "sdk"
assert {"sdk-later", "sdk-now"} <= {each.endpoint_name for each in Endpoint.get_all(name_contains="sdk-")}
assert Model.get(model_name="sdk").primary_container.model_data_url == url
print(place.output_location)
now.delete()
for name in ("sdk-later", "sdk-now"):
    EndpointConfig.get(endpoint_config_name=name).delete()
model.delete()
"""


def test_the_sdks_resources_make_call_and_delete_endpoints(
    sagemaker: SageMaker, aws: Aws, url: str, tmp_path: Path
) -> None:
    aws.s3.put_object(Bucket=BUCKET, Key="in/sdk.json", Body=b'{"q": "from the SDK"}')
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("SAGEMAKER", "SAGEMAKER_RUNTIME"):
        environment[f"AWS_ENDPOINT_URL_{name}"] = sagemaker.url
    arguments = [aws.role, IMAGE, url, BUCKET, f"s3://{BUCKET}/in/sdk.json"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SDK, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(result(aws, done.stdout.splitlines()[-1]))["got"] == {"q": "from the SDK"}
    assert "sdk-now" not in [each["EndpointName"] for each in sagemaker.api.list_endpoints()["Endpoints"]]


def test_the_command_line_speaks_with_the_neighbours_too(sagemaker: SageMaker, endpoint: str) -> None:
    program = Path(sys.executable).with_name("aws")
    environment = {**os.environ, "AWS_ENDPOINT_URL": sagemaker.url}

    def run(*arguments: str) -> Any:
        done = subprocess.run([str(program), *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    quotas = run("service-quotas", "list-service-quotas", "--service-code", "sagemaker")["Quotas"]
    assert "ml.m5.xlarge for endpoint usage" in [quota["QuotaName"] for quota in quotas]
    target = [word for name, value in of(endpoint).items() for word in (f"--{OPTION[name]}", value)]
    run("application-autoscaling", "register-scalable-target", *target, "--min-capacity", "1", "--max-capacity", "2")
    found = run("application-autoscaling", "describe-scalable-targets", "--service-namespace", "sagemaker")
    assert endpoint in found["ScalableTargets"][0]["ResourceId"]
    subprocess.run(
        [str(program), "application-autoscaling", "deregister-scalable-target", *target], env=environment, check=True
    )
    key = "in/command-line.json"
    sagemaker.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=b'{"q": "from the shell"}')
    arguments = ["--endpoint-name", endpoint, "--content-type", "application/json"]
    said = run("sagemaker-runtime", "invoke-endpoint-async", *arguments, "--input-location", f"s3://{BUCKET}/{key}")
    assert json.loads(result(sagemaker.aws, said["OutputLocation"]))["got"] == {"q": "from the shell"}


# -- scaling ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaling(sagemaker: SageMaker) -> Any:
    return client("application-autoscaling", sagemaker.url)


def of(name: str, dimension: str = INSTANCES) -> dict[str, str]:
    resource = f"endpoint/{name}/variant/AllTraffic"
    return {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": dimension}


def tracking(target: float, *, metric: str | None = None, endpoint: str = "", **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"TargetValue": target, **more}
    if metric is None:
        specification: dict[str, Any] = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
            "Statistic": "Average",
        }
        config["CustomizedMetricSpecification"] = specification
    else:
        config["PredefinedMetricSpecification"] = {"PredefinedMetricType": metric}
    return {"PolicyType": "TargetTrackingScaling", "TargetTrackingScalingPolicyConfiguration": config}


def test_targets_and_policies_are_checked(sagemaker: SageMaker, scaling: Any, endpoint: str) -> None:
    with refused("ValidationException", "doesn't exist", "nowhere"):
        scaling.register_scalable_target(**of("nowhere"), MinCapacity=1, MaxCapacity=2)
    with refused("ValidationException", "endpoint/NAME/variant/NAME"):
        scaling.register_scalable_target(**(of(endpoint) | {"ResourceId": "later"}), MinCapacity=1, MaxCapacity=2)
    with refused("ValidationException", "MinCapacity and MaxCapacity"):
        scaling.register_scalable_target(**of(endpoint))
    with refused("ValidationException", "greater than maximum"):
        scaling.register_scalable_target(**of(endpoint), MinCapacity=3, MaxCapacity=2)
    with refused("ValidationException", "does not fit"):
        scaling.register_scalable_target(**of(endpoint, PROVISIONED), MinCapacity=1, MaxCapacity=2)
    with refused("ObjectNotFoundException", "No scalable target registered", endpoint):
        scaling.put_scaling_policy(PolicyName="p", **of(endpoint), **tracking(1, endpoint=endpoint))
    made = scaling.register_scalable_target(**of(endpoint), MinCapacity=1, MaxCapacity=1)
    assert ":scalable-target/" in made["ScalableTargetARN"]
    scaling.register_scalable_target(**of(endpoint), MaxCapacity=2)  # again: a change
    ours = {"ServiceNamespace": "sagemaker", "ResourceIds": [of(endpoint)["ResourceId"]]}
    (target,) = scaling.describe_scalable_targets(**ours)["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 2)
    with refused("ValidationException", "SageMakerVariantInvocationsPerInstance"):
        wrong = "SageMakerVariantProvisionedConcurrencyUtilization"
        scaling.put_scaling_policy(PolicyName="p", **of(endpoint), **tracking(1, metric=wrong))
    with refused("ValidationException", "TargetValue"):
        scaling.put_scaling_policy(PolicyName="p", **of(endpoint), **tracking(0, endpoint=endpoint))
    with refused("ValidationException", "StepAdjustments"):
        steps = {"AdjustmentType": "ChangeInCapacity"}
        scaling.put_scaling_policy(
            PolicyName="p", **of(endpoint), PolicyType="StepScaling", StepScalingPolicyConfiguration=steps
        )
    arn = scaling.put_scaling_policy(PolicyName="p", **of(endpoint), **tracking(50, endpoint=endpoint))["PolicyARN"]
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker", PolicyNames=["p"])["ScalingPolicies"]
    assert policy["PolicyARN"] == arn
    # Another instance type would not be the same variant any longer.
    sagemaker.config("other-type", endpoint, InstanceType="ml.c5.large", InitialInstanceCount=1, more=asynchronous())
    with refused("ValidationException", "AllTraffic", "Application Auto Scaling", "Deregister"):
        sagemaker.api.update_endpoint(EndpointName=endpoint, EndpointConfigName="other-type")
    scaling.delete_scaling_policy(PolicyName="p", **of(endpoint))
    with refused("ObjectNotFoundException", "No scaling policy"):
        scaling.delete_scaling_policy(PolicyName="p", **of(endpoint))
    scaling.deregister_scalable_target(**of(endpoint))
    with refused("ObjectNotFoundException"):
        scaling.deregister_scalable_target(**of(endpoint))
    with refused("UnknownOperationException", "PutScheduledAction", "PutScalingPolicy"):
        scaling.put_scheduled_action(ScheduledActionName="s", Schedule="rate(1 minute)", **of(endpoint))


def test_an_asynchronous_endpoint_scales_to_zero_and_wakes_for_what_waits(
    sagemaker: SageMaker, aws: Aws, scaling: Any, url: str
) -> None:
    name = "sleeper"
    sagemaker.instances(name, url, more=asynchronous())
    sagemaker.settled(name)
    scaling.register_scalable_target(**of(name), MinCapacity=0, MaxCapacity=2)
    scaling.put_scaling_policy(
        PolicyName="track", **of(name), **tracking(2, endpoint=name, ScaleInCooldown=60, ScaleOutCooldown=60)
    )

    def count() -> int:
        return int(sagemaker.variant(name)["CurrentInstanceCount"])

    eventually(lambda: count() == 0)
    assert not [each for each in sagemaker.containers() if f"/containers/{name}/" in " ".join(each.cmdline())]
    assert sagemaker.api.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
    # Target tracking alone never wakes it: without instances there is no backlog per instance.
    answer = submit(sagemaker, name, {"n": 1})
    time.sleep(2)
    assert count() == 0
    step = {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    steps = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": [step], "Cooldown": 300}
    policy = scaling.put_scaling_policy(
        PolicyName="wake", **of(name), PolicyType="StepScaling", StepScalingPolicyConfiguration=steps
    )
    aws.alarm(
        "backlog",
        AlarmActions=[policy["PolicyARN"]],
        Namespace="AWS/SageMaker",
        MetricName="HasBacklogWithoutCapacity",
        Dimensions=[{"Name": "EndpointName", "Value": name}],
        TreatMissingData="missing",
    )
    assert json.loads(result(aws, answer["OutputLocation"]))["got"] == {"n": 1}
    eventually(lambda: count() == 0)  # and to rest again
    activities = scaling.describe_scaling_activities(
        ServiceNamespace="sagemaker", **{"ResourceId": of(name)["ResourceId"]}
    )
    said = [(each["Description"], each["Cause"].split()[-1]) for each in activities["ScalingActivities"]]
    assert said[::-1][:2] == [
        ("Setting desired instance count to 0.", "track"),
        ("Setting desired instance count to 1.", "wake"),
    ]
    # A long queue asks for more than one.
    answers = [submit(sagemaker, name, {"sleep": 0.4, "n": n}) for n in range(30)]
    eventually(lambda: count() == 2)
    for answer in answers:
        result(aws, answer["OutputLocation"], 30)
    sagemaker.api.delete_endpoint(EndpointName=name)
    eventually(lambda: not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"])
    assert not scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]


def test_a_real_time_endpoint_grows_with_its_calls_and_shrinks(sagemaker: SageMaker, scaling: Any, url: str) -> None:
    name = "busy"
    sagemaker.instances(name, url)
    sagemaker.settled(name)
    with refused("ValidationException", "only asynchronous"):
        scaling.register_scalable_target(**of(name), MinCapacity=0, MaxCapacity=2)
    scaling.register_scalable_target(**of(name), MinCapacity=1, MaxCapacity=2)
    metric = "SageMakerVariantInvocationsPerInstance"
    cooldowns = {"ScaleInCooldown": 60, "ScaleOutCooldown": 60}
    scaling.put_scaling_policy(PolicyName="calls", **of(name), **tracking(0.5, metric=metric, **cooldowns))

    def grown() -> bool:
        for _ in range(10):
            sagemaker.ask(name, {})
        return bool(sagemaker.variant(name)["CurrentInstanceCount"] == 2)

    eventually(grown)
    scaling.put_scaling_policy(PolicyName="calls", **of(name), **tracking(10_000, metric=metric, **cooldowns))

    def shrunk() -> bool:
        sagemaker.ask(name, {})  # without any call there are no figures to go by
        return bool(sagemaker.variant(name)["CurrentInstanceCount"] == 1)

    eventually(shrunk)
    scaling.deregister_scalable_target(**of(name))


# -- arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "current", "adjustment", "wanted"),
    [
        ("ChangeInCapacity", 2, -1, 1),
        ("ExactCapacity", 2, 5, 5),
        ("PercentChangeInCapacity", 10, 25, 12),
        ("PercentChangeInCapacity", 2, 10, 3),
        ("PercentChangeInCapacity", 2, -10, 1),
        ("PercentChangeInCapacity", 0, 100, 0),
    ],
)
def test_steps_change_the_capacity(kind: str, current: int, adjustment: int, wanted: int) -> None:
    assert adjusted(current, {"AdjustmentType": kind}, adjustment) == wanted


def test_metrics_are_counted_by_whole_minutes() -> None:
    now = 6_001.0
    metrics = Metrics(minute_seconds=60, now=lambda: now)
    for value in (1.0, 3.0):
        metrics.record("M", "e", "v", value)
    assert metrics.minutes("M", "e", "v", "Sum", 1) == [None]  # the minute is not over
    now += 60
    assert metrics.minutes("M", "e", "v", "Sum", 3) == [None, None, 4]
    assert metrics.minutes("M", "e", "v", "Average", 1) == [2]
    assert metrics.minutes("M", "other", "v", "Average", 1) == [None]
    now += 60
    assert metrics.minutes("M", "e", "v", "Maximum", 3) == [None, 3, None]
    assert metrics.minutes("M", "e", "v", "SampleCount", 1, minutes=5) == [None]
