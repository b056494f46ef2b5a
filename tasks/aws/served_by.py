"""What an endpoint serves with, read from SageMaker in a form that it can be made again from."""

from typing import Any

from askline.clients import aws_client
from askline.records import Record, Target
from tasks.aws.errors import explained, is_missing


class ServedBy(Record):
    """The serverless configuration behind an endpoint, and all that it takes to make it again."""

    config_name: str
    model_name: str
    image: str
    archive_uri: str
    environment: dict[str, str]
    role_arn: str
    memory_mb: int
    max_concurrency: int


def read_served_by(endpoint: str, target: Target) -> ServedBy | None:
    """Return what an endpoint serves with now; None if there is no such endpoint, or it is not serverless.

    Raises
    ------
    CloudError
        If SageMaker refuses.
    """
    from botocore.exceptions import ClientError

    client = aws_client(target, "sagemaker")
    with explained(f"look up what the endpoint {endpoint} serves with"):
        try:
            config_name = client.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return read_config(client, config_name)


def read_config(client: Any, config_name: str) -> ServedBy | None:
    """Return what an endpoint configuration holds; None if it or its model is gone, or it is not one of ours by kind.

    Parameters
    ----------
    client
        boto3 client of ``sagemaker``.
    """
    from botocore.exceptions import ClientError

    try:
        variant = client.describe_endpoint_config(EndpointConfigName=config_name)["ProductionVariants"][0]
        if "ServerlessConfig" not in variant:
            return None
        model = client.describe_model(ModelName=variant["ModelName"])
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    container = model.get("PrimaryContainer") or {}
    if not {"Image", "ModelDataUrl"} <= container.keys():
        return None
    return ServedBy(
        config_name=config_name,
        model_name=variant["ModelName"],
        image=container["Image"],
        archive_uri=container["ModelDataUrl"],
        environment=container.get("Environment", {}),
        role_arn=model["ExecutionRoleArn"],
        memory_mb=variant["ServerlessConfig"]["MemorySizeInMB"],
        max_concurrency=variant["ServerlessConfig"]["MaxConcurrency"],
    )
