"""What Application Auto Scaling does by its policies: looks at metrics and alarms, and changes endpoints.

Target tracking is judged as AWS's alarms for it are: out, when the metric was above the target in each of the last 3
minutes; in, when it was below 90 % of it in each of the last 15. A minute without data is neither. A step policy acts
while an alarm that has the policy among its actions is in ALARM. ``--minute-seconds`` says how long a minute takes.
"""

import asyncio
import logging
import math
import time
import uuid

from local_cloud.sagemaker.alarms import Alarms
from local_cloud.sagemaker.api.control import resized
from local_cloud.sagemaker.api.quotas import Quotas
from local_cloud.sagemaker.errors import ApiError
from local_cloud.sagemaker.metrics import Metrics
from local_cloud.sagemaker.scaling.autoscaling import INSTANCES, parse_resource
from local_cloud.sagemaker.serving.async_inference import AsyncInference
from local_cloud.sagemaker.serving.deployment import Deployment, instance_count
from local_cloud.sagemaker.serving.endpoints import Endpoints
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State

log = logging.getLogger("local_cloud.sagemaker")

_OUT_MINUTES, _IN_MINUTES = 3, 15
_IN_SHARE = 0.9
_COOLDOWN_SECONDS = 300
_MOST_ACTIVITIES = 200
_PREDEFINED = {
    "SageMakerVariantInvocationsPerInstance": ("InvocationsPerInstance", "Sum"),
    "SageMakerVariantProvisionedConcurrencyUtilization": ("ServerlessProvisionedConcurrencyUtilization", "Maximum"),
}


