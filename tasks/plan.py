"""The plan of a deployment, for a person to read before anything is created.

It names what :mod:`tasks.deploy_serverless` will create, in the size and at the price that follow from what was
measured. It writes nothing; the one call that it may make asks which account this is.
"""

from typing import Any

from askline.clients import aws_client
from askline.config import DeployConfig, PackageConfig
from askline.errors import ConfigError
from askline.records import DeployPlan, PackageRef, Target, UploadRef
from tasks.aws.deployment_plan import plan_deployment
from tasks.aws.errors import explained
from tasks.aws.execution_role import ROLE_NAME
from tasks.aws.prices import Prices, load_prices
from tasks.aws.sizing import (
    HOURS_PER_MONTH,
    MemoryChoice,
    Need,
    break_even_calls,
    busy,
    cheapest_instance,
    serverless_memory,
    usd_per_call,
)
from tasks.upload import archive_place


def plan_deploy(config: DeployConfig, upload: PackageConfig, package: PackageRef, *, target: Target) -> DeployPlan:
    """Say what deploying this package will create, and what it will cost.

    Raises
    ------
    DeployError
        If no serverless tier holds the package.
    ConfigError
        If the role or the image is missing from the configuration, or the price file is damaged.
    CloudError
        If the account has to be asked for, and AWS refuses.
    """
    if config.role_arn is None and target.kind == "aws":
        raise ConfigError("deploy.role_arn is needed on AWS: the IAM role that SageMaker takes on to read the archive")
    account = "" if upload.bucket and config.role_arn else _account(target)
    role = config.role_arn or f"arn:aws:iam::{account}:role/{ROLE_NAME}"
    bucket, key = archive_place(upload, package, mlkey=config.mlkey, account=account, region=target.region)
    place = UploadRef(
        bucket=bucket,
        key=key,
        uri=f"s3://{bucket}/{key}",
        archive_sha256=package.archive_sha256,
        version_id=None,
        reused=False,
    )
    created = plan_deployment(config, place, package, target=target, role_arn=role)
    memory = serverless_memory(config, package, region=target.region)
    return DeployPlan(
        mlkey=config.mlkey,
        target=config.target,
        region=target.region,
        endpoint_name=created.endpoint_name,
        model_name=created.model_name,
        config_name=created.config_name,
        image=created.image,
        archive_uri=created.archive_uri,
        role_arn=created.role_arn,
        tags=created.tags,
        max_concurrency=created.max_concurrency,
        memory_mb=created.memory_mb,
        memory_chosen=memory.chosen,
        measured_mb=memory.measured_mb,
        container_mb=memory.container_mb,
        headroom=memory.headroom,
        needed_mb=memory.needed_mb,
        **_costs(config, package, memory, load_prices(target.region), target),
    )


def _account(target: Target) -> str:
    with explained("find out which AWS account this is (sts:GetCallerIdentity)"):
        return str(aws_client(target, "sts").get_caller_identity()["Account"])


def _costs(
    config: DeployConfig, package: PackageRef, memory: MemoryChoice, prices: Prices, target: Target
) -> dict[str, Any]:
    per_second = prices.per_second(memory.memory_mb)
    seconds = None if package.measured is None else package.measured.answer_seconds
    per_call = None if seconds is None else usd_per_call(per_second, seconds)
    notes = list(memory.notes)
    if target.kind == "local":
        notes.append("the embedded cloud costs nothing: these are AWS's prices for the same endpoint")
    try:
        instance = cheapest_instance(Need(memory_mb=memory.needed_mb or memory.memory_mb), prices.instances)
    except ConfigError as error:
        instance = None
        notes.append(str(error))
    if seconds is None:
        notes.append("what a call costs is not known: how long an answer takes was not measured")
    else:
        notes.append(
            "seconds are of the machine that built the package; what processor a serverless endpoint has is not "
            "published, and vCPUs come in proportion to memory, so a small tier answers more slowly"
        )
    if prices.data_usd_per_gb is not None:
        notes.append(
            f"not counted: data in and out ({prices.data_usd_per_gb:g} dollars a GB), cold starts, and the "
            "milliseconds that the container's server itself takes for a call"
        )
    if prices.region != target.region:
        notes.append(
            f"these are prices of {prices.region}: for those of {target.region} run "
            f"`python -m deployments.prices --region {target.region}`"
        )
    even = None if instance is None or not per_call else break_even_calls(instance.usd_per_hour, per_call)
    return {
        "answer_seconds": seconds,
        "measured_on": None if package.measured is None else package.measured.processor,
        "usd_per_second": per_second,
        "usd_per_1000_calls": None if per_call is None else 1000 * per_call,
        "calls_per_month": config.calls_per_month,
        "usd_per_month": None if per_call is None else config.calls_per_month * per_call,
        "instance": None if instance is None else instance.name,
        "instance_usd_per_hour": None if instance is None else instance.usd_per_hour,
        "instance_usd_per_month": None if instance is None else instance.usd_per_hour * HOURS_PER_MONTH,
        "break_even_calls": even,
        "break_even_busy": None if even is None or seconds is None else busy(even, seconds),
        "prices": f"{prices.region}, {prices.read}: {prices.source}",
        "notes": tuple(notes),
    }
