"""The plan of a deployment: what a person is shown before anything is created, and what is then carried out.

It names model, configuration and endpoint, in the size and at the price that follow from what was measured. The names
of model and configuration come from what they describe, so that deploying twice changes nothing and a run that was cut
off is finished by the next one. Nothing is written; the one call that may be made asks which account this is.

::

    plan = plan_deploy(config.deploy, config.package, package, target=target)
    plan.serving.memory_mb, plan.costs.usd_per_1000_calls
"""

import hashlib
import json
from typing import Any, Literal

from askline.clients import aws_client
from askline.config import DeployConfig, PackageConfig
from askline.config.deploy import AutoscalingConfig, BlueGreenConfig, scaling_min
from askline.errors import ConfigError
from askline.records import DeployPlan, PackageRef, Scaling, Serving, Target
from tasks.aws.errors import explained
from tasks.aws.execution_role import ROLE_NAME
from tasks.aws.names import MANAGED, endpoint_of
from tasks.deploy_serverless.costs import priced_instances, priced_serverless
from tasks.deploy_serverless.image import inference_image
from tasks.deploy_serverless.prices import load_prices
from tasks.deploy_serverless.sizing import serverless_memory, sized_instance
from tasks.package.upload import archive_place

#: Fields of what serves that belong to the model and not to the endpoint configuration.
_OF_THE_MODEL = ("multi_model", "network_isolation", "subnets", "security_groups")


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
    return plan_for(config, package, archive_uri=f"s3://{bucket}/{key}", role_arn=role, target=target)


def plan_for(
    config: DeployConfig, package: PackageRef, *, archive_uri: str, role_arn: str, target: Target
) -> DeployPlan:
    """Return the plan of an archive whose place is known. No call leaves the machine.

    Parameters
    ----------
    role_arn
        The execution role; ``config.role_arn`` or, on the embedded cloud, the one created there.

    Raises
    ------
    ConfigError
        If no image is named and none is known for the region, or no instance holds the package within the budget.
    DeployError
        If no tier of serverless memory holds the package.
    """
    region, prices = target.region, load_prices(target.region)
    fields = _configured(config, bucket=archive_uri.removeprefix("s3://").partition("/")[0])
    if config.target == "serverless":
        memory = serverless_memory(config, package, region=region)
        fields["memory_mb"] = memory.memory_mb
        size, costs, notes = priced_serverless(config, package, memory, prices)
        image = config.image or inference_image(region)
    else:
        instance = sized_instance(config, package, region=region)
        fields["instance_type"] = instance.instance_type
        size, costs, notes = priced_instances(config, package, instance, prices)
        image = config.image or inference_image(region, instance.instance_type)
    environment = _environment(config.workers)
    target_model = None
    if config.multi_model is not None:
        archive_uri, target_model = _below_the_folder(archive_uri, config.mlkey)
    named = config.multi_model or config.mlkey
    model: dict[str, Any] = {"uri": archive_uri, "image": image, "environment": environment, "role": role_arn}
    if not config.multi_model:
        model["archive"] = package.archive_sha256
    model |= {name: fields[name] for name in _OF_THE_MODEL if fields.get(name)}
    serving = Serving(
        model_name=_name(named, model),
        config_name=_name(named, {**model, **_size(fields)}),
        image=image,
        archive_uri=archive_uri,
        environment=environment,
        role_arn=role_arn,
        **fields,
    )
    if target.kind == "local":
        notes = (*notes, "the embedded cloud costs nothing: these are AWS's prices for the same endpoint")
    if prices.region != region:
        notes = (
            *notes,
            f"these are prices of {prices.region}: for those of {region} run "
            f"`python -m deployments.prices --region {region}`",
        )
    return DeployPlan(
        mlkey=config.mlkey,
        endpoint_name=endpoint_of(named),
        target_model=target_model,
        tags={**MANAGED, "askline:mlkey": named, **config.tags},
        update=None if config.target == "serverless" else _update(config.blue_green),
        region=region,
        serving=serving,
        size=size,
        costs=costs,
        notes=notes,
    )


def _account(target: Target) -> str:
    with explained("find out which AWS account this is (sts:GetCallerIdentity)"):
        return str(aws_client(target, "sts").get_caller_identity()["Account"])


