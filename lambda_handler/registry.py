"""Which MLKeys there are, and the endpoint and model version behind each: the allow-list of the API.

An entry is an SSM parameter ``<path>/<MLKey>`` with a JSON value; whoever promotes a model writes it once. It is read
through Powertools' cache, so that a promotion is seen within seconds and the usual question costs no call.
"""

from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parameters import SSMProvider
from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError, TransformParameterError
from botocore.exceptions import ClientError

from lambda_handler.problem import Problem

#: Seconds that an entry is served from memory: how long a promotion may take to be seen.
MAX_AGE_SECONDS = 5
#: Seconds after which a caller may try again when the registry cannot be read.
RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One MLKey: what answers for it, and how good that is."""

    mlkey: str
    endpoint: str
    model_version: str
    dataset: str | None
    exact_match: float | None
    promoted_at: str | None
    target_model: str | None = None
    """Which of the endpoint's models is asked, where it has several: the archive's name below its folder."""


class Registry:
    """The registry, read-only.

    Parameters
    ----------
    path
        SSM path of the entries, such as ``/askline/registry``.
    provider
        Powertools' reader of SSM parameters.
    """

    def __init__(self, path: str, provider: SSMProvider, *, logger: Logger, max_age: int = MAX_AGE_SECONDS) -> None:
        self._path = path.rstrip("/")
        self._provider = provider
        self._logger = logger
        self._max_age = max_age
        self._last_known: dict[str, Entry] = {}

    def find(self, mlkey: str) -> Entry:
        """Return the entry of an MLKey whose form has been checked.

        When Parameter Store cannot be asked (its default limit is 40 calls a second for the whole account), the entry
        that was read last goes on serving.

        Raises
        ------
        Problem
            ``unknown-mlkey``; ``not-ready`` if the registry cannot be read; ``internal`` if the entry is broken.
        """
        try:
            value = self._provider.get(f"{self._path}/{mlkey}", max_age=self._max_age, transform="json")
        except TransformParameterError:
            value = None
        except GetParameterError as error:
            if _code(error) == "ParameterNotFound":
                self._last_known.pop(mlkey, None)
                raise Problem("unknown-mlkey", f"No model is registered as {mlkey}; GET /models lists them.") from None
            self._logger.warning("the registry cannot be read", extra={"mlkey": mlkey, "error": str(error)})
            if mlkey in self._last_known:
                return self._last_known[mlkey]
            raise _unreadable() from None
        entry = _entry(mlkey, value)
        if entry is None:
            self._logger.error("the registry entry is broken", extra={"mlkey": mlkey})
            raise Problem(
                "internal", f"The registry's entry for {mlkey} is broken; whoever runs this API must promote it again."
            )
        self._last_known[mlkey] = entry
        return entry

    def all(self) -> list[Entry]:
        """Return every whole entry, sorted by MLKey.

        Raises
        ------
        Problem
            ``not-ready`` if the registry cannot be read.
        """
        try:
            values = self._provider.get_multiple(self._path, max_age=self._max_age, transform="json")
        except GetParameterError as error:
            self._logger.warning("the registry cannot be read", extra={"error": str(error)})
            raise _unreadable() from None
        entries = (_entry(mlkey, value) for mlkey, value in sorted(values.items()))
        return [entry for entry in entries if entry is not None]


def _unreadable() -> Problem:
    return Problem(
        "not-ready",
        "The registry of models cannot be read at the moment; try again.",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _code(error: GetParameterError) -> str:
    """Return AWS's error code; Powertools keeps the original only as the context of its own."""
    cause = error.__cause__ or error.__context__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def _entry(mlkey: str, value: Any) -> Entry | None:
    """Return the entry, or None where the value is not one."""
    if not isinstance(value, dict) or value.get("mlkey") != mlkey:
        return None
    endpoint, version, exact_match = (value.get(name) for name in ("endpoint", "model_version", "exact_match"))
    target_model = value.get("target_model")
    if not (isinstance(endpoint, str) and endpoint and isinstance(version, str)):
        return None
    return Entry(
        mlkey=mlkey,
        endpoint=endpoint,
        model_version=version,
        dataset=value.get("dataset"),
        exact_match=float(exact_match) if isinstance(exact_match, int | float) else None,
        promoted_at=value.get("promoted_at"),
        target_model=target_model if isinstance(target_model, str) else None,
    )
