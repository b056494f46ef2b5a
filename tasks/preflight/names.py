"""Whether names, tags and the region are such that AWS takes them: by botocore's own models, without any call."""

from collections.abc import Iterator
from typing import Any

from askline.config import PipelineConfig
from askline.records import DeployPlan
from tasks.preflight.checks import Checks, bad, good, unknown


def name_checks(config: PipelineConfig, plan: DeployPlan) -> Checks:
    """Yield whether SageMaker, S3 and CloudFormation would take every name, and are offered in the region."""
    yield from _region(config, plan)
    problems = list(_problems(config, plan))
    if problems:
        for found, remedy in problems:
            yield bad("names", found, remedy)
    else:
        yield good("names", f"{plan.endpoint_name} and the others are legal")


def _region(config: PipelineConfig, plan: DeployPlan) -> Checks:
    from botocore.exceptions import UnknownRegionError
    from botocore.session import get_session

    session = get_session()
    try:
        partition = session.get_partition_for_region(plan.region)
    except UnknownRegionError:
        yield bad("region", f"AWS has no region {plan.region}", "set region to one of AWS's, such as us-east-1")
        return
    wanted = ["sagemaker", *(("apigateway", "lambda") if config.api.enabled else ())]
    # Endpoint data lags behind new regions: a region that it knows for S3, and not for this, lacks the service.
    known = session.get_available_regions("s3", partition_name=partition)
    if plan.region not in known:
        yield unknown("region", f"not checked: botocore does not list {plan.region}")
        return
    lacking = [name for name in wanted if plan.region not in session.get_available_regions(name, partition)]
    if lacking:
        yield bad(
            "region",
            f"{plan.region} has no {' and no '.join(lacking)}",
            "set region to one that has, such as us-east-1 or eu-west-1",
        )
    else:
        yield good("region", f"{plan.region} has {', '.join(wanted)}")


def _problems(config: PipelineConfig, plan: DeployPlan) -> Iterator[tuple[str, str]]:
    """Yield what AWS would refuse, and what to do."""
    sagemaker = _model("sagemaker")
    shorter = "shorten deploy.mlkey, or use letters, digits and hyphens only"
    checked = [
        ("CreateEndpoint", "EndpointName", plan.endpoint_name, shorter),
        ("CreateEndpointConfig", "EndpointConfigName", plan.serving.config_name, shorter),
        ("CreateModel", "ModelName", plan.serving.model_name, shorter),
        (
            "CreateModel",
            "ExecutionRoleArn",
            plan.serving.role_arn,
            "set deploy.role_arn to arn:aws:iam::<account>:role/<name>",
        ),
    ]
    for operation, member, value, remedy in checked:
        shape = sagemaker.operation_model(operation).input_shape.members[member]
        if why := _refused(shape, value):
            yield f"{member} {value!r} {why}", remedy
    container = sagemaker.shape_for("ContainerDefinition").members
    for member, value, remedy in (
        ("Image", plan.serving.image, "set deploy.image to <account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>"),
        ("ModelDataUrl", plan.serving.archive_uri, "shorten package.prefix"),
    ):
        if why := _refused(container[member], value):
            yield f"{member} {value!r} {why}", remedy
    yield from _tags(plan.tags, sagemaker)
    bucket = plan.serving.archive_uri.removeprefix("s3://").partition("/")[0]
    if why := _bucket_refused(bucket):
        yield f"the bucket name {bucket!r} {why}", "set package.bucket to another name"
    if config.api.enabled:
        shape = _model("cloudformation").operation_model("CreateStack").input_shape.members["StackName"]
        if why := _refused(shape, config.api.stack_name):
            yield f"api.stack_name {config.api.stack_name!r} {why}", "letters, digits and hyphens, a letter first"


def _tags(tags: dict[str, str], sagemaker: Any) -> Iterator[tuple[str, str]]:
    members = sagemaker.shape_for("Tag").members
    for key, value in tags.items():
        why = _refused(members["Key"], key) or ("begins with aws:" if key.lower().startswith("aws:") else None)
        if why:
            yield f"the tag {key!r} {why}", "rename it in deploy.tags"
        if why := _refused(members["Value"], value):
            yield f"the value {value!r} of the tag {key!r} {why}", "change it in deploy.tags"


def _bucket_refused(name: str) -> str | None:
    from tasks.aws.bucket import legal_bucket_name

    return None if legal_bucket_name(name) else "is none that S3 takes: 3 to 63 lower-case letters, digits, dots and -"


def _model(service: str) -> Any:
    from botocore.session import get_session

    return get_session().get_service_model(service)


def _refused(shape: Any, value: str) -> str | None:
    """Say what a shape of the service model has against a text; None if nothing."""
    import regex

    limits = shape.metadata
    if len(value) > limits.get("max", len(value)):
        return f"has {len(value)} characters, and AWS takes {limits['max']}"
    if len(value) < limits.get("min", 0):
        return f"has {len(value)} characters, and AWS wants {limits['min']}"
    pattern = limits.get("pattern")
    if pattern and not regex.fullmatch(pattern, value, timeout=5):
        return f"does not match {pattern}"
    return None