def _environment(workers: int) -> dict[str, str]:
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        # Else one worker a vCPU loads the model, and a large one runs out of memory.
        "MMS_DEFAULT_WORKERS_PER_MODEL": str(workers),
        # The archive holds all that is needed, and only /tmp can be written to.
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": "/tmp/huggingface",  # noqa: S108 - a folder in the container
        "TOKENIZERS_PARALLELISM": "false",
    }
    return environment if workers == 1 else {**environment, "ASKLINE_WORKERS": str(workers)}  # of the lean image


def _below_the_folder(archive_uri: str, mlkey: str) -> tuple[str, str]:
    """Return the folder of all archives, and this one's key below it: <MLKey>/<sha256>/model.tar.gz."""
    folder, found, below = archive_uri.rpartition(f"/{mlkey}/")
    if not found:
        raise ConfigError(f"the archive {archive_uri} does not lie in a folder of its MLKey {mlkey}; upload it anew")
    return f"{folder}/", f"{mlkey}/{below}"


def _size(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what tells two configurations of one model apart; scaling is no part of them."""
    if fields["target"] == "serverless":
        size = {"memory": fields["memory_mb"], "concurrency": fields["max_concurrency"]}
        provisioned = fields["provisioned_concurrency"]
        return size if provisioned is None else {**size, "provisioned": provisioned}
    return {name: value for name, value in fields.items() if name not in ("scaling", *_OF_THE_MODEL)}


def _name(mlkey: str, content: dict[str, Any]) -> str:
    """Return a name of at most 63 characters (8 + 46 + 1 + 8) that changes with the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"askline-{mlkey}-{digest[:8]}"


def _configured(config: DeployConfig, *, bucket: str) -> dict[str, Any]:
    """Return the fields of :class:`Serving` that the configuration gives, sizes apart.

    Parameters
    ----------
    bucket
        Where answers and captured data go unless the configuration says otherwise.
    """
    fields: dict[str, Any] = {"target": config.target, "scaling": _scaling(config, config.autoscaling)}
    if config.target == "serverless":
        return fields | {
            "max_concurrency": config.max_concurrency,
            "provisioned_concurrency": config.provisioned_concurrency,
        }
    fields |= {
        "instance_count": config.instance_count,
        "volume_size_gb": config.volume_size_gb,
        "multi_model": config.multi_model is not None,
        "network_isolation": config.network_isolation,
        "subnets": config.vpc.subnets,
        "security_groups": config.vpc.security_groups,
    }
    if config.data_capture.percentage:
        fields |= {
            "capture_percentage": config.data_capture.percentage,
            "capture_to": config.data_capture.destination or f"s3://{bucket}/data-capture/{config.mlkey}",
        }
    if config.target == "async":
        queue = config.asynchronous
        fields |= {
            "output_path": queue.output_path or f"s3://{bucket}/async/{config.mlkey}/output",
            "failure_path": queue.failure_path or f"s3://{bucket}/async/{config.mlkey}/failure",
            "success_topic": queue.success_topic,
            "error_topic": queue.error_topic,
            "max_concurrent_per_instance": queue.max_concurrent_per_instance or config.workers,
        }
    return fields


def _scaling(config: DeployConfig, scaling: AutoscalingConfig) -> Scaling | None:
    if scaling.max is None:
        return None
    by: Literal["invocations", "backlog", "utilisation"]
    match config.target:
        case "serverless":
            by, value = "utilisation", scaling.utilisation
        case "async":
            by, value = "backlog", scaling.backlog_per_instance
        case _:
            by, value = "invocations", scaling.invocations_per_instance
    return Scaling(
        by=by,
        value=value,
        min=scaling_min(config),
        max=scaling.max,
        scale_out_seconds=scaling.scale_out_seconds,
        scale_in_seconds=scaling.scale_in_seconds,
    )


def _update(config: BlueGreenConfig) -> dict[str, Any]:
    """Return UpdateEndpoint's DeploymentConfig: a blue/green update, with the alarms that turn it back."""
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": config.step_seconds}
    share = {"Type": "CAPACITY_PERCENT", "Value": config.step_percent}
    if config.traffic == "canary":
        routing |= {"Type": "CANARY", "CanarySize": share}
    elif config.traffic == "linear":
        routing |= {"Type": "LINEAR", "LinearStepSize": share}
    elif not config.alarms:
        routing["WaitIntervalInSeconds"] = 0  # nothing is watched
    request: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": config.keep_old_seconds,
        }
    }
    if config.alarms:
        request["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in config.alarms]}
    return request
