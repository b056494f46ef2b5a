"""Deleting what earlier deployments of an MLKey left behind: models and configurations that nothing refers to.

A run that was killed between two calls leaves what the next run, with another package, does not need. The names say
whose they are, the tags that they are ours, and the endpoint and the registry what is still wanted.
"""

import re
from collections.abc import Iterable
from typing import Any

from askline.clients import aws_client
from askline.errors import DeployError
from askline.records import Target
from tasks.aws.errors import explained, is_missing
from tasks.deploy_serverless.deployment_plan import MANAGED
from tasks.deploy_serverless.endpoint_act import describe
from tasks.deploy_serverless.registry import RegistryEntry


def sweep(named: str, promotions: Iterable[RegistryEntry], *, target: Target) -> tuple[str, ...]:
    """Delete models and endpoint configurations that no endpoint and no version of the registry needs; return them.

    Only one deployment of the MLKey may be under way, the caller's own.

    Parameters
    ----------
    named
        The MLKey, or the name of an endpoint with several models.
    promotions
        Of every MLKey that the endpoint answers for; what they were served with stays.

    Raises
    ------
    DeployError
        If SageMaker refuses.
    """
    client = aws_client(target, "sagemaker")
    promotions = tuple(promotions)
    endpoint = describe(client.describe_endpoint, EndpointName=f"serv-hf-endpoint-{named}") or {}
    pending = endpoint.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
    wanted_configs = set(filter(None, [endpoint.get("EndpointConfigName"), pending]))
    wanted_models: set[str] = set()
    # Older entries do not say what they were served with: whatever serves their archive stays.
    folders = []
    for entry in promotions:
        if entry.served_by is None:
            folders.append(f"/{entry.mlkey}/{entry.archive_sha256[:12]}/")
        else:
            wanted_configs.add(entry.served_by.config_name)
            wanted_models.add(entry.served_by.model_name)
    models = {
        name: (describe(client.describe_model, ModelName=name) or {})
        for name in _names(client, "list_models", "Models", "ModelName", named)
    }
    for name, model in models.items():
        uri = (model.get("PrimaryContainer") or {}).get("ModelDataUrl", "")
        if any(folder in uri for folder in folders):
            wanted_models.add(name)
    swept = []
    for name in _names(client, "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", named):
        config = describe(client.describe_endpoint_config, EndpointConfigName=name)
        if config is None:
            continue
        used = {variant.get("ModelName") for variant in config["ProductionVariants"]}
        serves_an_old_entry = any(
            folder in (models.get(model or "", {}).get("PrimaryContainer") or {}).get("ModelDataUrl", "")
            for model in used
            for folder in folders
        )
        if name in wanted_configs or serves_an_old_entry or not _is_ours(client, config["EndpointConfigArn"]):
            wanted_models |= set(filter(None, used))
            continue
        _delete(client.delete_endpoint_config, EndpointConfigName=name)
        swept.append(f"endpoint configuration {name}")
    for name, model in models.items():
        if name not in wanted_models and model and _is_ours(client, model["ModelArn"]):
            _delete(client.delete_model, ModelName=name)
            swept.append(f"model {name}")
    return tuple(swept)


def _names(client: Any, operation: str, member: str, name: str, named: str) -> list[str]:
    pattern = re.compile(rf"askline-{re.escape(named)}-[0-9a-f]{{8}}")
    with explained(f"list what belongs to {named} (sagemaker:List*)", error_type=DeployError):
        pages = client.get_paginator(operation).paginate(NameContains=f"askline-{named}-")
        found = [each[name] for page in pages for each in page[member]]
    return [each for each in found if pattern.fullmatch(each)]


def _is_ours(client: Any, arn: str) -> bool:
    from botocore.exceptions import ClientError

    with explained(f"read the tags of {arn}", error_type=DeployError):
        try:
            tags = {tag["Key"]: tag["Value"] for tag in client.list_tags(ResourceArn=arn, MaxResults=100)["Tags"]}
        except ClientError as error:
            if is_missing(error):
                return False
            raise
    return MANAGED.items() <= tags.items()


def _delete(call: Any, **name: str) -> None:
    from botocore.exceptions import ClientError

    with explained(f"delete {next(iter(name.values()))}", error_type=DeployError):
        try:
            call(**name)
        except ClientError as error:
            if not is_missing(error):
                raise
