"""Every kind of endpoint: what a target excludes, what is planned, and the endpoint that comes of it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator
from pydantic import ValidationError
from support.clouds import carried_out

from askline.clients import aws_client
from askline.config import DeployConfig, PackageConfig, PipelineConfig
from askline.errors import ConfigError, DeployError
from askline.records import DeployPlan, Measured, PackageRef, Scaling, Target
from benchmarks.redeploy_act import Bench, clients, proxied
from tasks.ask.endpoint import Caller
from tasks.deploy_serverless import autoscaling
from tasks.deploy_serverless.plan import plan_deploy, plan_for
from tasks.deploy_serverless.registry import resolve
from tasks.deploy_serverless.requests import config_request, described, model_request, read_serving
from tasks.deploy_serverless.sizing import sized_instance
from tasks.report.plan import text

AWS = Target(kind="aws", region="us-east-1")
ROLE = "arn:aws:iam::111122223333:role/serve"
TOPIC = "arn:aws:sns:us-east-1:111122223333:answers"
PACKAGE = PackageRef(
    sha256="p",
    archive_sha256="a" * 64,
    size=1,
    unpacked_size=1,
    model_sha256="m",
    members=(),
    engine="onnxruntime",
    measured=Measured(
        load_seconds=1,
        load_peak_mb=540,
        peak_mb=572,
        first_answer_seconds=1,
        answer_seconds=0.24,
        answer_seconds_p95=0.3,
        batch_seconds=1,
        batch_questions=8,
        processor="here",
    ),
)
URI = "s3://models/deploy/biography/aaaaaaaaaaaa/model.tar.gz"
REAL_TIME: dict[str, Any] = {
    "target": "real-time",
    "workers": 2,
    "volume_size_gb": 40,
    "autoscaling": {"max": 4},
    "data_capture": {"percentage": 10},
    "blue_green": {"traffic": "canary", "alarms": ["too-many-errors"]},
    "vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]},
    "network_isolation": True,
}
ASYNC: dict[str, Any] = {
    "target": "async",
    "autoscaling": {"max": 3},
    "asynchronous": {"success_topic": TOPIC, "output_path": "s3://answers/out"},
}


def plan(package: PackageRef = PACKAGE, **options: Any) -> DeployPlan:
    return plan_for(DeployConfig(**options), package, archive_uri=URI, role_arn=ROLE, target=AWS)


# -- what needs no cloud ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gpu": True}, "no GPU"),
        ({"tags": {f"k{number}": "v" for number in range(9)}}, "S3 takes 10 tags an object"),
        ({"target": "real-time", "blue_green": {"traffic": "linear", "step_percent": 9}}, "steps of 10 to 50 %"),
        ({"vpc": {"subnets": ["s"], "security_groups": ["g"]}}, "cannot join a VPC"),
        ({"network_isolation": True}, "cannot isolate"),
        ({"data_capture": {"percentage": 5}}, "capture no data"),
        ({"multi_model": "team"}, "hold one model"),
        ({"volume_size_gb": 10}, "5 GB"),
        ({"budget": 1.0}, "billed by the answer"),
        ({"blue_green": {"alarms": ["a"]}}, "all at once"),
        ({"autoscaling": {"max": 3}}, "provisioned_concurrency: set that too"),
        ({"provisioned_concurrency": 9}, "above deploy.max_concurrency 5"),
        ({"target": "real-time", "provisioned_concurrency": 2}, "only serverless"),
        ({"target": "real-time", "autoscaling": {"max": 2, "min": 0}}, "only an async endpoint scales to zero"),
        ({"target": "real-time", "asynchronous": {"error_topic": TOPIC}}, "answers its callers"),
        ({"target": "async", "data_capture": {"percentage": 5}}, "in S3 already"),
        ({"target": "async", "multi_model": "team"}, "only real-time"),
        ({"target": "async", "autoscaling": {"max": 1, "min": 2}}, "above deploy.autoscaling.max 1"),
        ({"target": "real-time", "budget": 1.0, "instance_type": "ml.m5.large"}, 'needs deploy.instance_type "auto"'),
        ({"target": "real-time", "vpc": {"subnets": ["s"]}}, "both subnets and security_groups"),
    ],
)
def test_what_a_target_excludes_is_refused_with_the_reason(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DeployConfig(**options)
    assert reason in str(caught.value)


def test_what_the_api_cannot_ask_is_not_put_behind_it() -> None:
    with pytest.raises(ValidationError, match=r"api\.enabled to false"):
        PipelineConfig(deploy=DeployConfig(target="async"))
    PipelineConfig(deploy=DeployConfig(target="async"), api={"enabled": False})


def test_the_names_of_serverless_endpoints_are_what_they_always_were() -> None:
    config = DeployConfig(image="own:1", memory_mb=2048)
    made = plan_for(config, PACKAGE, archive_uri="s3://b/k/model.tar.gz", role_arn=ROLE, target=AWS).serving
    assert (made.model_name, made.config_name) == ("askline-biography-b925d577", "askline-biography-25488f4c")


@pytest.mark.parametrize("options", [{"provisioned_concurrency": 2}, REAL_TIME, ASYNC])
def test_the_requests_are_what_the_service_takes_and_say_what_was_planned(options: dict[str, Any]) -> None:
    made = plan(**options)
    model = get_session().get_service_model("sagemaker")
    requests = {"CreateModel": model_request(made.serving), "CreateEndpointConfig": config_request(made.serving)}
    for operation, request in requests.items():
        report = ParamValidator().validate(request, model.operation_model(operation).input_shape)
        assert not report.has_errors(), report.generate_report()
    if made.update is not None:
        report = ParamValidator().validate(made.update, model.shape_for("DeploymentConfig"))
        assert not report.has_errors(), report.generate_report()
    # Read back, it is the same, but for what Application Auto Scaling keeps.
    read = described(requests["CreateEndpointConfig"], requests["CreateModel"])
    assert read == made.serving.model_copy(update={"scaling": None})


def test_a_configuration_changes_its_name_with_all_but_its_scaling() -> None:
    base = plan(**REAL_TIME).serving
    assert plan(**{**REAL_TIME, "autoscaling": {"max": 9}}).serving.config_name == base.config_name
    for change in ({"volume_size_gb": 50}, {"data_capture": {"percentage": 11}}, {"instance_count": 2}):
        other = plan(**{**REAL_TIME, **change}).serving
        assert (other.model_name == base.model_name, other.config_name == base.config_name) == (True, False)
    assert plan(**{**REAL_TIME, "workers": 3}).serving.model_name != base.model_name


def test_several_models_share_an_endpoint_and_each_names_its_own_archive() -> None:
    one = plan(target="real-time", multi_model="team", mlkey="biography")
    there = "s3://models/deploy/chemistry/bbbbbbbbbbbb/model.tar.gz"
    config = DeployConfig(target="real-time", multi_model="team", mlkey="chemistry")
    package = PACKAGE.model_copy(update={"archive_sha256": "b" * 64})
    two = plan_for(config, package, archive_uri=there, role_arn=ROLE, target=AWS)
    assert one.endpoint_name == two.endpoint_name == "serv-hf-endpoint-team"
    assert one.serving == two.serving
    assert one.serving.archive_uri == "s3://models/deploy/"
    assert (one.target_model, two.target_model) == (
        "biography/aaaaaaaaaaaa/model.tar.gz",
        "chemistry/bbbbbbbbbbbb/model.tar.gz",
    )
    assert model_request(one.serving)["PrimaryContainer"]["Mode"] == "MultiModel"


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"budget": 0.11}, "ml.c6i.large"),
        ({"budget": 0.25, "workers": 4}, "ml.c6i.xlarge"),
        ({"budget": 0.5, "workers": 8}, "ml.c6i.2xlarge"),
        ({"budget": 0.8, "gpu": True}, "ml.g4dn.xlarge"),
        ({"budget": 50.0}, "ml.c6i.large"),
        ({"budget": 0.3, "instance_count": 2}, "ml.c6i.large"),
    ],
)
def test_the_budget_chooses_the_cheapest_instance_that_holds_the_workers(options: dict[str, Any], chosen: str) -> None:
    config = DeployConfig(target="real-time", **options)
    choice = sized_instance(config, PACKAGE, region="us-east-1")
    assert choice.instance_type == chosen
    assert choice.instance is not None
    assert choice.instance.memory_gib * 1024 >= choice.need.total_mb


def test_a_budget_that_buys_nothing_says_what_would_do() -> None:
    with pytest.raises(ConfigError, match=r"cheapest that fits is ml\.c6i\.large at 0\.102.*for 2 instances"):
        plan(target="real-time", budget=0.15, instance_count=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instance_type": "ml.c7g.large"}, "x86-64"),
        ({"instance_type": "ml.m5d.large", "volume_size_gb": 20}, "of its own"),
    ],
)
def test_an_instance_that_cannot_run_it_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(target="real-time", **options)


def test_a_person_can_read_the_plan_of_every_target() -> None:
    where = PackageConfig(bucket="models")
    said = text(plan_deploy(DeployConfig(role_arn=ROLE, **REAL_TIME), where, PACKAGE, target=AWS))
    for words in (
        "1 × ml.c6i.large",
        "572 MB measured",
        "1 to 4, for 600 requests",
        "10 %",
        "subnet-1",
        "too-many-err",
    ):
        assert words in said
    said = text(plan_deploy(DeployConfig(role_arn=ROLE, **ASYNC), where, PACKAGE, target=AWS))
    for words in ("0 to 3, for 5 waiting", "s3://answers/out", TOPIC, "0.102 $ an hour", "cheaper below"):
        assert words in said
    unknown = DeployConfig(role_arn=ROLE, target="real-time", instance_type="ml.z9.large")
    made = plan_deploy(unknown, where, PACKAGE, target=AWS)
    assert (made.costs.instance, made.costs.usd_per_hour) == ("ml.z9.large", None)
    assert "does not know ml.z9.large" in made.notes[0]


# -- on the embedded cloud -------------------------------------------------------------------------------------------


@pytest.fixture
def bench(cloud: Target, tmp_path: Path) -> Bench:
    return Bench(cloud, tmp_path / "packages")


def ours(bench: Bench, mlkey: str, **options: Any) -> DeployPlan:
    """Return the plan of a deployment of what the MLKey's endpoint serves now, changed."""
    found = read_serving(f"serv-hf-endpoint-{mlkey}", bench.target)
    assert found is not None
    config = DeployConfig(mlkey=mlkey, image=found.image, **options)
    return plan_for(config, PACKAGE, archive_uri=found.archive_uri, role_arn=found.role_arn, target=bench.target)


