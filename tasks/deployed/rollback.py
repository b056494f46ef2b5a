"""Going back to a version that was promoted before: the endpoint first, then a question, then the registry.

::

    rollback("biography", to=None, config=config, place=place)

The endpoint is put on that version's configuration, which is made again from the archive in S3 where it is gone. Only
when it answers, and still serves that configuration, does the registry say so. Otherwise, and where a person or the
system interrupts it, what the registry names is restored.
"""

import uuid

from askline.clients import aws_client
from askline.config import PipelineConfig
from askline.errors import AsklineError, ConfigError, DeployError
from askline.records import EndpointRef, Record, Serving, Target
from tasks.ask.question import Asked
from tasks.aws.errors import explained
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.endpoint import PASSING, describe
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deploy_serverless.requests import read_config
from tasks.deploy_serverless.serve import serve
from tasks.deployed.question import question_for
from tasks.deployed.restore import restore
from tasks.deployed.versions import choose, named, origin
from tasks.workplace import Workplace


class Rollback(Record):
    """An MLKey answers from an earlier version again."""

    mlkey: str
    left: RegistryEntry
    """What answered before."""
    now: RegistryEntry
    """The entry that the registry holds now."""
    endpoint: EndpointRef
    asked: Asked


def rollback(
    mlkey: str,
    *,
    to: str | None = None,
    question: str | None = None,
    config: PipelineConfig,
    place: Workplace,
    cold_seconds: float | None = None,
) -> Rollback:
    """Let ``mlkey`` answer from an earlier version, and say so in the registry.

    Parameters
    ----------
    to
        The beginning of a model version or of an archive's sha256; the default is what was promoted before the
        present version. After a rollback that is the one before the version gone back to.
    question
        What the endpoint is asked; the default is a question of the smoke test of that version's run, whose answer is
        known, or a plain one where that report is not on this machine.
    cold_seconds
        How long the question is asked again while the endpoint is cold.

    Raises
    ------
    ConfigError
        If the MLKey is not registered, or there is no such version; the message lists those that there are.
    DeployError
        If a deployment is under way, the version's archive is gone or was altered, the endpoint cannot be put on that
        version, or does not answer; the message says what answers now.
    CloudError
        If AWS refuses.
    """
    target = place.target
    promotions = registry.history(mlkey, target)
    if not promotions:
        known = ", ".join(entry.mlkey for entry in registry.entries(target)) or "none"
        raise ConfigError(f"the MLKey {mlkey} is not registered; registered are: {known}")
    current, wanted = promotions[0], choose(promotions, to)
    _refuse_while_changing(current.endpoint, target)
    serving = _serving(wanted, target)
    destination = registry.destination(mlkey, current.endpoint, wanted.target_model, config.deploy.tags)
    place.progress(0.1, f"put {current.endpoint} on {serving.config_name}")
    try:
        served = serve(
            serving,
            destination,
            archive_sha256=wanted.archive_sha256,
            question=question_for(wanted, promotions, config.state_dir, text=question, cold_seconds=cold_seconds),
            place=place.of_part(0.1, 0.9),
            wait_seconds=config.deploy.wait_seconds,
        )
    except BaseException as error:
        stands = _restored(config, current, interrupted=not isinstance(error, Exception), place=place)
        if not isinstance(error, AsklineError):
            error.add_note(stands)
            raise
        raise DeployError(
            f"{mlkey} was not rolled back to {named(wanted)}: {error}\n{stands}\nThe registry still names "
            f"{named(current)}.",
            retryable=error.retryable,
        ) from error
    _check_still_ours(current, destination.endpoint_name, serving, target)
    entry = registry.promote(
        mlkey,
        endpoint=current.endpoint,
        model_version=wanted.model_version,
        archive_sha256=wanted.archive_sha256,
        dataset=wanted.dataset,
        dataset_sha256=wanted.dataset_sha256,
        exact_match=wanted.exact_match,
        run_id=f"rollback-{uuid.uuid4().hex[:8]}",
        restores=origin(wanted),
        target_model=wanted.target_model,
        tags=config.deploy.tags,
        target=target,
    )
    place.progress(1.0, f"{mlkey} answers from {named(wanted)}")
    assert served.asked is not None
    return Rollback(mlkey=mlkey, left=current, now=entry, endpoint=served.endpoint, asked=served.asked)


def _refuse_while_changing(endpoint: str, target: Target) -> None:
    found = describe(aws_client(target, "sagemaker").describe_endpoint, EndpointName=endpoint)
    if found is not None and found["EndpointStatus"] in PASSING:
        raise DeployError(
            f"the endpoint {endpoint} is {found['EndpointStatus']}: a deployment is under way. Wait until it is done "
            "(python -m flows.status shows it), then run this again.",
            retryable=True,
        )


def _serving(wanted: RegistryEntry, target: Target) -> Serving:
    """Return what the version was served with; for an older entry, of a configuration that serves its archive."""
    if wanted.served_by is not None:
        return wanted.served_by
    client = aws_client(target, "sagemaker")
    folder = f"/{wanted.mlkey}/{wanted.archive_sha256[:12]}/"
    with explained(f"look for a configuration that serves {wanted.archive_sha256[:12]}"):
        pages = client.get_paginator("list_endpoint_configs").paginate(
            NameContains=f"askline-{wanted.mlkey}-", SortBy="CreationTime", SortOrder="Descending"
        )
        for listed in (each for page in pages for each in page["EndpointConfigs"]):
            found = read_config(client, listed["EndpointConfigName"])
            if found is not None and folder in found.archive_uri:
                return found
    raise DeployError(
        f"{named(wanted)} was promoted before the registry kept what a version is served with, and no configuration "
        "that serves its archive is left; deploy it again with python -m flows.full_pipeline"
    )


def _restored(config: PipelineConfig, current: RegistryEntry, *, interrupted: bool, place: Workplace) -> str:
    """Restore what the registry names and say what stands; this failure too must not hide the first one."""
    try:
        return restore(
            config.deploy,
            mlkey=current.mlkey,
            endpoint=current.endpoint,
            settle_seconds=config.deploy.wait_seconds if interrupted else 0,
            place=place,
        ).said
    except AsklineError as error:
        return f"What the endpoint serves now could not be found out: {error}; see python -m flows.status"


def _check_still_ours(current: RegistryEntry, endpoint: str, serving: Serving, target: Target) -> None:
    """Refuse to promote if somebody deployed or promoted while the question was asked."""
    found = describe(aws_client(target, "sagemaker").describe_endpoint, EndpointName=endpoint)
    if found is None or found["EndpointStatus"] in PASSING or found["EndpointConfigName"] != serving.config_name:
        state = "gone" if found is None else f"{found['EndpointStatus']}, on {found['EndpointConfigName']}"
        raise DeployError(
            f"another deployment changed the endpoint {endpoint} meanwhile (it is {state}); the registry was not "
            "written. Look at python -m flows.status, then run this again if it is still needed."
        )
    registry.require_unchanged(current.mlkey, current.version, target)
