"""The registry of MLKeys: one SSM parameter for each, ``/askline/registry/<MLKey>``.

Its JSON value says which endpoint and which model version answer. Writing it promotes a model; the API's Lambda
function reads nothing else. It also keeps what it takes to put this version back: the endpoint configuration that
answered at the time, and what that was made of.

::

    entry = promote("biography", endpoint="serv-hf-endpoint-biography", model_version="…", …, target=target)
    entries(target); history("biography", target)
"""

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, ValidationError

from askline.clients import aws_client
from askline.errors import AsklineError, CloudError, ConfigError, DeployError
from askline.records import Destination, Record, Serving, Target
from tasks.aws.errors import explained
from tasks.aws.names import MANAGED, named_by
from tasks.deploy_serverless.requests import read_serving

#: Path of the entries in Parameter Store.
REGISTRY_PATH = "/askline/registry"

_MLKEY = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_RETRYABLE = {"ThrottlingException", "TooManyUpdates", "InternalServerError", "ServiceUnavailable"}
#: What a standard parameter holds.
_MOST_BYTES = 4096

_log = logging.getLogger("askline.registry")


class RegistryEntry(Record):
    """What answers for an MLKey."""

    mlkey: str
    endpoint: str
    model_version: str
    archive_sha256: str
    dataset: str
    """The dataset's source and revision, for people."""
    dataset_sha256: str | None = None
    """Address of the dataset artifact, which says what the model was trained on; None in older entries."""
    exact_match: float
    """Share of held-out questions answered exactly."""
    promoted_at: str
    """UTC, ISO 8601."""
    run_id: str
    served_by: Serving | None = None
    """What the endpoint served with when this was written; None in older entries, and where it could not be read."""
    restores: int | None = None
    """For a rollback, the ``version`` of the promotion that it went back to."""
    target_model: str | None = None
    """Of an endpoint with several models, which archive answers: SageMaker's TargetModel."""
    version: int = Field(default=0, exclude=True)
    """Number of this promotion, counted by Parameter Store; not part of the value that is written."""

    def serves_the_same_as(self, other: "RegistryEntry") -> bool:
        """Say whether both send callers to the same model with the same scores, whichever run wrote them.

        What the other was served by, and what either was trained on, counts only where that is known.
        """
        aside = {"promoted_at", "run_id", "restores", "version"} | ({"served_by"} if other.served_by is None else set())
        if self.dataset_sha256 is None or other.dataset_sha256 is None:
            aside.add("dataset_sha256")
        return self.model_dump(exclude=aside) == other.model_dump(exclude=aside)


def destination(mlkey: str, endpoint: str, target_model: str | None, tags: Mapping[str, str]) -> Destination:
    """Return where something that was promoted serves, with the tags of all that is made for it."""
    return Destination(
        mlkey=mlkey,
        endpoint_name=endpoint,
        target_model=target_model,
        tags={**MANAGED, "askline:mlkey": named_by(endpoint), **tags},
    )