@pytest.mark.slow
def test_a_real_time_endpoint_that_scales_and_goes_to_another_instance(bench: Bench) -> None:
    target, name = bench.target, "serv-hf-endpoint-targets-real"
    assert bench.act("targets-real", "one", kind="real-time").error is None
    assert autoscaling.read(name, target=target) is None
    scales = {"target": "real-time", "autoscaling": {"max": 3}}
    first = carried_out(ours(bench, "targets-real", **scales), target)
    wanted = Scaling(by="invocations", value=600, min=1, max=3, scale_out_seconds=60, scale_in_seconds=300)
    assert autoscaling.read(name, target=target) == wanted
    again = carried_out(ours(bench, "targets-real", **scales), target)
    assert (again.action, again.config_name) == ("unchanged", first.config_name)
    moved = carried_out(ours(bench, "targets-real", instance_type="ml.m5.large", **scales), target)
    assert (moved.action, moved.runs_on, moved.previous_config) == ("updated", "1 × ml.m5.large", first.config_name)
    assert autoscaling.read(name, target=target) == wanted
    served = read_serving(name, target)
    assert served is not None
    assert (served.scaling, served.instance_type) == (wanted, "ml.m5.large")
    still = carried_out(ours(bench, "targets-real", target="real-time", instance_type="ml.m5.large"), target)
    assert still.action == "unchanged"
    assert autoscaling.registered_endpoints(target=target) == ()
    with pytest.raises(DeployError, match="does not make such an endpoint serverless"):
        carried_out(ours(bench, "targets-real", memory_mb=1024), target)
    assert bench.answering("targets-real") == "one"
    assert autoscaling.remove(name, target=target) is False


