"""What serves behind an endpoint, of every kind: as one record, as SageMaker's requests, and read back from them."""

from typing import Any, Literal

from askline.config.deploy import AutoscalingConfig, BlueGreenConfig, DeployConfig, EndpointKind, scaling_min
from askline.records import Record

#: The one production variant of every endpoint.
VARIANT = "AllTraffic"


class Scaling(Record):
    """How the number of instances, or the provisioned concurrency, follows the demand."""

    by: Literal["invocations", "backlog", "utilisation"]
    """Requests a minute and instance (real-time), waiting requests an instance (async), or share of the provisioned
    concurrency in use (serverless)."""
    value: float
    """Of that, how much is aimed at."""
    min: int
    max: int
    scale_out_seconds: int
    scale_in_seconds: int


class Serving(Record):
    """A model and the endpoint configuration around it; all that it takes to make both again.

    What does not apply to the kind of endpoint is None, empty or False.
    """

    config_name: str
    model_name: str
    image: str
    archive_uri: str
    """The archive, or of a multi-model endpoint the folder of all archives, with a slash at its end."""
    environment: dict[str, str]
    role_arn: str
    target: EndpointKind = "serverless"
    memory_mb: int | None = None
    max_concurrency: int | None = None
    provisioned_concurrency: int | None = None
    instance_type: str | None = None
    instance_count: int | None = None
    volume_size_gb: int | None = None
    multi_model: bool = False
    network_isolation: bool = False
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    capture_percentage: int | None = None
    capture_to: str | None = None
    output_path: str | None = None
    failure_path: str | None = None
    success_topic: str | None = None
    error_topic: str | None = None
    max_concurrent_per_instance: int | None = None
    scaling: Scaling | None = None
    """Not part of the endpoint configuration: Application Auto Scaling keeps it."""

    @property
    def on_instances(self) -> bool:
        """Whether instances run for it all the time."""
        return self.target != "serverless"

    @property
    def may_scale(self) -> bool:
        """Whether Application Auto Scaling can have something to say to it."""
        return self.on_instances or self.provisioned_concurrency is not None

    def model_request(self) -> dict[str, Any]:
        """Return the members of CreateModel, without tags."""
        container: dict[str, Any] = {
            "Image": self.image,
            "ModelDataUrl": self.archive_uri,
            "Environment": self.environment,
        }
        if self.multi_model:
            container["Mode"] = "MultiModel"
        request: dict[str, Any] = {
            "ModelName": self.model_name,
            "PrimaryContainer": container,
            "ExecutionRoleArn": self.role_arn,
        }
        if self.network_isolation:
            request["EnableNetworkIsolation"] = True
        if self.subnets:
            request["VpcConfig"] = {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}
        return request

    def config_request(self) -> dict[str, Any]:
        """Return the members of CreateEndpointConfig, without tags."""
        variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": self.model_name}
        if self.on_instances:
            variant |= {"InstanceType": self.instance_type, "InitialInstanceCount": self.instance_count}
            if self.volume_size_gb is not None:
                variant["VolumeSizeInGB"] = self.volume_size_gb
        else:
            size = {"MemorySizeInMB": self.memory_mb, "MaxConcurrency": self.max_concurrency}
            if self.provisioned_concurrency is not None:
                size["ProvisionedConcurrency"] = self.provisioned_concurrency
            variant["ServerlessConfig"] = size
        request: dict[str, Any] = {"EndpointConfigName": self.config_name, "ProductionVariants": [variant]}
        if self.capture_percentage:
            request["DataCaptureConfig"] = {
                "EnableCapture": True,
                "InitialSamplingPercentage": self.capture_percentage,
                "DestinationS3Uri": self.capture_to,
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            }
        if self.target == "async":
            request["AsyncInferenceConfig"] = self._async_request()
        return request

    def _async_request(self) -> dict[str, Any]:
        output: dict[str, Any] = {"S3OutputPath": self.output_path, "S3FailurePath": self.failure_path}
        topics = {"SuccessTopic": self.success_topic, "ErrorTopic": self.error_topic}
        told = {name: topic for name, topic in topics.items() if topic}
        if told:
            output["NotificationConfig"] = told
        request: dict[str, Any] = {"OutputConfig": output}
        if self.max_concurrent_per_instance is not None:
            request["ClientConfig"] = {"MaxConcurrentInvocationsPerInstance": self.max_concurrent_per_instance}
        return request


def described(config: dict[str, Any], model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fields of :class:`Serving` that DescribeEndpointConfig and DescribeModel tell; None for a form that
    this pipeline does not make.
    """
    container = model.get("PrimaryContainer") or {}
    if not {"Image", "ModelDataUrl"} <= container.keys():
        return None
    variant = config["ProductionVariants"][0]
    size = variant.get("ServerlessConfig")
    capture, queue = config.get("DataCaptureConfig") or {}, config.get("AsyncInferenceConfig") or {}
    output = queue.get("OutputConfig", {})
    topics, vpc = output.get("NotificationConfig") or {}, model.get("VpcConfig") or {}
    captured = bool(capture.get("EnableCapture"))
    return {
        "config_name": config["EndpointConfigName"],
        "model_name": variant["ModelName"],
        "image": container["Image"],
        "archive_uri": container["ModelDataUrl"],
        "environment": container.get("Environment", {}),
        "role_arn": model["ExecutionRoleArn"],
        "target": "serverless" if size else "async" if queue else "real-time",
        "memory_mb": (size or {}).get("MemorySizeInMB"),
        "max_concurrency": (size or {}).get("MaxConcurrency"),
        "provisioned_concurrency": (size or {}).get("ProvisionedConcurrency"),
        "instance_type": variant.get("InstanceType"),
        "instance_count": None if size else variant.get("InitialInstanceCount"),
        "volume_size_gb": variant.get("VolumeSizeInGB"),
        "multi_model": container.get("Mode") == "MultiModel",
        "network_isolation": bool(model.get("EnableNetworkIsolation")),
        "subnets": tuple(vpc.get("Subnets", ())),
        "security_groups": tuple(vpc.get("SecurityGroupIds", ())),
        "capture_percentage": capture["InitialSamplingPercentage"] if captured else None,
        "capture_to": capture["DestinationS3Uri"] if captured else None,
        "output_path": output.get("S3OutputPath"),
        "failure_path": output.get("S3FailurePath"),
        "success_topic": topics.get("SuccessTopic"),
        "error_topic": topics.get("ErrorTopic"),
        "max_concurrent_per_instance": queue.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance"),
    }


def configured(config: DeployConfig, *, bucket: str) -> dict[str, Any]:
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


def deployment_config(config: BlueGreenConfig) -> dict[str, Any]:
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
