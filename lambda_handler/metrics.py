"""What CloudWatch counts: one line of the embedded metric format for each call of the function, and no call to AWS.

On where ``POWERTOOLS_METRICS_NAMESPACE`` is set; the one dimension is ``service``. Alarms and dashboards stand on these
names, so they are part of the API.
"""

import os
from typing import Final, Protocol

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from lambda_handler.problem import Kind

#: Metrics, their units and what they count.
METRICS: Final[dict[str, tuple[MetricUnit, str]]] = {
    "Answered": (MetricUnit.Count, "questions answered, abstentions included"),
    "Abstained": (MetricUnit.Count, "questions to which the model said that it does not know"),
    "Refused": (MetricUnit.Count, "requests refused as wrong (4xx but 429)"),
    "Throttled": (MetricUnit.Count, "429: the endpoint's concurrency was used up"),
    "NotReady": (MetricUnit.Count, "503: the endpoint, or the registry, was not ready in time"),
    "ModelFailed": (MetricUnit.Count, "502: the model failed or gave no usable answer"),
    "ModelTimeout": (MetricUnit.Count, "504: the model took too long"),
    "Internal": (MetricUnit.Count, "500: a permission, a registry entry or this code is wrong"),
    "ModelSeconds": (MetricUnit.Seconds, "from asking the endpoint to its answer, pauses included"),
    "ColdWaits": (MetricUnit.Count, "pauses taken because an endpoint was starting"),
}
_BY_KIND: Final[dict[Kind, str]] = {
    "throttled": "Throttled",
    "not-ready": "NotReady",
    "model-failed": "ModelFailed",
    "model-timeout": "ModelTimeout",
    "internal": "Internal",
}


class Metrics(Protocol):
    """Where the numbers of one call go."""

    def add(self, name: str, value: float = 1) -> None:
        """Add to one of :data:`METRICS`."""

    def flush(self) -> None:
        """Write what was added and forget it. Never raises."""


def of_problem(kind: Kind) -> str:
    """Return the metric that counts a kind of problem."""
    return _BY_KIND.get(kind, "Refused")


def from_environment(*, service: str, logger: Logger) -> Metrics:
    """Return the metrics that the environment asks for."""
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "").strip()
    return EmbeddedMetrics(namespace, service=service, logger=logger) if namespace else NoMetrics()


class NoMetrics:
    """Numbers that nobody asked for."""

    def add(self, name: str, value: float = 1) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing is there."""


class EmbeddedMetrics:
    """Powertools' metrics, on the function's standard output."""

    def __init__(self, namespace: str, *, service: str, logger: Logger) -> None:
        self._metrics = EphemeralMetrics(namespace=namespace, service=service)
        self._logger = logger
        self._empty = True

    def add(self, name: str, value: float = 1) -> None:
        """Add to one of :data:`METRICS`."""
        self._metrics.add_metric(name=name, unit=METRICS[name][0], value=value)
        self._empty = False

    def flush(self) -> None:
        """Write what was added and forget it. Never raises: an answer is worth more than its count."""
        if self._empty:
            return
        self._empty = True
        try:
            self._metrics.flush_metrics()
        except Exception:
            self._logger.exception("the metrics could not be written")
