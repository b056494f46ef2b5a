"""The plan of a deployment, for a person to read before anything is created.

It names what :mod:`.deploy_serverless` will create, in the size and at the price that follow from what was
measured. It writes nothing; the one call that it may make asks which account this is.
"""

from collections.abc import Mapping
from typing import Any

from askline.clients import aws_client
from askline.config import DeployConfig, PackageConfig
from askline.config.deploy import scaling_min
from askline.errors import ConfigError, DeployError
from askline.records import DeployPlan, PackageRef, Target, UploadRef
from tasks.aws.errors import explained
from tasks.aws.execution_role import ROLE_NAME
from tasks.deploy_serverless.deployment_plan import DeploymentPlan, plan_deployment
from tasks.deploy_serverless.prices import Prices, load_prices
from tasks.deploy_serverless.sizing import (
    HOURS_PER_MONTH,
    Need,
    break_even_calls,
    busy,
    cheapest_instance,
    serverless_memory,
    sized_instance,
    usd_per_call,
)
from tasks.deploy_serverless.variants import Scaling
from tasks.package.upload import archive_place


def plan_deploy(config: DeployConfig, upload: PackageConfig, package: PackageRef, *, target: Target) -> DeployPlan:
    """Say what deploying this package will create, and what it will cost.

    Raises
    ------
    DeployError
        If no serverless tier holds the package.
    ConfigError
        If the role or the image is missing from the configuration, no instance holds the package within the budget, or
        the price file is damaged.
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
    prices = load_prices(target.region)
    costs = _serverless if config.target == "serverless" else _on_instances
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
        target_model=created.target_model,
        settings=_settings(created),
        calls_per_month=config.calls_per_month,
        measured_on=None if package.measured is None else package.measured.processor,
        prices=f"{prices.region}, {prices.read}: {prices.source}",
        **costs(config, package, prices, target),
    )


def _account(target: Target) -> str:
    with explained("find out which AWS account this is (sts:GetCallerIdentity)"):
        return str(aws_client(target, "sts").get_caller_identity()["Account"])


def _settings(plan: DeploymentPlan) -> dict[str, str]:
    """Say what else is set up, beside the size."""
    said: dict[str, str] = {}
    if plan.provisioned_concurrency is not None:
        said["kept warm"] = f"containers for {plan.provisioned_concurrency} answers at once"
    if plan.scaling is not None:
        said["scaling"] = _scaling(plan.scaling)
    if plan.target == "async":
        said["answers to"] = f"{plan.output_path}, failures to {plan.failure_path}"
        told = [
            f"{what} to {topic}" for what, topic in (("answers", plan.success_topic), ("failures", plan.error_topic))
        ]
        if plan.success_topic or plan.error_topic:
            said["tells"] = ", ".join(each for each in told if not each.endswith("None"))
    if plan.capture_percentage:
        said["data capture"] = f"{plan.capture_percentage} % of the requests and answers, to {plan.capture_to}"
    if plan.volume_size_gb is not None:
        said["volume"] = f"{plan.volume_size_gb} GB for each instance"
    if plan.subnets or plan.network_isolation:
        network = f"subnets {', '.join(plan.subnets)}" if plan.subnets else ""
        said["network"] = ", ".join(filter(None, [network, "no network at all" if plan.network_isolation else ""]))
    if plan.deployment_config is not None:
        said["updates"] = _update(plan.deployment_config)
    return said


def _scaling(scaling: Scaling) -> str:
    aim = {
        "invocations": f"{scaling.value:g} requests a minute for each instance",
        "backlog": f"{scaling.value:g} waiting requests for each instance",
        "utilisation": f"{scaling.value:.0%} of what is kept warm in use",
    }[scaling.by]
    wakes = (
        "; asleep while nothing waits, awake about 2 minutes after a request, and its start" if not scaling.min else ""
    )
    return (
        f"{scaling.min} to {scaling.max}, for {aim}, {scaling.scale_out_seconds} s between steps up, "
        f"{scaling.scale_in_seconds} s down{wakes}"
    )


def _update(deployment: Mapping[str, Any]) -> str:
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    moves = {
        "ALL_AT_ONCE": "new instances beside the old, then all requests at once",
        "CANARY": "new instances beside the old, a first share of the requests, then all",
        "LINEAR": "new instances beside the old, share by share",
    }[routing["Type"]]
    alarms = [alarm["AlarmName"] for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", ())]
    return moves + (f"; back if {' or '.join(alarms)} goes off" if alarms else "")


def _serverless(config: DeployConfig, package: PackageRef, prices: Prices, target: Target) -> dict[str, Any]:
    memory = serverless_memory(config, package, region=target.region)
    per_second = prices.per_second(memory.memory_mb)
    seconds = None if package.measured is None else package.measured.answer_seconds
    per_call = None if seconds is None else usd_per_call(per_second, seconds)
    notes = list(memory.notes)
    if config.provisioned_concurrency is not None:
        notes.append("what provisioned concurrency costs by the hour is not in the price file, and not counted here")
    try:
        instance = cheapest_instance(Need(memory_mb=memory.needed_mb or memory.memory_mb), prices.instances)
    except ConfigError as error:
        instance = None
        notes.append(str(error))
    if seconds is not None:
        notes.append(
            "seconds are of the machine that built the package; what processor a serverless endpoint has is not "
            "published, and vCPUs come in proportion to memory, so a small tier answers more slowly"
        )
    even = None if instance is None or not per_call else break_even_calls(instance.usd_per_hour, per_call)
    return {
        "memory_chosen": memory.chosen,
        "measured_mb": memory.measured_mb,
        "container_mb": memory.container_mb,
        "headroom": memory.headroom,
        "needed_mb": memory.needed_mb,
        "answer_seconds": seconds,
        "usd_per_second": per_second,
        "usd_per_1000_calls": None if per_call is None else 1000 * per_call,
        "usd_per_month": None if per_call is None else config.calls_per_month * per_call,
        "instance": None if instance is None else instance.name,
        "instance_usd_per_hour": None if instance is None else instance.usd_per_hour,
        "instance_usd_per_month": None if instance is None else instance.usd_per_hour * HOURS_PER_MONTH,
        "break_even_calls": even,
        "break_even_busy": None if even is None or seconds is None else busy(even, seconds),
        "notes": (*notes, *_common_notes(seconds, prices, target)),
    }


def _on_instances(config: DeployConfig, package: PackageRef, prices: Prices, target: Target) -> dict[str, Any]:
    choice = sized_instance(config, package, region=target.region)
    seconds = None if package.measured is None else package.measured.answer_seconds
    notes = list(choice.notes)
    if choice.chosen == "not measured":
        notes.append("the memory of the package was not measured; package it anew for the instance that fits")
    if (choice.instance is not None and choice.instance.gpus) or config.gpu:
        notes.append(
            "the archive's engine computes on the processor: with this package a GPU brings nothing, and is paid for"
        )
    if config.target == "real-time" and config.instance_count == 1:
        notes.append("one instance: while SageMaker mends it nothing answers; deploy.instance_count 2 spreads the risk")
    hourly = None if choice.instance is None else choice.instance.usd_per_hour
    total = None if hourly is None else hourly * config.instance_count
    month = None if total is None else total * HOURS_PER_MONTH
    most = config.autoscaling.max
    even = None
    if hourly is not None and seconds is not None:
        even = _serverless_instead(config, package, hourly, seconds, prices, target)
    if total is not None and config.target == "async" and most is not None and not scaling_min(config):
        notes.append("asleep, the endpoint costs nothing: a month's price is that of an instance that is always awake")
    return {
        "memory_chosen": choice.chosen,
        "measured_mb": choice.measured_mb,
        "container_mb": choice.worker_mb + choice.shared_mb,
        "headroom": choice.headroom,
        "needed_mb": choice.need.total_mb,
        "answer_seconds": seconds,
        "usd_per_second": None,
        "usd_per_1000_calls": None if month is None else 1000 * month / config.calls_per_month,
        "usd_per_month": month,
        "instance": choice.instance_type,
        "instance_count": config.instance_count,
        "workers": config.workers,
        "instance_usd_per_hour": hourly,
        "instance_usd_per_month": None if hourly is None else hourly * HOURS_PER_MONTH,
        "usd_per_hour": total,
        "usd_per_hour_most": None if hourly is None or most is None else hourly * most,
        "break_even_calls": even,
        "break_even_busy": None if even is None or seconds is None else busy(even, seconds),
        "notes": (*notes, *_common_notes(seconds, prices, target)),
    }


def _serverless_instead(
    config: DeployConfig, package: PackageRef, hourly: float, seconds: float, prices: Prices, target: Target
) -> float | None:
    """Return the calls a month below which a serverless endpoint would be cheaper; None where none holds the model."""
    like = DeployConfig(image=config.image, memory_headroom=config.memory_headroom)
    try:
        tier = serverless_memory(like, package, region=target.region).memory_mb
    except DeployError:
        return None
    per_call = usd_per_call(prices.per_second(tier), seconds)
    return break_even_calls(hourly * config.instance_count, per_call) if per_call else None


def _common_notes(seconds: float | None, prices: Prices, target: Target) -> list[str]:
    notes = []
    if target.kind == "local":
        notes.append("the embedded cloud costs nothing: these are AWS's prices for the same endpoint")
    if seconds is None:
        notes.append("what a call costs is not known: how long an answer takes was not measured")
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
    return notes
