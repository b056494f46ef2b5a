"""Plan and act: names from content, nothing done twice, an old endpoint never harmed, nothing left after a failure."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.clouds import broken_package, carried_out, deployed, names, upload
from support.tiny_package import Tiny, package, tiny  # noqa: F401

from askline.clients import aws_client
from askline.config import DeployConfig, PackageConfig
from askline.errors import ConfigError, DeployError
from askline.records import DeployPlan, PackageRef, Target, UploadRef
from tasks.aws.execution_role import ROLE_NAME, ensure_local_role
from tasks.deploy_serverless.deploy_serverless import deploy_serverless
from tasks.deploy_serverless.image import inference_image
from tasks.deploy_serverless.plan import plan_deploy, plan_for
from tasks.workplace import Workplace

AWS = Target(kind="aws", region="eu-central-1")
ROLE = "arn:aws:iam::111122223333:role/serve"
PACKAGE = PackageRef(sha256="p", archive_sha256="a" * 64, size=1, unpacked_size=1, model_sha256="m", members=())
UPLOAD = UploadRef(
    bucket="b", key="k", uri="s3://b/k/model.tar.gz", archive_sha256="a" * 64, version_id=None, reused=False
)


def plan(config: DeployConfig | None = None, package: PackageRef = PACKAGE, **change: Any) -> DeployPlan:  # noqa: F811
    arguments = {"target": AWS, "role_arn": ROLE, "archive_uri": UPLOAD.uri, **change}
    return plan_for(config or DeployConfig(), package, **arguments)


def test_the_plan_names_everything_before_anything_is_made() -> None:
    made = plan(DeployConfig(mlkey="curie", memory_mb=2048, max_concurrency=3, tags={"team": "blue"}))
    assert made.endpoint_name == "serv-hf-endpoint-curie"
    assert made.serving.model_name.startswith("askline-curie-")
    assert made.serving.config_name.startswith("askline-curie-")
    assert made.serving.model_name != made.serving.config_name
    assert (made.serving.memory_mb, made.serving.max_concurrency, made.serving.role_arn) == (2048, 3, ROLE)
    assert made.serving.environment["MMS_DEFAULT_WORKERS_PER_MODEL"] == "1"
    assert made.tags == {"askline:managed": "true", "askline:mlkey": "curie", "team": "blue"}
    assert ".dkr.ecr.eu-central-1.amazonaws.com/huggingface-pytorch-inference:" in made.serving.image


def test_the_longest_mlkey_gives_legal_names() -> None:
    made = plan(DeployConfig(mlkey="a" * 46))
    for name in (made.endpoint_name, made.serving.model_name, made.serving.config_name):
        assert len(name) <= 63
    with pytest.raises(ValidationError):
        DeployConfig(mlkey="a" * 47)


def test_the_names_change_with_what_they_describe_and_with_nothing_else() -> None:
    base = plan()
    assert plan() == base
    tagged = plan(DeployConfig(tags={"a": "b"}))
    assert (tagged.serving.model_name, tagged.serving.config_name) == (
        base.serving.model_name,
        base.serving.config_name,
    )
    larger = plan(DeployConfig(memory_mb=6144))
    assert larger.serving.model_name == base.serving.model_name
    assert larger.serving.config_name != base.serving.config_name
    for other in (
        plan(package=PACKAGE.model_copy(update={"archive_sha256": "b" * 64})),
        plan(DeployConfig(image="1.dkr.ecr.eu-central-1.amazonaws.com/own:1")),
        plan(role_arn=ROLE + "2"),
    ):
        assert other.serving.model_name != base.serving.model_name
        assert other.serving.config_name != base.serving.config_name


def test_an_image_of_ones_own_needs_no_table() -> None:
    mars = Target(kind="aws", region="mars-north-1")
    assert plan(DeployConfig(image="own:1"), target=mars).serving.image == "own:1"
    with pytest.raises(ConfigError, match="mars-north-1"):
        inference_image("mars-north-1")


def test_aws_needs_a_role_of_the_users() -> None:
    with pytest.raises(ConfigError, match=r"deploy\.role_arn"):
        plan_deploy(DeployConfig(), PackageConfig(bucket="mine"), PACKAGE, target=AWS)


def test_what_was_uploaded_elsewhere_than_planned_is_not_deployed() -> None:
    elsewhere = UPLOAD.model_copy(update={"uri": "s3://b/other/model.tar.gz"})
    with pytest.raises(DeployError, match=r"uploaded to s3://b/other/model\.tar\.gz, and the plan says s3://b/k/model"):
        deploy_serverless(DeployConfig(role_arn=ROLE), plan(), elsewhere, place=Workplace(AWS))


def ask(target: Target, endpoint: str, question: str) -> str:
    runtime = aws_client(target, "sagemaker-runtime", read_timeout=70)
    body = json.dumps({"inputs": question}).encode()
    answer = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="application/json", Body=body)
    return str(json.loads(answer["Body"].read())["answers"][0]["answer"])


def wait_for(target: Target, endpoint: str, status: str) -> None:
    client = aws_client(target, "sagemaker")
    deadline = time.monotonic() + 180
    while client.describe_endpoint(EndpointName=endpoint)["EndpointStatus"] != status:
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.slow
def test_the_life_of_an_endpoint(cloud: Target, tiny: Tiny, package: PackageRef, tmp_path: Path) -> None:  # noqa: F811
    """One endpoint through all of it, since each change costs the start of a container."""
    client = aws_client(cloud, "sagemaker")
    config = DeployConfig(mlkey="life", memory_mb=3072, tags={"team": "blue"}, wait_seconds=240)
    good = upload(tiny, package, cloud, "life")
    role = ensure_local_role(good, target=cloud, tags={})
    made = plan_for(config, package, archive_uri=good.uri, role_arn=role, target=cloud)

    # A first creation that failed earlier, by a run that was killed before it could clean up.
    broken = broken_package(tiny, package, tmp_path / "broken")
    bad = upload(tiny, broken, cloud, "life")
    failed = plan_for(config, broken, archive_uri=bad.uri, role_arn=role, target=cloud)
    with pytest.raises(DeployError, match="still Creating"):
        carried_out(failed, cloud, 0)
    wait_for(cloud, made.endpoint_name, "Failed")

    told: list[str] = []
    place = Workplace(cloud, progress=lambda share, message="": told.append(message))
    first = deploy_serverless(config, made, good, place=place)
    assert first.action == "created"
    assert (first.name, first.model_name, first.config_name) == (
        made.endpoint_name,
        made.serving.model_name,
        made.serving.config_name,
    )
    assert any("Creating" in message for message in told)
    assert ask(cloud, first.name, "Which city did she move to?") == "Paris"
    endpoint = client.describe_endpoint(EndpointName=first.name)
    assert endpoint["EndpointArn"] == first.arn
    variant = client.describe_endpoint_config(EndpointConfigName=first.config_name)["ProductionVariants"][0]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 3072, "MaxConcurrency": 5}
    model = client.describe_model(ModelName=first.model_name)
    assert model["PrimaryContainer"]["ModelDataUrl"] == good.uri
    assert model["ExecutionRoleArn"].endswith(ROLE_NAME)
    arns = (first.arn, model["ModelArn"])
    for arn in arns:
        tags = {tag["Key"]: tag["Value"] for tag in client.list_tags(ResourceArn=arn)["Tags"]}
        assert tags == {"askline:managed": "true", "askline:mlkey": "life", "team": "blue"}

    before = names(cloud, "life")
    second = deployed(config, good, package, cloud)
    assert second.action == "unchanged"
    assert second.model_copy(update={"action": "created", "seconds": first.seconds}) == first
    assert names(cloud, "life") == before
    assert client.describe_endpoint(EndpointName=first.name)["LastModifiedTime"] == endpoint["LastModifiedTime"]

    # An update whose archive is broken: the old one answers on, and the error says so.
    with pytest.raises(DeployError, match="still answers") as caught:
        deployed(config.model_copy(update={"memory_mb": 2048}), bad, broken, cloud)
    assert "broken on purpose" in str(caught.value)
    assert not caught.value.retryable
    assert ask(cloud, first.name, "Which city did she move to?") == "Paris"
    assert names(cloud, "life") == before, "what the failed update created is gone"

    # A good update: another size of the same model, the old configuration stays.
    third = deployed(config.model_copy(update={"memory_mb": 4096}), good, package, cloud)
    assert third.action == "updated"
    assert (third.arn, third.model_name) == (first.arn, first.model_name)
    assert set(names(cloud, "life")["configs"]) == {*before["configs"], third.config_name}
    assert ask(cloud, first.name, "Which element glows in the dark?") == "radium"


@pytest.mark.slow
def test_a_run_that_was_cut_off_is_finished_by_the_next(cloud: Target, tiny: Tiny, package: PackageRef) -> None:  # noqa: F811
    config = DeployConfig(mlkey="cut-off")
    sent = upload(tiny, package, cloud, "cut-off")
    role = ensure_local_role(sent, target=cloud, tags={})
    made = plan_for(config, package, archive_uri=sent.uri, role_arn=role, target=cloud)
    with pytest.raises(DeployError, match="still Creating"):
        carried_out(made, cloud, 0)
    result = deployed(config, sent, package, cloud)
    assert result.action == "unchanged"
    assert ask(cloud, result.name, "Which city did she move to?") == "Paris"


@pytest.mark.slow
def test_a_first_deployment_that_fails_leaves_nothing(
    cloud: Target,
    tiny: Tiny,  # noqa: F811
    package: PackageRef,  # noqa: F811
    tmp_path: Path,
) -> None:
    broken = broken_package(tiny, package, tmp_path)
    sent = upload(tiny, broken, cloud, "first-fails")
    with pytest.raises(DeployError, match="broken on purpose"):
        deployed(DeployConfig(mlkey="first-fails"), sent, broken, cloud)
    assert names(cloud, "first-fails") == {"models": [], "configs": [], "endpoints": []}


@pytest.mark.slow
def test_a_role_that_does_not_trust_sagemaker_is_refused(
    cloud: Target,
    tiny: Tiny,  # noqa: F811
    package: PackageRef,  # noqa: F811
) -> None:
    statement = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    role = aws_client(cloud, "iam").create_role(RoleName="for-lambda-only", AssumeRolePolicyDocument=trust)["Role"][
        "Arn"
    ]
    sent = upload(tiny, package, cloud, "no-trust")
    with pytest.raises(DeployError, match="for-lambda-only"):
        deployed(DeployConfig(mlkey="no-trust", role_arn=role), sent, package, cloud)
    assert names(cloud, "no-trust") == {"models": [], "configs": [], "endpoints": []}


@pytest.mark.slow
def test_an_archive_that_is_not_there_is_refused(cloud: Target, tiny: Tiny, package: PackageRef) -> None:  # noqa: F811
    sent = upload(tiny, package, cloud, "gone")
    aws_client(cloud, "s3").delete_object(Bucket=sent.bucket, Key=sent.key)
    with pytest.raises(DeployError, match=sent.uri):
        deployed(DeployConfig(mlkey="gone"), sent, package, cloud)
    assert names(cloud, "gone") == {"models": [], "configs": [], "endpoints": []}


@pytest.mark.slow
def test_an_endpoint_that_somebody_else_made_is_not_touched(
    cloud: Target,
    tiny: Tiny,  # noqa: F811
    package: PackageRef,  # noqa: F811
    tmp_path: Path,
) -> None:
    client = aws_client(cloud, "sagemaker")
    broken = broken_package(tiny, package, tmp_path)  # fails soon, and so costs no container
    sent = upload(tiny, broken, cloud, "theirs")
    role = ensure_local_role(sent, target=cloud, tags={})
    made = plan_for(DeployConfig(mlkey="theirs"), broken, archive_uri=sent.uri, role_arn=role, target=cloud)
    apply = made.model_copy(update={"tags": {}})
    with pytest.raises(DeployError, match="still Creating"):
        carried_out(apply, cloud, 0)
    wait_for(cloud, made.endpoint_name, "Failed")
    before = client.describe_endpoint(EndpointName=made.endpoint_name)
    with pytest.raises(DeployError, match="not made by askline"):
        deployed(DeployConfig(mlkey="theirs"), sent, package, cloud)
    after = client.describe_endpoint(EndpointName=made.endpoint_name)
    assert after["LastModifiedTime"] == before["LastModifiedTime"]
    assert len(names(cloud, "theirs")["models"]) == 1


@pytest.mark.slow
def test_the_embedded_role_trusts_sagemaker_and_reads_only_the_buckets_it_was_made_for(cloud: Target) -> None:
    one = UPLOAD.model_copy(update={"bucket": "askline-role-one"})
    two = UPLOAD.model_copy(update={"bucket": "askline-role-two"})
    arn = ensure_local_role(one, target=cloud, tags={"askline:managed": "true"})
    assert ensure_local_role(two, target=cloud, tags={}) == arn
    iam = aws_client(cloud, "iam")
    trust = iam.get_role(RoleName=ROLE_NAME)["Role"]["AssumeRolePolicyDocument"]
    assert trust["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    for bucket in ("askline-role-one", "askline-role-two"):
        policy = iam.get_role_policy(RoleName=ROLE_NAME, PolicyName=f"serve-from-{bucket}")["PolicyDocument"]
        readable = [statement["Resource"] for statement in policy["Statement"] if statement["Action"] == "s3:GetObject"]
        assert readable == [f"arn:aws:s3:::{bucket}/*"]
