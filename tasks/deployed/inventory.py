"""What the pipeline has made on a target.

::

    target = running_target(config)
    inventory = take_inventory(config, target=target)
    inventory.of("endpoint")

Ours is what carries the tag ``askline:managed=true``. What only looks like it, by its name or because something of
ours refers to it, is listed too, so that a person sees what was left alone.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from askline.clients import aws_client
from askline.config import PipelineConfig
from askline.config.deploy import EndpointKind
from askline.errors import CloudError, LocalCloudError
from askline.progress import Progress, quiet
from askline.records import Record, Target
from tasks.aws.errors import explained, or_none
from tasks.aws.names import endpoint_of, is_ours, named_by, tags_of
from tasks.deploy_serverless import autoscaling, registry
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.package.package import ARCHIVE

Kind = Literal["scaling", "endpoint", "endpoint configuration", "model", "registry entry", "archive"]

_PART = "askline-"
_NAME = re.compile(r"(?:askline-(?P<part>.+)-[0-9a-f]{8}|serv-hf-endpoint-(?P<endpoint>.+))")
_ARCHIVE_KEY = re.compile(rf"(?P<prefix>.*?)/?(?P<mlkey>[^/]+)/[0-9a-f]{{12}}/{re.escape(ARCHIVE)}")
_STATUS_SECONDS = 60


class Resource(Record):
    """One thing on the target."""

    kind: Kind
    name: str
    """As its service calls it; an archive's is its S3 address."""
    mlkey: str | None
    managed: bool
    """Whether it carries the pipeline's tags."""
    changed: datetime | None = None
    """When it was made, an endpoint when it was changed last."""
    status: str | None = None
    """An endpoint's status."""
    reason: str | None = None
    """Why an endpoint failed, in SageMaker's words."""
    uses: tuple[str, ...] = ()
    """Names of what it refers to: an endpoint's configurations (the active one first), a configuration's models, a
    model's archive or folder of archives, a registry entry's endpoint, the endpoint that scales."""
    memory_mb: int | None = None
    max_concurrency: int | None = None
    """Of a serverless configuration."""
    target: EndpointKind | None = None
    """Of a configuration, the kind of endpoint that it makes."""
    instance_type: str | None = None
    instance_count: int | None = None
    """Of a configuration on instances, how many there are to begin with; of an endpoint, how many there are."""
    provisioned_concurrency: int | None = None
    size: int | None = None
    """Bytes of an archive."""

    def __str__(self) -> str:
        """Return what a person reads."""
        return f"{self.kind} {self.name}"


class Inventory(Record):
    """What was found on a target."""

    region: str
    resources: tuple[Resource, ...]
    history: dict[str, tuple[RegistryEntry, ...]]
    """Promotions by registered MLKey, the newest first."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, and why."""

    def of(self, kind: Kind) -> dict[str, Resource]:
        """Return the resources of one kind by name."""
        return {resource.name: resource for resource in self.resources if resource.kind == kind}

    @property
    def mlkeys(self) -> tuple[str, ...]:
        """MLKeys that are registered or have an endpoint of ours."""
        deployed = {found.mlkey for found in self.resources if found.kind == "endpoint" and found.managed}
        return tuple(sorted({*self.history, *filter(None, deployed)}))


def running_target(config: PipelineConfig) -> Target:
    """Return the target of a command that looks after what is deployed; it starts nothing.

    Raises
    ------
    LocalCloudError
        If the target is the embedded cloud and it is not up, or not well.
    """
    if config.target == "aws":
        return Target(kind="aws", region=config.region)
    folder = str(config.state_dir)
    start = "python -m local_cloud up" + ("" if folder == ".askline" else f" --state-dir {folder}")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "local_cloud", "status", "--json", "--state-dir", folder]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_STATUS_SECONDS, env=environment, check=False
        )
        status = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise LocalCloudError(
            f"cannot tell whether the embedded cloud in {folder} is up ({error}); see: python -m local_cloud status"
        ) from error
    if not status["running"]:
        raise LocalCloudError(
            f"the embedded cloud in {folder} is not running, so nothing answers there; start it with: {start}"
        )
    needed = {name: status["parts"].get(name) for name in ("ministack", "sagemaker")}
    unwell = [name for name, found in needed.items() if found is None or not found["healthy"]]
    if unwell:
        raise LocalCloudError(
            f"the embedded cloud in {folder} runs, but {' and '.join(unwell)} does not answer; see python -m "
            f"local_cloud status, and start what is missing with: {start}",
            retryable=True,
        )
    return Target.model_validate(status["target"]).model_copy(update={"region": config.region})