class Scaler:
    """Samples what endpoints do, judges alarms, and scales."""

    def __init__(
        self,
        state: State,
        endpoints: Endpoints,
        settings: Settings,
        *,
        queue: AsyncInference,
        metrics: Metrics,
        alarms: Alarms,
        quotas: Quotas,
    ) -> None:
        self._state = state
        self._endpoints = endpoints
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._alarms = alarms
        self._quotas = quotas
        self._acted: dict[tuple[str, str], float] = {}
        self._deaf = False

    async def run(self) -> None:
        """Look and act a few times each minute, for ever."""
        while True:
            await asyncio.sleep(min(5.0, self._settings.minute_seconds / 4))
            try:
                self._sample()
                self._forget_deleted()
                await self._act()
            except Exception:
                log.exception("scaling failed; it is tried again")

    # -- what is sampled ---------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        for name, deployment in self._endpoints.deployments().items():
            if deployment.asynchronous:
                backlog, instances = self._queue.backlog(name), deployment.instances
                self._metrics.record("ApproximateBacklogSize", name, "", backlog)
                self._metrics.record("HasBacklogWithoutCapacity", name, "", float(backlog > 0 and not instances))
                if instances:  # without instances there is no such metric: it cannot wake an endpoint
                    self._metrics.record("ApproximateBacklogSizePerInstance", name, "", backlog / instances)
            self._sample_serverless(name, deployment)

    def _sample_serverless(self, name: str, deployment: Deployment) -> None:
        serverless = deployment.serverless
        if serverless:
            most, deployment.most_in_flight = deployment.most_in_flight, deployment.in_flight
            variant, all_of_it = deployment.variant, serverless["MaxConcurrency"]
            self._metrics.record("ServerlessConcurrentExecutionsUtilization", name, variant, most / all_of_it)
            if provisioned := serverless.get("ProvisionedConcurrency"):
                used = min(1.0, most / provisioned)
                self._metrics.record("ServerlessProvisionedConcurrencyUtilization", name, variant, used)

    def _forget_deleted(self) -> None:
        """A deleted endpoint takes its targets and policies along."""
        for kind, own in (("scalable-target", "TargetId"), ("scaling-policy", "PolicyId")):
            for record in self._state.all(kind):  # type: ignore[arg-type]
                endpoint = parse_resource(record["ResourceId"])[0]
                if self._state.get("endpoint", endpoint) is None:
                    self._state.delete(kind, record[own])  # type: ignore[arg-type]
                    self._metrics.forget(endpoint)

    # -- what is done ------------------------------------------------------------------------------------------------

    async def _act(self) -> None:
        policies = self._state.all("scaling-policy")
        if not policies:
            return
        alarms = await self._look() if any(p["PolicyType"] == "StepScaling" for p in policies) else {}
        for policy in policies:
            target = next(
                (
                    each
                    for each in self._state.all("scalable-target")
                    if each["ResourceId"] == policy["ResourceId"]
                    and each["ScalableDimension"] == policy["ScalableDimension"]
                ),
                None,
            )
            endpoint = parse_resource(policy["ResourceId"])[0]
            record = self._state.get("endpoint", endpoint)
            if target is None or record is None or record["EndpointStatus"] != "InService":
                continue
            current = _capacity(record["Active"], target)
            if policy["PolicyType"] == "StepScaling":
                wanted, cause = self._by_steps(policy, alarms, current)
            else:
                wanted, cause = self._by_target(policy, current)
            wanted = max(target["MinCapacity"], min(target["MaxCapacity"], wanted))
            if wanted != current and not self._waits(policy, target, out=wanted > current):
                self._scale(policy, target, record, wanted, cause)

    async def _look(self) -> dict[str, Record]:
        try:
            found = await self._alarms.look()
        except Exception as error:  # noqa: BLE001 - CloudWatch may be restarting
            if not self._deaf:
                log.warning("CloudWatch cannot be asked for alarms: %s", error)
            self._deaf = True
            return {}
        self._deaf = False
        return found

    def _by_steps(self, policy: Record, alarms: dict[str, Record], current: int) -> tuple[int, str]:
        config = policy["StepScalingPolicyConfiguration"]
        for alarm in alarms.values():
            if policy["PolicyARN"] in alarm.get("AlarmActions", []) and alarm["StateValue"] == "ALARM":
                breach = self._alarms.breach(alarm)
                for step in config["StepAdjustments"]:
                    lower = step.get("MetricIntervalLowerBound", -math.inf)
                    upper = step.get("MetricIntervalUpperBound", math.inf)
                    if lower <= breach < upper or lower < breach <= upper:
                        wanted = adjusted(current, config, step["ScalingAdjustment"])
                        return wanted, f"monitor alarm {alarm['AlarmName']} in state ALARM triggered policy"
        return current, ""

    def _by_target(self, policy: Record, current: int) -> tuple[int, str]:
        config = policy["TargetTrackingScalingPolicyConfiguration"]
        endpoint, variant = parse_resource(policy["ResourceId"])
        target = config["TargetValue"]
        if "PredefinedMetricSpecification" in config:
            metric, statistic = _PREDEFINED[config["PredefinedMetricSpecification"]["PredefinedMetricType"]]
        else:
            customized = config["CustomizedMetricSpecification"]
            metric, statistic = customized["MetricName"], customized["Statistic"]
            dimensions = {each["Name"]: each["Value"] for each in customized.get("Dimensions", [])}
            endpoint, variant = dimensions.get("EndpointName", ""), dimensions.get("VariantName", "")
        values = self._metrics.minutes(metric, endpoint, variant, statistic, _IN_MINUTES)
        high = [value for value in values[-_OUT_MINUTES:] if value is not None and value > target]
        low = [value for value in values if value is not None and value < _IN_SHARE * target]
        wanted = current
        if len(high) == _OUT_MINUTES:
            wanted = max(current + 1, math.ceil(current * high[-1] / target))
        elif len(low) == _IN_MINUTES and current and not config.get("DisableScaleIn"):
            wanted = min(current - 1, math.ceil(current * low[-1] / target))
        word = "high" if wanted > current else "low"
        return wanted, f"{metric} of {endpoint} was {word} against the target {target:g} of policy"

    def _waits(self, policy: Record, target: Record, *, out: bool) -> bool:
        """Say whether a cool-down, or the target's suspension, holds this back."""
        if target["SuspendedState"]["DynamicScalingOutSuspended" if out else "DynamicScalingInSuspended"]:
            return True
        tracking = policy.get("TargetTrackingScalingPolicyConfiguration", {})
        step = policy.get("StepScalingPolicyConfiguration", {})
        own = step.get("Cooldown") if step else tracking.get("ScaleOutCooldown" if out else "ScaleInCooldown")
        cooldown = self._settings.waiting(_COOLDOWN_SECONDS if own is None else own)
        last_out = self._acted.get((target["TargetId"], "out"), -math.inf)
        last_in = self._acted.get((target["TargetId"], "in"), -math.inf)
        # Scaling out ends a cool-down of scaling in: availability first, as AWS has it.
        return time.monotonic() < (last_out if out else max(last_out, last_in)) + cooldown

    def _scale(self, policy: Record, target: Record, record: Record, wanted: int, cause: str) -> None:
        current, now = _capacity(record["Active"], target), time.time()
        name, instances = record["EndpointName"], target["ScalableDimension"] == INSTANCES
        noun = "desired instance count" if instances else "desired provisioned concurrency"
        activity: Record = {
            "ActivityId": str(uuid.uuid4()),
            "ServiceNamespace": "sagemaker",
            "ResourceId": target["ResourceId"],
            "ScalableDimension": target["ScalableDimension"],
            "Description": f"Setting {noun} to {wanted}.",
            "Cause": f"{cause} {policy['PolicyName']}",
            "StartTime": now,
            "EndTime": now,
            "StatusCode": "Successful",
            "StatusMessage": f"Successfully set {noun} to {wanted}. Change successfully fulfilled by sagemaker.",
        }
        change = {"DesiredInstanceCount": wanted} if instances else {}
        try:
            facts = resized(record["Active"], change | _provisioned(record["Active"], wanted, instances))
            if wanted > current:
                self._quotas.check(name, facts["Variant"], wanted - current)
            self._endpoints.resize(name, facts)
        except ApiError as error:
            activity |= {"StatusCode": "Failed", "StatusMessage": f"Failed to set {noun} to {wanted}: {error}"}
        log.info("%s: %s %s", name, activity["StatusMessage"], activity["Cause"])
        self._acted[target["TargetId"], "out" if wanted > current else "in"] = time.monotonic()
        self._keep(activity)

    def _keep(self, activity: Record) -> None:
        self._state.put("scaling-activity", activity)
        known = sorted(self._state.all("scaling-activity"), key=lambda each: each["StartTime"])
        for old in known[:-_MOST_ACTIVITIES]:
            self._state.delete("scaling-activity", old["ActivityId"])


def _capacity(facts: Record, target: Record) -> int:
    if target["ScalableDimension"] == INSTANCES:
        return instance_count(facts)
    return int(facts["Variant"]["ServerlessConfig"].get("ProvisionedConcurrency", 0))


def _provisioned(facts: Record, wanted: int, instances: bool) -> Record:
    if instances:
        return {}
    return {"ServerlessUpdateConfig": {"ProvisionedConcurrency": wanted}}


def adjusted(current: int, config: Record, adjustment: int) -> int:
    """Return the capacity after one step of a step scaling policy, before the target's bounds."""
    match config["AdjustmentType"]:
        case "ExactCapacity":
            return adjustment
        case "PercentChangeInCapacity":
            change = current * adjustment / 100
            # AWS rounds a change towards zero, but never to no change at all.
            change = math.copysign(max(1, math.floor(abs(change))), change) if change else 0
            least = config.get("MinAdjustmentMagnitude", 0)
            return current + int(math.copysign(max(abs(change), least), adjustment))
    return current + adjustment
