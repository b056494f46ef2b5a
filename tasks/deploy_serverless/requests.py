"""What serves, as SageMaker's requests, and read back from SageMaker's answers."""

from typing import Any

from askline.clients import aws_client
from askline.records import Serving, Target
from tasks.aws.errors import explained, or_none
from tasks.aws.names import VARIANT
from tasks.deploy_serverless import autoscaling


def model_request(serving: Serving) -> dict[str, Any]:
    """Return the members of CreateModel, without tags."""
    container: dict[str, Any] = {
        "Image": serving.image,
        "ModelDataUrl": serving.archive_uri,
        "Environment": serving.environment,
    }
    if serving.multi_model:
        container["Mode"] = "MultiModel"
    request: dict[str, Any] = {
        "ModelName": serving.model_name,
        "PrimaryContainer": container,
        "ExecutionRoleArn": serving.role_arn,
    }
    if serving.network_isolation:
        request["EnableNetworkIsolation"] = True
    if serving.subnets:
        request["VpcConfig"] = {"Subnets": list(serving.subnets), "SecurityGroupIds": list(serving.security_groups)}
    return request


def config_request(serving: Serving) -> dict[str, Any]:
    """Return the members of CreateEndpointConfig, without tags."""
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": serving.model_name}
    if serving.on_instances:
        variant |= {"InstanceType": serving.instance_type, "InitialInstanceCount": serving.instance_count}
        if serving.volume_size_gb is not None:
            variant["VolumeSizeInGB"] = serving.volume_size_gb
    else:
        size = {"MemorySizeInMB": serving.memory_mb, "MaxConcurrency": serving.max_concurrency}
        if serving.provisioned_concurrency is not None:
            size["ProvisionedConcurrency"] = serving.provisioned_concurrency
        variant["ServerlessConfig"] = size
    request: dict[str, Any] = {"EndpointConfigName": serving.config_name, "ProductionVariants": [variant]}
    if serving.capture_percentage:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": serving.capture_percentage,
            "DestinationS3Uri": serving.capture_to,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        }
    if serving.target == "async":
        request["AsyncInferenceConfig"] = _async_request(serving)
    return request


def _async_request(serving: Serving) -> dict[str, Any]:
    output: dict[str, Any] = {"S3OutputPath": serving.output_path, "S3FailurePath": serving.failure_path}
    topics = {"SuccessTopic": serving.success_topic, "ErrorTopic": serving.error_topic}
    told = {name: topic for name, topic in topics.items() if topic}
    if told:
        output["NotificationConfig"] = told
    request: dict[str, Any] = {"OutputConfig": output}
    if serving.max_concurrent_per_instance is not None:
        request["ClientConfig"] = {"MaxConcurrentInvocationsPerInstance": serving.max_concurrent_per_instance}
    return request


def described(config: dict[str, Any], model: dict[str, Any]) -> Serving | None:
    """Return what DescribeEndpointConfig and DescribeModel tell; None for a form that this pipeline does not make."""
    container = model.get("PrimaryContainer") or {}
    if not {"Image", "ModelDataUrl"} <= container.keys():
        return None
    variant = config["ProductionVariants"][0]
    size = variant.get("ServerlessConfig")
    capture, queue = config.get("DataCaptureConfig") or {}, config.get("AsyncInferenceConfig") or {}
    output = queue.get("OutputConfig", {})
    topics, vpc = output.get("NotificationConfig") or {}, model.get("VpcConfig") or {}
    captured = bool(capture.get("EnableCapture"))
    return Serving(
        config_name=config["EndpointConfigName"],
        model_name=variant["ModelName"],
        image=container["Image"],
        archive_uri=container["ModelDataUrl"],
        environment=container.get("Environment", {}),
        role_arn=model["ExecutionRoleArn"],
        target="serverless" if size else "async" if queue else "real-time",
        memory_mb=(size or {}).get("MemorySizeInMB"),
        max_concurrency=(size or {}).get("MaxConcurrency"),
        provisioned_concurrency=(size or {}).get("ProvisionedConcurrency"),
        instance_type=variant.get("InstanceType"),
        instance_count=None if size else variant.get("InitialInstanceCount"),
        volume_size_gb=variant.get("VolumeSizeInGB"),
        multi_model=container.get("Mode") == "MultiModel",
        network_isolation=bool(model.get("EnableNetworkIsolation")),
        subnets=tuple(vpc.get("Subnets", ())),
        security_groups=tuple(vpc.get("SecurityGroupIds", ())),
        capture_percentage=capture["InitialSamplingPercentage"] if captured else None,
        capture_to=capture["DestinationS3Uri"] if captured else None,
        output_path=output.get("S3OutputPath"),
        failure_path=output.get("S3FailurePath"),
        success_topic=topics.get("SuccessTopic"),
        error_topic=topics.get("ErrorTopic"),
        max_concurrent_per_instance=queue.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance"),
    )


def read_serving(endpoint: str, target: Target) -> Serving | None:
    """Return what an endpoint serves with now; None if there is no such endpoint, or it is not one of ours by form.

    Raises
    ------
    CloudError
        If SageMaker or Application Auto Scaling refuses.
    """
    client = aws_client(target, "sagemaker")
    with explained(f"look up what the endpoint {endpoint} serves with"):
        described_endpoint = or_none(client.describe_endpoint, EndpointName=endpoint)
        serving = None if described_endpoint is None else read_config(client, described_endpoint["EndpointConfigName"])
    if serving is None or not serving.may_scale:
        return serving
    return serving.model_copy(update={"scaling": autoscaling.read_if_allowed(endpoint, target=target)})


def read_config(sagemaker: Any, config_name: str) -> Serving | None:
    """Return what an endpoint configuration holds, without how the endpoint scales; None if it or its model is gone,
    or it is of a form that this pipeline does not make.

    Parameters
    ----------
    sagemaker
        boto3 client of ``sagemaker``.
    """
    config = or_none(sagemaker.describe_endpoint_config, EndpointConfigName=config_name)
    name = None if config is None else config["ProductionVariants"][0].get("ModelName")
    model = None if name is None else or_none(sagemaker.describe_model, ModelName=name)
    return None if config is None or model is None else described(config, model)
