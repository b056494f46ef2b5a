"""Promotion: the registry says who answers, the API is asked, and what earlier runs left behind is deleted.

::

    promotion = promote(config.deploy, endpoint, smoke, api, scores, package, dataset, over=gate.standing, place=place)

It is the act with most consequence: from the registry's entry on, callers of the API get the new model's answers. It
comes after the endpoint itself was asked, and refuses where the model that this one was compared with is no longer the
one that answers.
"""

import logging
from pathlib import PurePath

from askline.config import DeployConfig
from askline.errors import CloudError
from askline.records import (
    ApiRef,
    DatasetRef,
    EndpointRef,
    PackageRef,
    Promotion,
    Scores,
    SmokeRef,
    SourceRef,
)
from tasks.deploy_serverless import registry
from tasks.deployed.teardown import sweep
from tasks.smoke_invoke.smoke_invoke import smoke_api
from tasks.workplace import Workplace

_log = logging.getLogger("askline.promote")


def promote(
    config: DeployConfig,
    endpoint: EndpointRef,
    smoke: SmokeRef,
    api: ApiRef | None,
    scores: Scores,
    package: PackageRef,
    dataset: DatasetRef,
    *,
    over: int | None,
    place: Workplace,
) -> Promotion:
    """Let the MLKey answer from the endpoint, and make sure that the API does.

    Parameters
    ----------
    over
        Number of the promotion that the model was compared with, 0 where there was none. None replaces whoever was
        promoted meanwhile: a person switched the comparison off.

    Raises
    ------
    DeployError
        If another run promoted the MLKey since the comparison, or the API does not answer as the endpoint did.
    CloudError
        If Parameter Store refuses.
    """
    mlkey, target = endpoint.mlkey, place.target
    standing = registry.resolve(mlkey, target)
    own = standing is not None and standing.archive_sha256 == package.archive_sha256
    if over is not None and not own:
        registry.require_unchanged(mlkey, over, target)
    place.progress(0.1, "the registry")
    entry = registry.promote(
        mlkey,
        endpoint=endpoint.name,
        model_version=package.model_sha256[:12],
        archive_sha256=package.archive_sha256,
        dataset=_public_name(dataset.source),
        dataset_sha256=dataset.sha256,
        exact_match=scores.test.exact_match,
        run_id=place.run_id,
        target=target,
        target_model=endpoint.target_model,
        tags=config.tags,
    )
    if api is not None:
        place.progress(0.3, "the API")
        smoke_api(api, smoke, mlkey=mlkey, target=target)
    place.progress(0.8, "what earlier runs left")
    return Promotion(
        mlkey=mlkey,
        model_version=entry.model_version,
        version=entry.version,
        replaced=None if standing is None else standing.model_version,
        api_checked=api is not None,
        swept=_swept(endpoint, place),
    )


def _public_name(source: SourceRef) -> str:
    """Return what API callers may read about the data: of a file its name, not where it lies."""
    location = PurePath(source.location).name if source.kind == "file" else source.location
    return f"{location}@{source.revision}"


def _swept(endpoint: EndpointRef, place: Workplace) -> tuple[str, ...]:
    """Delete what killed runs left of this MLKey; whether that can be done decides nothing."""
    try:
        return sweep(endpoint.name, endpoint.mlkey, target=place.target)
    except CloudError as error:
        _log.warning("what earlier runs left behind was not looked for: %s", error)
        return ()
