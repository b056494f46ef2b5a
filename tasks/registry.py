"""The registry of MLKeys: one SSM parameter for each, ``/askline/registry/<MLKey>``.

Its JSON value says which endpoint and which model version answer. Writing it promotes a model; the API's Lambda
function reads nothing else.

::

    entry = promote("biography", endpoint="serv-hf-endpoint-biography", model_version="…", …, target=target)
    entries(target); history("biography", target)
"""

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, ValidationError

from askline.clients import aws_client
from askline.errors import CloudError, ConfigError
from askline.records import Record, Target

#: Path of the entries in Parameter Store.
REGISTRY_PATH = "/askline/registry"

_MLKEY = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_RETRYABLE = {"ThrottlingException", "TooManyUpdates", "InternalServerError", "ServiceUnavailable"}


class RegistryEntry(Record):
    """What answers for an MLKey."""

    mlkey: str
    endpoint: str
    model_version: str
    archive_sha256: str
    dataset: str
    """The dataset's source and revision, for people."""
    exact_match: float
    """Share of held-out questions answered exactly."""
    promoted_at: str
    """UTC, ISO 8601."""
    run_id: str
    version: int = Field(default=0, exclude=True)
    """Number of this promotion, counted by Parameter Store; not part of the value that is written."""

    def serves_the_same_as(self, other: "RegistryEntry") -> bool:
        """Say whether both send callers to the same model with the same scores, whichever run wrote them."""
        aside = {"promoted_at", "run_id", "version"}
        return self.model_dump(exclude=aside) == other.model_dump(exclude=aside)


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
) -> RegistryEntry:
    """Let ``mlkey`` answer from ``endpoint``: one write, seen by the API within seconds.

    Where the registry says so already, nothing is written and the standing entry is returned, with the run that
    wrote it.

    Parameters
    ----------
    exact_match
        Share between 0 and 1.
    tags
        AWS tags for a parameter that does not exist yet.

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
        exact_match=exact_match,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        run_id=run_id,
    )
    ssm = aws_client(target, "ssm")
    standing = _read(ssm, _name(mlkey))
    if standing is not None and standing.serves_the_same_as(entry):
        return standing
    request: dict[str, Any] = {
        "Name": _name(mlkey),
        "Type": "String",
        "Value": entry.model_dump_json(),
        "Description": f"askline: the MLKey {mlkey} is answered by {endpoint}"[:1024],
    }
    # Parameter Store takes tags only when it creates a parameter.
    creating = {"Tags": [{"Key": key, "Value": value} for key, value in (tags or {}).items()]} if tags else {}
    written = None
    try:
        if standing is None:
            # Another run may register the same MLKey meanwhile; then the later write counts, as it always does.
            with contextlib.suppress(ssm.exceptions.ParameterAlreadyExists):
                written = ssm.put_parameter(**request, **creating)
        if written is None:
            written = ssm.put_parameter(**request, Overwrite=True)
    except ClientError as error:
        raise _refused(f"write the registry entry {_name(mlkey)}", error) from error
    return entry.model_copy(update={"version": int(written["Version"])})


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
