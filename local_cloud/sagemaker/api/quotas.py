"""Service Quotas: what an account may have of SageMaker, asked for by clients and held against what is created.

``quotas.json`` beside this file has the defaults. A file of the same name in the state folder, name to number, changes
them; it is read at each use, so that a person (or a test) can change it while the service runs::

    {"ml.m5.xlarge for endpoint usage": 0}
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.api.validation import service_model, validate
from local_cloud.sagemaker.errors import ApiError, StateError
from local_cloud.sagemaker.instances import listed_types
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State

_DEFAULTS = Path(__file__).with_name("quotas.json")
_SERVICE = "sagemaker"
_PAGE = 100

CONCURRENCY = "Maximum total concurrency that can be allocated across all serverless endpoints"
MEMORY = "Memory size in MB per serverless endpoint"


def for_endpoints(instance_type: str) -> str:
    """Return the name of the quota of an instance type."""
    return f"{instance_type} for endpoint usage"


@cache
def _defaults() -> dict[str, tuple[str, float]]:
    """Return code and value by name."""
    known: Record = json.loads(_DEFAULTS.read_text(encoding="utf-8"))
    entries: dict[str, Record] = {for_endpoints(name): {} for name in listed_types()} | known["quotas"]
    few: float = known["instances_per_endpoint_type"]
    return {
        name: (each["code"] if "code" in each else _code(name), each.get("value", few))
        for name, each in entries.items()
    }


def _code(name: str) -> str:
    return "L-" + hashlib.sha256(name.encode()).hexdigest()[:8].upper()


class Quotas:
    """Answers Service Quotas, and says what is too much."""

    def __init__(self, settings: Settings, state: State) -> None:
        self._settings = settings
        self._state = state
        self._file = settings.state_dir / "quotas.json"
        self.applied()  # a damaged file stops the start

    def applied(self) -> dict[str, float]:
        """Return the value of each quota by name.

        Raises
        ------
        StateError
            If the file in the state folder cannot be read.
        """
        values = {name: value for name, (_, value) in _defaults().items()}
        try:
            changed = json.loads(self._file.read_text(encoding="utf-8"))
            return values | {str(name): float(value) for name, value in changed.items()}
        except FileNotFoundError:
            return values
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StateError(
                f"{self._file} cannot be read ({error!r}): expected a JSON object of quota names and numbers; "
                "correct it, or delete it for the defaults"
            ) from error

    # -- the service -------------------------------------------------------------------------------------------------

    async def call(self, operation: str, request: Any) -> Record:
        """Check a request against the service model and answer it.

        Raises
        ------
        ApiError
            With AWS's code, for whatever is wrong with it.
        """
        operations = {
            "GetServiceQuota": self._get,
            "GetAWSDefaultServiceQuota": self._get,
            "ListServiceQuotas": self._list,
            "ListAWSDefaultServiceQuotas": self._list,
        }
        if operation not in operations:
            raise ApiError(
                "UnknownOperationException",
                f"the embedded Service Quotas does not offer {operation or 'a call without an operation'}; "
                f"it offers {', '.join(sorted(operations))}. Change {self._file} to change a quota",
            )
        validate(service_model("service-quotas").operation_model(operation).input_shape, request)
        if request["ServiceCode"] != _SERVICE:
            raise ApiError("NoSuchResourceException", f"The embedded Service Quotas knows {_SERVICE} only.")
        values = {name: value for name, (_, value) in _defaults().items()}
        return operations[operation](request, values if "Default" in operation else self.applied())

    def _get(self, request: Record, values: dict[str, float]) -> Record:
        for name, value in values.items():
            shown = self._shown(name, value)
            if shown["QuotaCode"] == request["QuotaCode"]:
                return {"Quota": shown}
        raise ApiError("NoSuchResourceException", f"The quota code {request['QuotaCode']} is not one of {_SERVICE}.")

    def _list(self, request: Record, values: dict[str, float]) -> Record:
        try:
            start = int(base64.b64decode(request.get("NextToken", "MA==")))
        except ValueError:
            raise ApiError("InvalidPaginationTokenException", "The NextToken is not one of this list.") from None
        found = [self._shown(name, value) for name, value in sorted(values.items())]
        found = [each for each in found if request.get("QuotaCode") in (None, each["QuotaCode"])]
        end = start + request.get("MaxResults", _PAGE)
        token = {"NextToken": base64.b64encode(str(end).encode()).decode()} if end < len(found) else {}
        return {"Quotas": found[start:end]} | token

    def _shown(self, name: str, value: float) -> Record:
        code = _defaults().get(name, (_code(name), 0))[0]
        arn = f"arn:aws:servicequotas:{self._settings.region}:{self._settings.account}:{_SERVICE}/{code}"
        return {
            "ServiceCode": _SERVICE,
            "ServiceName": "Amazon SageMaker",
            "QuotaArn": arn,
            "QuotaCode": code,
            "QuotaName": name,
            "Value": value,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
            "QuotaAppliedAtLevel": "ACCOUNT",
        }

    # -- what is too much --------------------------------------------------------------------------------------------

    def check(self, endpoint: str, variant: Record, count: int) -> None:
        """Hold what an endpoint is about to have against the quotas.

        Instances are counted beside those that run, the endpoint's own included, because an update starts the new
        ones beside the old; a serverless endpoint's concurrency takes the place of what it had.

        Raises
        ------
        ApiError
            ``ResourceLimitExceeded``, worded as AWS does.
        """
        limits = self.applied()
        serverless = variant.get("ServerlessConfig")
        if serverless:
            used = sum(
                part["Variant"]["ServerlessConfig"]["MaxConcurrency"]
                for name, part in self._deployed()
                if name != endpoint and "ServerlessConfig" in part["Variant"]
            )
            _hold(MEMORY, limits[MEMORY], 0, serverless["MemorySizeInMB"], "MBs")
            _hold(CONCURRENCY, limits[CONCURRENCY], used, serverless["MaxConcurrency"], "")
            return
        kind = variant["InstanceType"]
        used = sum(
            part.get("InstanceCount", part["Variant"]["InitialInstanceCount"])
            for _, part in self._deployed()
            if part["Variant"].get("InstanceType") == kind
        )
        quota = for_endpoints(kind)
        _hold(quota, limits.get(quota, 0), used, count, "Instances")

    def _deployed(self) -> list[tuple[str, Record]]:
        return [
            (record["EndpointName"], record[part])
            for record in self._state.all("endpoint")
            for part in ("Active", "Pending")
            if part in record
        ]


def _hold(quota: str, limit: float, used: int, wanted: int, unit: str) -> None:
    if used + wanted > limit:
        unit = f" {unit}" if unit else ""
        raise ApiError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{quota}' is {limit:g}{unit}, with current utilization of {used}{unit} "
            f"and a request delta of {wanted}{unit}. Please use AWS Service Quotas to request an increase for this "
            "quota. If AWS Service Quotas is not available, contact AWS support to request an increase for this quota.",
        )