@pytest.mark.slow
def test_several_models_share_an_endpoint_and_each_mlkey_asks_its_own(bench: Bench) -> None:
    shared = {"kind": "real-time", "multi_model": "targets-team"}
    first = bench.act("targets-left", "one", **shared)
    assert (first.said, first.error) == ("created", None)
    second = bench.act("targets-right", "two", **shared)
    assert (second.said, second.error) == ("unchanged", None)
    entries = {mlkey: resolve(mlkey, bench.target) for mlkey in ("targets-left", "targets-right")}
    said = {}
    for mlkey, entry in entries.items():
        assert entry is not None
        assert entry.endpoint == "serv-hf-endpoint-targets-team"
        answer = aws_client(bench.target, "sagemaker-runtime").invoke_endpoint(
            EndpointName=entry.endpoint,
            TargetModel=entry.target_model,
            ContentType="application/json",
            Body=json.dumps({"inputs": "Who?"}),
        )
        said[mlkey] = json.loads(answer["Body"].read())["answers"][0]["answer"]
    assert said == {"targets-left": "one heard Who?", "targets-right": "two heard Who?"}


@pytest.mark.slow
def test_an_async_endpoint_answers_in_s3_and_may_sleep(bench: Bench) -> None:
    target, name = bench.target, "serv-hf-endpoint-targets-queue"
    done = bench.act("targets-queue", "one", kind="async")
    assert (done.said, done.error) == ("created", None)
    made = ours(bench, "targets-queue", target="async", autoscaling={"max": 2})
    ref = carried_out(made, target)
    assert ref.input_folder is not None
    found = autoscaling.read(name, target=target)
    assert found is not None
    assert (found.by, found.min, found.max) == ("backlog", 0, 2)
    alarm = aws_client(target, "cloudwatch").describe_alarms(AlarmNames=[autoscaling.alarm_name(name)])["MetricAlarms"][
        0
    ]
    assert (alarm["MetricName"], alarm["Dimensions"][0]["Value"]) == ("HasBacklogWithoutCapacity", name)
    assert Caller.of(ref, target=target, patience=60).ask("Who?").text == "one heard Who?"
    # A run that was killed between the policy and its alarm left an endpoint that would never wake.
    aws_client(target, "cloudwatch").delete_alarms(AlarmNames=[autoscaling.alarm_name(name)])
    assert autoscaling.read(name, target=target) is None
    assert carried_out(made, target).action == "unchanged"
    assert autoscaling.read(name, target=target) == found
    broken = bench.act("targets-queue", "odd", kind="async", breaks="answer")
    assert broken.error is not None
    assert "was put back, and was verified" in broken.error
    # It went back to what was promoted, which did not scale.
    assert autoscaling.read(name, target=target) is None
    assert not aws_client(target, "cloudwatch").describe_alarms(AlarmNames=[autoscaling.alarm_name(name)])[
        "MetricAlarms"
    ]


