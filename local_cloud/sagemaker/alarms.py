"""CloudWatch alarms: read from the embedded cloud's CloudWatch, and judged here where they watch this service.

The embedded CloudWatch holds no metrics of SageMaker. So an alarm on a metric of ``AWS/SageMaker`` is judged on the
metrics of this service, and its state set there when the judgement changes; in between, a state that a person set
stands. All other alarms are as CloudWatch says.
"""

import asyncio
import logging
from typing import Any

from local_cloud.sagemaker.metrics import Metrics
from local_cloud.sagemaker.state import Record

log = logging.getLogger("local_cloud.sagemaker")

_NAMESPACE = "AWS/SageMaker"


class Alarms:
    """What alarms there are, and in which state."""

    def __init__(self, cloudwatch: Any, metrics: Metrics) -> None:
        self._cloudwatch = cloudwatch
        self._metrics = metrics
        self._judged: dict[str, str] = {}

    async def look(self, names: list[str] | None = None) -> dict[str, Record]:
        """Judge our own alarms anew and return alarms by name, all or those named, metric and composite ones.

        Raises
        ------
        botocore.exceptions.ClientError, BotoCoreError
            If CloudWatch does not answer.
        """
        found = await asyncio.to_thread(self._describe, names)
        for alarm in found.values():
            state = self._judge(alarm)
            new = state != self._judged.get(alarm["AlarmName"]) or alarm["StateValue"] == "INSUFFICIENT_DATA"
            if state is not None and new:
                self._judged[alarm["AlarmName"]] = state
                if state != alarm["StateValue"]:
                    alarm["StateValue"] = state
                    await asyncio.to_thread(self._set_state, alarm["AlarmName"], state)
        return found

    def breach(self, alarm: Record) -> float:
        """Return by how much the alarm's metric is over (or under) its threshold; 0 where that is not known."""
        values = [value for value in self._values(alarm, 1) if value is not None]
        return values[-1] - alarm["Threshold"] if values else 0.0

    def _describe(self, names: list[str] | None) -> dict[str, Record]:
        request: Record = {"AlarmTypes": ["MetricAlarm", "CompositeAlarm"]}
        if names is not None:
            request["AlarmNames"] = names
        found = {}
        for page in self._cloudwatch.get_paginator("describe_alarms").paginate(**request):
            for alarm in [*page.get("MetricAlarms", []), *page.get("CompositeAlarms", [])]:
                found[alarm["AlarmName"]] = alarm
        return found

    def _set_state(self, name: str, state: str) -> None:
        log.info("alarm %s: %s", name, state)
        reason = "judged by the embedded SageMaker on its own metrics"
        self._cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason=reason)

    def _values(self, alarm: Record, periods: int) -> list[float | None]:
        if alarm.get("Namespace") != _NAMESPACE or "Statistic" not in alarm:
            return []
        dimensions = {each["Name"]: each["Value"] for each in alarm.get("Dimensions", [])}
        endpoint, variant = dimensions.get("EndpointName", ""), dimensions.get("VariantName", "")
        minutes = alarm.get("Period", 60) / 60
        metric, statistic = alarm["MetricName"], alarm["Statistic"]
        return self._metrics.minutes(metric, endpoint, variant, statistic, periods, minutes=minutes)

    def _judge(self, alarm: Record) -> str | None:
        """Return the state by our own metrics; None for "as it was"."""
        periods = int(alarm.get("EvaluationPeriods", 1))
        values = self._values(alarm, periods)
        missing = alarm.get("TreatMissingData", "missing")
        if not values or (missing in ("missing", "ignore") and all(value is None for value in values)):
            return None
        breaching = 0
        for value in values:
            if value is None:
                breaching += missing == "breaching"
            else:
                breaching += _breaches(value, alarm["ComparisonOperator"], alarm["Threshold"])
        return "ALARM" if breaching >= int(alarm.get("DatapointsToAlarm") or periods) else "OK"


def _breaches(value: float, operator: str, threshold: float) -> bool:
    match operator:
        case "GreaterThanOrEqualToThreshold":
            return value >= threshold
        case "GreaterThanThreshold":
            return value > threshold
        case "LessThanThreshold":
            return value < threshold
        case "LessThanOrEqualToThreshold":
            return value <= threshold
    return False
