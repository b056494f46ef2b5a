"""What is ours on AWS: the tags that say so, and the names that follow from an MLKey."""

from collections.abc import Mapping
from typing import Any

from tasks.aws.errors import or_none

#: Tags of everything that the pipeline makes; what does not carry them is never changed or deleted.
MANAGED = {"askline:managed": "true"}
#: The one production variant of every endpoint.
VARIANT = "AllTraffic"
_ENDPOINT = "serv-hf-endpoint-"


def endpoint_of(named: str) -> str:
    """Return the name of the endpoint of an MLKey, or of several models together (``deploy.multi_model``)."""
    return _ENDPOINT + named


def named_by(endpoint: str) -> str:
    """Return the MLKey, or the name of several models together, that an endpoint is named by."""
    return endpoint.removeprefix(_ENDPOINT)


def is_ours(tags: Mapping[str, str]) -> bool:
    """Say whether tags are those of something that the pipeline made."""
    return MANAGED.items() <= tags.items()


def tags_of(sagemaker: Any, arn: str) -> dict[str, str]:
    """Return the tags of a SageMaker resource; empty where it is gone.

    Parameters
    ----------
    sagemaker
        boto3 client of ``sagemaker``.

    Raises
    ------
    ClientError
        If SageMaker refuses.
    """
    found = or_none(sagemaker.list_tags, ResourceArn=arn, MaxResults=100) or {"Tags": []}
    return {tag["Key"]: tag["Value"] for tag in found["Tags"]}