@pytest.mark.slow
def test_callers_notice_neither_an_update_nor_failures_and_nothing_is_left(bench: Bench) -> None:
    mlkey = "targets-load"
    bench.act(mlkey, "one", kind="serverless")
    with clients(bench.target, mlkey, at_least=100) as asked:
        updated = bench.act(mlkey, "two", kind="serverless")
        broken = bench.act(mlkey, "bad", kind="serverless", breaks="load")
        wrong = bench.act(mlkey, "odd", kind="serverless", breaks="answer")
    assert (asked.failed, updated.said, broken.said, wrong.said) == (0, "updated", "failed", "failed"), asked.errors
    assert asked.versions["one"] > 0
    assert asked.versions["two"] > 0
    assert "broken on purpose" in str(broken.error)
    assert "still serves, and was verified" in str(broken.error)
    assert "gave the evaluation's answer to 0 of 3" in str(wrong.error)
    assert "was put back, and was verified" in str(wrong.error)
    assert bench.answering(mlkey) == "two"
    assert bench.orphans(mlkey) == set()
    said = bench.ask_badly(mlkey, "x" * 5_000_000)
    assert said is not None
    assert "4 MB" in said
    assert bench.answering(mlkey) == "two"


@pytest.mark.slow
@pytest.mark.parametrize(("call", "version"), [("CreateEndpointConfig", "two"), ("UpdateEndpoint", "six")])
def test_a_killed_deployment_is_finished_or_swept_by_the_next(bench: Bench, call: str, version: str) -> None:
    mlkey = f"targets-kill-{version}"
    bench.act(mlkey, "one", kind="serverless")
    with proxied(bench.target, call) as through:
        assert bench.act(mlkey, "two", kind="serverless", target=through).said == "killed"
    assert len(bench.resources(mlkey)["configs"]) == 2
    done = bench.act(mlkey, version, kind="serverless")
    assert (done.said, bench.answering(mlkey), bench.orphans(mlkey)) == ("updated", version, set())


@pytest.mark.slow
def test_a_first_deployment_that_answers_wrongly_leaves_nothing(bench: Bench) -> None:
    mlkey = "targets-first"
    done = bench.act(mlkey, "odd", kind="real-time", breaks="answer")
    assert "the first deployment" in str(done.error)
    deadline = time.monotonic() + 60
    while any(bench.resources(mlkey).values()) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert bench.resources(mlkey) == {"models": set(), "configs": set(), "endpoints": set()}
