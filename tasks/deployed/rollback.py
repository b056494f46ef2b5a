"""Going back to a version that was promoted before: the endpoint first, then a question, then the registry.

::

    rollback("biography", to=None, config=config, target=target)

The endpoint is put on that version's configuration, which is made again from the archive in S3 where it is gone. Only
when it answers, and still serves that configuration, does the registry say so. Otherwise the configuration that served
before is put back.
"""

import uuid
from typing import Any

from askline.clients import aws_client
from askline.config import PipelineConfig
from askline.errors import CloudError, ConfigError, DeployError
from askline.progress import Progress, part, quiet
from askline.records import EndpointRef, Record, Target
from tasks.aws.errors import explained, is_missing
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.deploy_serverless import PASSING, apply_plan
from tasks.deploy_serverless.deployment_plan import MANAGED, DeploymentPlan
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deploy_serverless.served_by import ServedBy, read_config
from tasks.deployed.question import Asked, ask_endpoint, known_answer
from tasks.deployed.versions import choose, named, origin


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
    target: Target,
    cold_seconds: float | None = None,
    progress: Progress = quiet,
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
        If a deployment is under way, the endpoint cannot be put on that version, or does not answer; the message says
        what answers now.
    CloudError
        If AWS refuses, or the version's archive is gone.
    """
    promotions = registry.history(mlkey, target)
    if not promotions:
        known = ", ".join(entry.mlkey for entry in registry.entries(target)) or "none"
        raise ConfigError(f"the MLKey {mlkey} is not registered; registered are: {known}")
    current, wanted = promotions[0], choose(promotions, to)
    before = _refuse_while_changing(current.endpoint, target)
    served_by = _served_by(wanted, target)
    _check_archive(wanted, served_by, target)
    restore = _to_restore(before, current, served_by)

    plan = _plan(wanted, current.endpoint, served_by, config)
    progress(0.1, f"put {current.endpoint} on {plan.config_name}")
    try:
        endpoint = apply_plan(
            plan, target=target, wait_seconds=config.deploy.wait_seconds, progress=part(progress, 0.1, 0.7)
        )
    except DeployError as error:
        raise DeployError(
            f"{mlkey} was not rolled back to {named(wanted)}: {error}\n"
            f"{_active(current.endpoint, target)}, and the registry still names {named(current)}.",
            retryable=error.retryable,
        ) from error
    progress(0.7, "ask it a question")
    try:
        text, expected = (question, None) if question else known_answer(wanted, promotions, config.state_dir)
        asked = ask_endpoint(
            endpoint,
            text,
            expected=expected,
            model_version=wanted.model_version,
            target=target,
            cold_seconds=cold_seconds,
            progress=part(progress, 0.7, 0.9),
        )
    except DeployError as error:
        restored = _put_back(restore, current, endpoint, config, target)
        raise DeployError(f"{mlkey} was not rolled back to {named(wanted)}: {error}\n{restored}") from error
    _check_still_ours(current, plan, target)
    entry = registry.promote(
        mlkey,
        endpoint=endpoint.name,
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
    progress(1.0, f"{mlkey} answers from {named(wanted)}")
    return Rollback(mlkey=mlkey, left=current, now=entry, endpoint=endpoint, asked=asked)


def _refuse_while_changing(endpoint: str, target: Target) -> str | None:
    """Return the active configuration of an endpoint at rest; None if there is no endpoint."""
    found = _describe(endpoint, target)
    if found is None:
        return None
    if found["EndpointStatus"] in PASSING:
        raise DeployError(
            f"the endpoint {endpoint} is {found['EndpointStatus']}: a deployment is under way. Wait until it is done "
            "(python -m flows.status shows it), then run this again.",
            retryable=True,
        )
    return str(found["EndpointConfigName"])


def _served_by(wanted: RegistryEntry, target: Target) -> ServedBy:
    """Return what the version was served with; for an older entry, of a configuration that serves its archive."""
    if wanted.served_by is not None:
        return wanted.served_by
    client = aws_client(target, "sagemaker")
    folder = f"/{wanted.mlkey}/{wanted.archive_sha256[:12]}/"
    with explained(f"look for a configuration that serves {wanted.archive_sha256[:12]}"):
        pages = client.get_paginator("list_endpoint_configs").paginate(
            NameContains=f"askline-{wanted.mlkey}-", SortBy="CreationTime", SortOrder="Descending"
        )
        for listed in (found for page in pages for found in page["EndpointConfigs"]):
            found = read_config(client, listed["EndpointConfigName"])
            if found is not None and folder in found.archive_uri:
                return found
    raise DeployError(
        f"{named(wanted)} was promoted before the registry kept what a version is served with, and no configuration "
        "that serves its archive is left; deploy it again with python -m flows.full_pipeline"
    )


def _check_archive(wanted: RegistryEntry, served_by: ServedBy, target: Target) -> None:
    """Refuse before anything is touched if the archive is gone or is another one."""
    from botocore.exceptions import ClientError

    uri = served_by.archive_uri + (wanted.target_model or "")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with explained(f"look at {uri}"):
        try:
            found = aws_client(target, "s3").head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if not is_missing(error):
                raise
            raise CloudError(
                f"{named(wanted)} cannot come back: its archive {uri} is gone. Nothing was changed."
            ) from error
    held = found["Metadata"].get("sha256", wanted.archive_sha256)
    if held != wanted.archive_sha256:
        raise CloudError(
            f"{named(wanted)} cannot come back: {uri} holds another archive ({held[:12]}). Nothing was changed."
        )


def _to_restore(before: str | None, current: RegistryEntry, wanted: ServedBy) -> ServedBy | str | None:
    """Return what goes back on the endpoint if the version does not answer: what served, by content or by name.

    Where an earlier rollback was killed half-way, the endpoint serves the wanted version already, and what the
    registry names is put back.
    """
    if before is None:
        return None
    if current.served_by is not None and before in (current.served_by.config_name, wanted.config_name):
        return current.served_by
    return before


def _plan(entry: RegistryEntry, endpoint: str, served_by: ServedBy, config: PipelineConfig) -> DeploymentPlan:
    named = endpoint.removeprefix("serv-hf-endpoint-")
    return DeploymentPlan(
        mlkey=entry.mlkey,
        endpoint_name=endpoint,
        target_model=entry.target_model,
        tags={**MANAGED, "askline:mlkey": named, **config.deploy.tags},
        **served_by.model_dump(),
    )


def _put_back(
    restore: ServedBy | str | None,
    current: RegistryEntry,
    endpoint: EndpointRef,
    config: PipelineConfig,
    target: Target,
) -> str:
    """Restore what served before and say what came of it."""
    if restore is None:
        return f"There was no endpoint before; {endpoint.name} was created and still has to be mended or taken down."
    name = restore if isinstance(restore, str) else restore.config_name
    if name == endpoint.config_name:
        return f"Nothing else served before: {_active(endpoint.name, target)}."
    try:
        served_by = _read(name, target) if isinstance(restore, str) else restore
        plan = _plan(current, endpoint.name, served_by, config)
        apply_plan(plan, target=target, wait_seconds=config.deploy.wait_seconds)
    except CloudError as error:
        return f"What served before, {name}, could not be put back either: {error}"
    return f"What served before was put back and verified: {_active(endpoint.name, target)}."


def _read(config_name: str, target: Target) -> ServedBy:
    with explained(f"read the configuration {config_name}"):
        found = read_config(aws_client(target, "sagemaker"), config_name)
    if found is None:
        raise DeployError(f"the configuration {config_name} is gone, or is not of a form that askline makes")
    return found


def _check_still_ours(current: RegistryEntry, plan: DeploymentPlan, target: Target) -> None:
    """Refuse to promote if somebody deployed or promoted while the question was asked."""
    found = _describe(plan.endpoint_name, target)
    if found is None or found["EndpointStatus"] in PASSING or found["EndpointConfigName"] != plan.config_name:
        state = "gone" if found is None else f"{found['EndpointStatus']}, on {found['EndpointConfigName']}"
        raise DeployError(
            f"another deployment changed the endpoint {plan.endpoint_name} meanwhile (it is {state}); the registry was "
            "not written. Look at python -m flows.status, then run this again if it is still needed."
        )
    standing = registry.resolve(plan.mlkey, target)
    if standing is None or standing.version != current.version:
        raise DeployError(
            f"another run promoted {plan.mlkey} meanwhile; the registry was not written. "
            "Look at python -m flows.status, then run this again if it is still needed."
        )


def _active(endpoint: str, target: Target) -> str:
    found = _describe(endpoint, target)
    if found is None:
        return f"there is no endpoint {endpoint}"
    return f"{endpoint} is {found['EndpointStatus']} on {found['EndpointConfigName']}"


def _describe(endpoint: str, target: Target) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    with explained(f"look up the endpoint {endpoint}", error_type=DeployError):
        try:
            found: dict[str, Any] = aws_client(target, "sagemaker").describe_endpoint(EndpointName=endpoint)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    return found