def take_inventory(config: PipelineConfig, *, target: Target, progress: Progress = quiet) -> Inventory:
    """List what the pipeline has made, and what looks like it. Only reads.

    Archives are looked for in the configured bucket and wherever models and the registry say that they lie.

    Raises
    ------
    CloudError
        If AWS refuses, or an entry of the registry is not one of ours.
    """
    progress(0.0, "the registry")
    history = {entry.mlkey: registry.history(entry.mlkey, target) for entry in registry.entries(target)}
    entries = [
        Resource(
            kind="registry entry",
            name=f"{registry.REGISTRY_PATH}/{mlkey}",
            mlkey=mlkey,
            managed=is_ours(registry.tags_of(mlkey, target)),
            changed=datetime.fromisoformat(promotions[0].promoted_at),
            uses=(promotions[0].endpoint,),
        )
        for mlkey, promotions in history.items()
        if promotions
    ]
    progress(0.2, "SageMaker")
    deployed = list(_in_sagemaker(aws_client(target, "sagemaker")))
    progress(0.6, "what scales")
    notes: list[str] = []
    deployed += _scaling(deployed, target, notes)
    progress(0.7, "S3")
    archives = list(_archives(_places(config, target, deployed, history), target, notes))
    return Inventory(
        region=target.region,
        resources=(*entries, *deployed, *archives),
        history={mlkey: promotions for mlkey, promotions in history.items() if promotions},
        notes=tuple(notes),
    )


def inventory_of(endpoint: str, mlkey: str, *, target: Target) -> Inventory:
    """List what there is of one endpoint: itself, the models and configurations with its names, and the promotions of
    each MLKey that it answers for. Archives are not looked at. Only reads.

    Raises
    ------
    CloudError
        If AWS refuses, or an entry of the registry is not one of ours.
    """
    named = named_by(endpoint)
    mlkeys = {mlkey}
    if named != mlkey:  # several models behind one endpoint
        mlkeys |= {entry.mlkey for entry in registry.entries(target) if entry.endpoint == endpoint}
    history = {each: registry.history(each, target) for each in sorted(mlkeys)}
    return Inventory(
        region=target.region,
        resources=tuple(_in_sagemaker(aws_client(target, "sagemaker"), named)),
        history={each: promotions for each, promotions in history.items() if promotions},
    )


def _in_sagemaker(client: Any, named: str | None = None) -> Iterator[Resource]:
    """Endpoints of anyone (they may use what is ours), and configurations and models with our names.

    Parameters
    ----------
    named
        The MLKey, or the name of several models together, whose resources alone are meant.
    """
    part = _PART if named is None else f"{_PART}{named}-"

    def ours(name: str) -> bool:
        matched = _NAME.fullmatch(name)
        return named is None or (matched is not None and matched["part"] == named)

    with explained("list what is in SageMaker (sagemaker:List*, Describe* and ListTags)"):
        if named is None:
            names = [listed["EndpointName"] for listed in _pages(client, "list_endpoints", "Endpoints")]
        else:
            names = [endpoint_of(named)]
        for name in names:
            found = or_none(client.describe_endpoint, EndpointName=name)
            if found is None:
                continue
            pending = found.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
            yield Resource(
                kind="endpoint",
                name=found["EndpointName"],
                changed=found["LastModifiedTime"],
                status=found["EndpointStatus"],
                reason=found.get("FailureReason"),
                uses=tuple(filter(None, [found["EndpointConfigName"], pending])),
                instance_count=(found.get("ProductionVariants") or [{}])[0].get("CurrentInstanceCount"),
                **_owner(client, found["EndpointArn"], found["EndpointName"]),
            )
        for listed in _pages(client, "list_endpoint_configs", "EndpointConfigs", NameContains=part):
            name = listed["EndpointConfigName"]
            found = or_none(client.describe_endpoint_config, EndpointConfigName=name) if ours(name) else None
            if found is None:
                continue
            variants = found["ProductionVariants"]
            size = variants[0].get("ServerlessConfig", {})
            yield Resource(
                kind="endpoint configuration",
                name=name,
                changed=found["CreationTime"],
                uses=tuple(variant["ModelName"] for variant in variants if variant.get("ModelName")),
                memory_mb=size.get("MemorySizeInMB"),
                max_concurrency=size.get("MaxConcurrency"),
                provisioned_concurrency=size.get("ProvisionedConcurrency"),
                target="serverless" if size else "async" if found.get("AsyncInferenceConfig") else "real-time",
                instance_type=variants[0].get("InstanceType"),
                instance_count=None if size else variants[0].get("InitialInstanceCount"),
                **_owner(client, found["EndpointConfigArn"], name),
            )
        for listed in _pages(client, "list_models", "Models", NameContains=part):
            name = listed["ModelName"]
            found = or_none(client.describe_model, ModelName=name) if ours(name) else None
            if found is None:
                continue
            archive = (found.get("PrimaryContainer") or {}).get("ModelDataUrl")
            yield Resource(
                kind="model",
                name=found["ModelName"],
                changed=found["CreationTime"],
                uses=(archive,) if archive else (),
                **_owner(client, found["ModelArn"], found["ModelName"]),
            )


