"""What is deployed, for people and machines: one row an MLKey, the API, and what nothing refers to."""

from askline.clients import aws_client
from askline.config import PipelineConfig
from askline.config.deploy import EndpointKind
from askline.progress import Progress, part, quiet
from askline.records import Record, Target
from tasks.aws.errors import explained
from tasks.deploy_api import cloudformation
from tasks.deploy_api.deploy_api import stage_url
from tasks.deploy_serverless.prices import load_prices
from tasks.deploy_serverless.sizing import HOURS_PER_MONTH
from tasks.deployed.inventory import Inventory, Resource, take_inventory
from tasks.deployed.orphans import KEEP, Orphan, find_orphans
from tasks.deployed.versions import versions


class Deployed(Record):
    """What answers for an MLKey."""

    mlkey: str
    endpoint: str
    status: str
    """SageMaker's, or "missing" where the registry names an endpoint that is not there."""
    config_name: str | None
    memory_mb: int | None
    max_concurrency: int | None
    registered: bool
    target: EndpointKind | None = None
    """The kind of endpoint; None where its configuration is not there."""
    instance_type: str | None = None
    instance_count: int | None = None
    """Instances that run now."""
    scales: bool = False
    model_version: str | None = None
    archive_sha256: str | None = None
    dataset: str | None = None
    exact_match: float | None = None
    """Share of held-out questions answered exactly, 0 to 1."""
    promoted_at: str | None = None
    run_id: str | None = None
    restores: int | None = None
    """For a rollback, the number of the promotion that it went back to."""
    versions: int = 0
    """Versions in the registry's history."""
    idle_usd_a_month: float | None = None
    """What the endpoint costs while nobody asks: nothing for a serverless one, the instances that run now for the
    others; None where the price file does not know it."""
    notes: tuple[str, ...] = ()
    """What a person should look at."""


class StatusReport(Record):
    """What ``python -m flows.status`` shows."""

    target: str
    region: str
    deployed: tuple[Deployed, ...]
    api_stack: str
    api_status: str | None
    """CloudFormation's status of the API's stack; None where there is none."""
    api_url: str | None
    archives: int
    archive_bytes: int
    orphans: tuple[Orphan, ...]
    keep: int
    notes: tuple[str, ...] = ()
    """What could not be looked at."""


def status(config: PipelineConfig, *, keep: int = KEEP, target: Target, progress: Progress = quiet) -> StatusReport:
    """Look at everything that the pipeline has made. Only reads.

    Parameters
    ----------
    keep
        Versions of each MLKey whose resources are no orphans.

    Raises
    ------
    CloudError
        If AWS refuses.
    """
    inventory = take_inventory(config, target=target, progress=part(progress, 0.0, 0.9))
    with explained(f"look up the stack {config.api.stack_name}"):
        stack = cloudformation.describe(aws_client(target, "cloudformation"), config.api.stack_name)
    outputs = {output["OutputKey"]: output["OutputValue"] for output in (stack or {}).get("Outputs", ())}
    archives = [found for found in inventory.of("archive").values() if found.managed]
    return StatusReport(
        target=target.kind,
        region=target.region,
        deployed=tuple(_deployed(mlkey, inventory) for mlkey in inventory.mlkeys if not _only_shared(mlkey, inventory)),
        api_stack=config.api.stack_name,
        api_status=stack["StackStatus"] if stack else None,
        api_url=stage_url(outputs, target) if {"ApiUrl", "ApiId", "StageName"} <= outputs.keys() else None,
        archives=len(archives),
        archive_bytes=sum(found.size or 0 for found in archives),
        orphans=find_orphans(inventory, keep=keep),
        keep=keep,
        notes=inventory.notes,
    )


def _deployed(mlkey: str, inventory: Inventory) -> Deployed:
    promotions = inventory.history.get(mlkey, ())
    entry = promotions[0] if promotions else None
    endpoints = inventory.of("endpoint")
    if entry is not None:
        name = entry.endpoint
    else:
        name = next(found.name for found in endpoints.values() if found.mlkey == mlkey and found.managed)
    endpoint = endpoints.get(name)
    config = inventory.of("endpoint configuration").get(endpoint.uses[0]) if endpoint else None
    facts = Deployed(
        mlkey=mlkey,
        endpoint=name,
        status=(endpoint.status or "unknown") if endpoint else "missing",
        config_name=endpoint.uses[0] if endpoint else None,
        memory_mb=config.memory_mb if config else None,
        max_concurrency=config.max_concurrency if config else None,
        registered=entry is not None,
        versions=len(versions(promotions)),
        target=config.target if config else None,
        instance_type=config.instance_type if config else None,
        instance_count=endpoint.instance_count if endpoint and config and config.instance_type else None,
        scales=any(name in found.uses for found in inventory.of("scaling").values()),
        idle_usd_a_month=_idle(endpoint, config, inventory.region),
    )
    if entry is not None:
        facts = facts.model_copy(
            update=entry.model_dump(
                include={
                    "model_version",
                    "archive_sha256",
                    "dataset",
                    "exact_match",
                    "promoted_at",
                    "run_id",
                    "restores",
                }
            )
        )
    return facts.model_copy(update={"notes": tuple(_notes(facts, endpoint, inventory))})


def _only_shared(mlkey: str, inventory: Inventory) -> bool:
    """Say whether this is no MLKey but the name of an endpoint that answers for several."""
    if mlkey in inventory.history:
        return False
    owned = {found.name for found in inventory.of("endpoint").values() if found.mlkey == mlkey}
    return bool(owned & {promotions[0].endpoint for promotions in inventory.history.values()})


def _idle(endpoint: Resource | None, config: Resource | None, region: str) -> float | None:
    if endpoint is None or config is None or config.provisioned_concurrency:
        return None
    if config.memory_mb:
        return 0.0  # billed by the milliseconds of its answers only
    prices = {each.name: each.usd_per_hour for each in load_prices(region).instances}
    hourly = prices.get(config.instance_type or "")
    count = endpoint.instance_count if endpoint.instance_count is not None else config.instance_count
    return None if hourly is None or count is None else hourly * count * HOURS_PER_MONTH


def _notes(facts: Deployed, endpoint: Resource | None, inventory: Inventory) -> list[str]:
    notes = []
    entry = inventory.history[facts.mlkey][0] if facts.registered else None
    if endpoint is None:
        notes.append("the registry names an endpoint that is not there: roll back, deploy again, or take it down")
    elif not endpoint.managed:
        notes.append("the endpoint does not carry the pipeline's tags")
    if entry is None:
        notes.append("no registry entry: the API does not know it")
    elif endpoint is not None and entry.served_by is not None and entry.served_by.config_name != facts.config_name:
        notes.append(f"the registry was promoted with {entry.served_by.config_name}, and another configuration serves")
    if endpoint is not None and endpoint.reason:
        notes.append(f"SageMaker's last word: {endpoint.reason}")
    return notes