def promote(
    mlkey: str,
    *,
    endpoint: str,
    model_version: str,
    archive_sha256: str,
    dataset: str,
    exact_match: float,
    run_id: str,
    target: Target,
    tags: Mapping[str, str] | None = None,
    restores: int | None = None,
    dataset_sha256: str | None = None,
    target_model: str | None = None,
) -> RegistryEntry:
    """Let ``mlkey`` answer from ``endpoint``: one write, seen by the API within seconds.

    Where the registry says so already, nothing is written and the standing entry is returned, with the run that
    wrote it. The endpoint's configuration is looked up and kept in the entry, for a later rollback.

    Parameters
    ----------
    exact_match
        Share between 0 and 1.
    tags
        Further AWS tags for the parameter, beside ``askline:managed`` and ``askline:mlkey``.
    restores
        The ``version`` of an earlier promotion that this one goes back to.
    dataset_sha256
        Address of the dataset artifact that the model was trained on.
    target_model
        Of an endpoint with several models, the one that answers for this MLKey.

    Raises
    ------
    ConfigError
        If ``mlkey`` is not a name that callers may use.
    CloudError
        If Parameter Store refuses.
    """
    from botocore.exceptions import ClientError

    entry = RegistryEntry(
        mlkey=mlkey,
        endpoint=endpoint,
        model_version=model_version,
        archive_sha256=archive_sha256,
        dataset=dataset,
        dataset_sha256=dataset_sha256,
        exact_match=exact_match,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        run_id=run_id,
        restores=restores,
        target_model=target_model,
    )
    labels = {**MANAGED, "askline:mlkey": mlkey, **(tags or {})}
    ssm = aws_client(target, "ssm")
    standing = _read(ssm, _name(mlkey))
    entry = entry.model_copy(update={"served_by": _served_by_if_known(endpoint, target)})
    if len(entry.model_dump_json().encode()) > _MOST_BYTES:
        entry = entry.model_copy(update={"served_by": None})
    if standing is not None and standing.serves_the_same_as(entry):
        _tag(ssm, _name(mlkey), labels)
        return standing
    request: dict[str, Any] = {
        "Name": _name(mlkey),
        "Type": "String",
        "Value": entry.model_dump_json(),
        "Description": f"askline: the MLKey {mlkey} is answered by {endpoint}"[:1024],
    }
    written = None
    try:
        if standing is None:
            # Another run may register the same MLKey meanwhile; then the later write counts, as it always does.
            with contextlib.suppress(ssm.exceptions.ParameterAlreadyExists):
                written = ssm.put_parameter(**request)
        if written is None:
            written = ssm.put_parameter(**request, Overwrite=True)
    except ClientError as error:
        raise _refused(f"write the registry entry {_name(mlkey)}", error) from error
    _tag(ssm, _name(mlkey), labels)
    return entry.model_copy(update={"version": int(written["Version"])})


def require_unchanged(mlkey: str, version: int, target: Target) -> None:
    """Return if the newest promotion is still the one that was looked at.

    Parameters
    ----------
    version
        Its number; 0 where there was none.

    Raises
    ------
    DeployError
        If another run promoted the MLKey meanwhile, or it was taken down.
    CloudError
        If Parameter Store refuses.
    """
    standing = resolve(mlkey, target)
    if (0 if standing is None else standing.version) != version:
        who = "it was taken down" if standing is None else f"{standing.run_id} promoted {standing.model_version}"
        raise DeployError(
            f"{mlkey} was changed by another run meanwhile ({who}); the registry was not written. Look at python -m "
            "flows.status, then run this again if it is still needed."
        )


def forget(mlkey: str, target: Target) -> bool:
    """Delete the entry and its history, so that the API knows the MLKey no longer; False if there was none.

    Raises
    ------
    ConfigError
        If ``mlkey`` is not a name that callers may use.
    CloudError
        If Parameter Store refuses.
    """
    name = _name(mlkey)
    ssm = aws_client(target, "ssm")
    with explained(f"delete the registry entry {name} (ssm:DeleteParameter)"):
        try:
            ssm.delete_parameter(Name=name)
        except ssm.exceptions.ParameterNotFound:
            return False
    return True


def tags_of(mlkey: str, target: Target) -> dict[str, str]:
    """Return the AWS tags of the entry; empty if there is none.

    Raises
    ------
    ConfigError
        If ``mlkey`` is not a name that callers may use.
    CloudError
        If Parameter Store refuses.
    """
    name = _name(mlkey)
    ssm = aws_client(target, "ssm")
    with explained(f"read the tags of the registry entry {name} (ssm:ListTagsForResource)"):
        try:
            found = ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=name)["TagList"]
        except ssm.exceptions.InvalidResourceId:
            return {}
    return {tag["Key"]: tag["Value"] for tag in found}


def _served_by_if_known(endpoint: str, target: Target) -> Serving | None:
    """A promotion does not fail because its configuration cannot be read: only a later rollback would miss it."""
    try:
        return read_serving(endpoint, target)
    except AsklineError as error:
        _log.warning("the registry entry will not say how to make this deployment again: %s", error)
        return None