def _scaling(deployed: Iterable[Resource], target: Target, notes: list[str]) -> list[Resource]:
    """Return what is registered with Application Auto Scaling by this pipeline; looked for where anything can scale."""
    if not any(found.instance_type or found.provisioned_concurrency for found in deployed):
        return []
    try:
        scaling = autoscaling.registered_endpoints(target=target)
    except CloudError as error:
        if error.retryable:
            raise
        notes.append(str(error))
        return []
    owners = {found.name: found for found in deployed if found.kind == "endpoint"}
    return [
        Resource(
            kind="scaling",
            name=autoscaling.resource_id(endpoint),
            mlkey=owners[endpoint].mlkey if endpoint in owners else named_by(endpoint),
            managed=True,
            uses=(endpoint,),
        )
        for endpoint in scaling
    ]


def _owner(client: Any, arn: str, name: str) -> dict[str, Any]:
    """Whose a SageMaker resource is: by its tags, and where it is not ours, which MLKey its name speaks of."""
    tags = tags_of(client, arn)
    matched = _NAME.fullmatch(name)
    by_name = (matched["part"] or matched["endpoint"]) if matched else None
    return {"managed": is_ours(tags), "mlkey": tags.get("askline:mlkey", by_name)}


def _places(
    config: PipelineConfig,
    target: Target,
    deployed: Iterable[Resource],
    history: Mapping[str, Iterable[RegistryEntry]],
) -> set[tuple[str, str]]:
    """Return the buckets and folders in which archives may lie."""
    bucket = config.package.bucket
    if bucket is None:
        with explained("find out which AWS account this is (sts:GetCallerIdentity)"):
            account = aws_client(target, "sts").get_caller_identity()["Account"]
        bucket = f"askline-{account}-{target.region}"
    places = {(bucket, config.package.prefix.strip("/"))}
    uris = [uri for found in deployed if found.kind == "model" and found.managed for uri in found.uses]
    uris += [
        entry.served_by.archive_uri for entries in history.values() for entry in entries if entry.served_by is not None
    ]
    for uri in uris:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        matched = _ARCHIVE_KEY.fullmatch(key)
        if matched:
            places.add((bucket, matched["prefix"]))
        elif key.endswith("/"):  # the folder of an endpoint with several models
            places.add((bucket, key.strip("/")))
    return places


def _archives(places: Iterable[tuple[str, str]], target: Target, notes: list[str]) -> Iterator[Resource]:
    s3 = aws_client(target, "s3")
    for bucket, prefix in sorted(places):
        try:
            with explained(f"list the archives in s3://{bucket}/{prefix} (s3:ListBucket, s3:GetObjectTagging)"):
                objects = or_none(_listed_objects, s3, bucket, prefix) or []
                for found in objects:
                    matched = _ARCHIVE_KEY.fullmatch(found["Key"])
                    if matched is None or matched["prefix"] != prefix:
                        continue
                    tagged = or_none(s3.get_object_tagging, Bucket=bucket, Key=found["Key"])
                    if tagged is None:
                        continue
                    tags = {tag["Key"]: tag["Value"] for tag in tagged["TagSet"]}
                    yield Resource(
                        kind="archive",
                        name=f"s3://{bucket}/{found['Key']}",
                        mlkey=tags.get("askline:mlkey", matched["mlkey"]),
                        managed=is_ours(tags),
                        changed=found["LastModified"],
                        size=found["Size"],
                    )
        except CloudError as error:
            if error.retryable:
                raise
            notes.append(str(error))


def _listed_objects(s3: Any, bucket: str, prefix: str) -> list[dict[str, Any]]:
    folder = f"{prefix}/" if prefix else ""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    return [found for page in pages for found in page.get("Contents", ())]


def _pages(client: Any, operation: str, member: str, **request: str) -> list[dict[str, Any]]:
    return [found for page in client.get_paginator(operation).paginate(**request) for found in page[member]]
