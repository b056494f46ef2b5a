"""What an endpoint serves with, read from SageMaker in a form that it can be made again from."""

from typing import Any

from askline.clients import aws_client
from askline.records import Target
from tasks.aws.errors import explained, is_missing
from tasks.deploy_serverless import autoscaling
from tasks.deploy_serverless.variants import Serving, described


class ServedBy(Serving):
    """The configuration behind an endpoint, and all that it takes to make it again."""


def read_served_by(endpoint: str, target: Target) -> ServedBy | None:
    """Return what an endpoint serves with now; None if there is no such endpoint, or it is not one of ours by form.

    Raises
    ------
    CloudError
        If SageMaker or Application Auto Scaling refuses.
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
        found = read_config(client, config_name)
    if found is None or not found.may_scale:
        return found
    return found.model_copy(update={"scaling": autoscaling.read_if_allowed(endpoint, target=target)})


def read_config(client: Any, config_name: str) -> ServedBy | None:
    """Return what an endpoint configuration holds, without how the endpoint scales; None if it or its model is gone,
    or it is of a form that this pipeline does not make.

    Parameters
    ----------
    client
        boto3 client of ``sagemaker``.
    """
    from botocore.exceptions import ClientError

    try:
        config = client.describe_endpoint_config(EndpointConfigName=config_name)
        if not config["ProductionVariants"][0].get("ModelName"):
            return None
        model = client.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    fields = described(config, model)
    return None if fields is None else ServedBy(**fields)