def _tag(ssm: Any, name: str, tags: Mapping[str, str]) -> None:
    """Mark the parameter as the pipeline's own; without the permission for it, it is promoted all the same."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    try:
        with explained(f"tag the registry entry {name} (ssm:AddTagsToResource)"):
            ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId=name, Tags=listed)
    except CloudError as error:
        _log.warning("%s; flows.teardown will leave this entry alone", error)


def resolve(mlkey: str, target: Target) -> RegistryEntry | None:
    """Return what answers for ``mlkey`` now, or None if it is not registered.

    Raises
    ------
    ConfigError
        If ``mlkey`` is not a name that callers may use.
    CloudError
        If Parameter Store refuses, or the entry is not one of ours.
    """
    name = _name(mlkey)
    return _read(aws_client(target, "ssm"), name)


def entries(target: Target) -> tuple[RegistryEntry, ...]:
    """Return every registered MLKey, sorted by name.

    Raises
    ------
    CloudError
        If Parameter Store refuses, or an entry is not one of ours.
    """
    found = _pages(aws_client(target, "ssm"), "get_parameters_by_path", Path=REGISTRY_PATH)
    return tuple(sorted(map(_entry, found), key=lambda entry: entry.mlkey))


def history(mlkey: str, target: Target) -> tuple[RegistryEntry, ...]:
    """Return every promotion of ``mlkey``, the newest first; Parameter Store keeps the last hundred.

    Raises
    ------
    ConfigError
        If ``mlkey`` is not a name that callers may use.
    CloudError
        If Parameter Store refuses, or an entry is not one of ours.
    """
    name = _name(mlkey)
    ssm = aws_client(target, "ssm")
    try:
        found = _pages(ssm, "get_parameter_history", Name=name)
    except ssm.exceptions.ParameterNotFound:
        return ()
    return tuple(sorted(map(_entry, found), key=lambda entry: entry.version, reverse=True))


def _read(ssm: Any, name: str) -> RegistryEntry | None:
    from botocore.exceptions import ClientError

    try:
        return _entry(ssm.get_parameter(Name=name)["Parameter"])
    except ssm.exceptions.ParameterNotFound:
        return None
    except ClientError as error:
        raise _refused(f"read the registry entry {name}", error) from error


def _pages(ssm: Any, operation: str, **request: str) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError

    try:
        return [found for page in ssm.get_paginator(operation).paginate(**request) for found in page["Parameters"]]
    except ssm.exceptions.ParameterNotFound:
        raise
    except ClientError as error:
        raise _refused(f"read the registry ({', '.join(request.values())})", error) from error


def _name(mlkey: str) -> str:
    if len(mlkey) > 46 or _MLKEY.fullmatch(mlkey) is None:
        raise ConfigError(
            f"{mlkey!r} cannot be an MLKey: use 1 to 46 letters, digits and hyphens, a letter or digit at each end"
        )
    return f"{REGISTRY_PATH}/{mlkey}"


def _entry(parameter: Mapping[str, Any]) -> RegistryEntry:
    try:
        value = json.loads(parameter["Value"])
        return RegistryEntry.model_validate({**value, "version": int(parameter["Version"])})
    except (ValueError, TypeError, ValidationError) as error:
        raise CloudError(
            f"the SSM parameter {parameter['Name']} is not a registry entry of askline: {error}. "
            "Delete it or move it out of the path, then run the flow again."
        ) from error


def _refused(what: str, error: Any) -> CloudError:
    details = error.response.get("Error", {})
    code = details.get("Code", "")
    return CloudError(
        f"cannot {what}: {code}: {details.get('Message', error)}. The caller needs ssm:GetParameter, "
        f"ssm:GetParametersByPath, ssm:GetParameterHistory and ssm:PutParameter on {REGISTRY_PATH}.",
        retryable=code in _RETRYABLE,
    )
