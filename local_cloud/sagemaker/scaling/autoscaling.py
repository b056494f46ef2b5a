"""Application Auto Scaling, for SageMaker's variants: its API. What scales by it is in ``scaler.py``."""

import base64
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from local_cloud.sagemaker.api.validation import service_model, validate
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record, State

INSTANCES = "sagemaker:variant:DesiredInstanceCount"
PROVISIONED = "sagemaker:variant:DesiredProvisionedConcurrency"
#: Of each dimension, the predefined metric that a target tracking policy can follow.
PREDEFINED = {
    INSTANCES: "SageMakerVariantInvocationsPerInstance",
    PROVISIONED: "SageMakerVariantProvisionedConcurrencyUtilization",
}
_RESOURCE = re.compile(r"endpoint/([^/]+)/variant/([^/]+)")
_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
_PAGE = 50


class AutoScaling:
    """Answers ``AnyScaleFrontendService.<Operation>`` calls."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._settings = settings
        self._operations: dict[str, Callable[[Record], Awaitable[Record]]] = {
            "RegisterScalableTarget": self._register,
            "DeregisterScalableTarget": self._deregister,
            "DescribeScalableTargets": self._describe_targets,
            "PutScalingPolicy": self._put_policy,
            "DeleteScalingPolicy": self._delete_policy,
            "DescribeScalingPolicies": self._describe_policies,
            "DescribeScalingActivities": self._describe_activities,
        }

    async def call(self, operation: str, request: Any) -> Record:
        """Check a request against the service model and answer it.

        Raises
        ------
        ApiError
            With AWS's code, for whatever is wrong with it.
        """
        handler = self._operations.get(operation)
        if handler is None:
            raise ApiError(
                "UnknownOperationException",
                f"the embedded Application Auto Scaling does not offer {operation or 'a call without an operation'}; "
                f"it offers {', '.join(sorted(self._operations))}",
            )
        validate(service_model("application-autoscaling").operation_model(operation).input_shape, request)
        request = {name: value for name, value in request.items() if value is not None}
        if request["ServiceNamespace"] != "sagemaker":
            raise validation_error("The embedded Application Auto Scaling scales the namespace sagemaker only.")
        dimension = request.get("ScalableDimension", INSTANCES)
        if dimension not in PREDEFINED:
            raise validation_error(f"Unsupported scalable dimension: {dimension}; here there are {list(PREDEFINED)}.")
        return await handler(request)

    def scaled_variant(self, endpoint: str) -> str | None:
        """Return the variant of an endpoint that is registered as a scalable target, or None."""
        for target in self._state.all("scalable-target"):
            if parse_resource(target["ResourceId"])[0] == endpoint:
                return parse_resource(target["ResourceId"])[1]
        return None

    # -- targets -----------------------------------------------------------------------------------------------------

    async def _register(self, request: Record) -> Record:
        known = self._state.get("scalable-target", _target_id(request))
        resource, dimension = request["ResourceId"], request["ScalableDimension"]
        facts = self._variant(resource)
        serverless = "ServerlessConfig" in facts["Variant"]
        if serverless is not (dimension == PROVISIONED):
            raise validation_error(f"The scalable dimension {dimension} does not fit {resource}.")
        if known is None and not {"MinCapacity", "MaxCapacity"} <= request.keys():
            raise validation_error("MinCapacity and MaxCapacity are needed to register a scalable target.")
        settings = self._settings
        arn = f"arn:aws:application-autoscaling:{settings.region}:{settings.account}:scalable-target/"
        record = {
            "TargetId": _target_id(request),
            "ServiceNamespace": "sagemaker",
            "ResourceId": resource,
            "ScalableDimension": dimension,
            "RoleARN": f"arn:aws:iam::{settings.account}:role/aws-service-role/"
            f"sagemaker.application-autoscaling.amazonaws.com/{_ROLE}",
            "CreationTime": time.time(),
            "SuspendedState": {
                "DynamicScalingInSuspended": False,
                "DynamicScalingOutSuspended": False,
                "ScheduledScalingSuspended": False,
            },
            "ScalableTargetARN": arn + _target_id(request),
            **(known or {}),
        }
        for member in ("MinCapacity", "MaxCapacity", "RoleARN"):
            if member in request:
                record[member] = request[member]
        record["SuspendedState"] = record["SuspendedState"] | request.get("SuspendedState", {})
        least, most = record["MinCapacity"], record["MaxCapacity"]
        if not 0 <= least <= most:
            raise validation_error(f"Minimum capacity cannot be greater than maximum capacity: {least}, {most}.")
        if least == 0 and "AsyncInferenceConfig" not in facts:
            raise validation_error("Minimum capacity must be at least 1: only asynchronous endpoints scale to 0.")
        if serverless and most > (top := facts["Variant"]["ServerlessConfig"]["MaxConcurrency"]):
            raise validation_error(f"Maximum capacity cannot be greater than the MaxConcurrency of the variant, {top}.")
        self._state.put("scalable-target", record)
        return {"ScalableTargetARN": record["ScalableTargetARN"]}

    async def _deregister(self, request: Record) -> Record:
        target = self._target(request)
        for policy in self._state.all("scaling-policy"):
            if _target_id(policy) == target["TargetId"]:
                self._state.delete("scaling-policy", policy["PolicyId"])
        self._state.delete("scalable-target", target["TargetId"])
        return {}

    async def _describe_targets(self, request: Record) -> Record:
        found = [
            target
            for target in self._state.all("scalable-target")
            if target["ResourceId"] in request.get("ResourceIds", [target["ResourceId"]])
            and request.get("ScalableDimension") in (None, target["ScalableDimension"])
        ]
        return _page("ScalableTargets", found, "TargetId", request)

    def _target(self, request: Record) -> Record:
        target = self._state.get("scalable-target", _target_id(request))
        if target is None:
            raise ApiError(
                "ObjectNotFoundException",
                "No scalable target registered for service namespace: sagemaker, resource ID: "
                f"{request['ResourceId']}, scalable dimension: {request['ScalableDimension']}",
            )
        return target

    def _variant(self, resource: str) -> Record:
        endpoint, variant = parse_resource(resource)
        record = self._state.get("endpoint", endpoint)
        facts: Record | None = record and record.get("Active", record.get("Pending"))
        if record is None or facts is None or facts["Variant"]["VariantName"] != variant:
            raise validation_error(
                f"SageMaker variant doesn't exist: {resource}. There is no endpoint {endpoint} with that variant."
            )
        if record["EndpointStatus"] not in ("InService", "Updating", "RollingBack"):
            raise validation_error(f"The endpoint {endpoint} is not in service: it is {record['EndpointStatus']}.")
        return facts

    # -- policies ----------------------------------------------------------------------------------------------------

    async def _put_policy(self, request: Record) -> Record:
        self._target(request)
        policy_id = _policy_id(request)
        known = self._state.get("scaling-policy", policy_id) or {}
        kind = request.get("PolicyType", known.get("PolicyType", "StepScaling"))
        members = {
            "StepScaling": "StepScalingPolicyConfiguration",
            "TargetTrackingScaling": "TargetTrackingScalingPolicyConfiguration",
        }
        if kind not in members:
            raise validation_error(f"The embedded Application Auto Scaling does not offer the policy type {kind}.")
        if members[kind] not in request:
            raise validation_error(f"A policy of the type {kind} needs a {members[kind]}.")
        config = request[members[kind]]
        (_check_steps if kind == "StepScaling" else _check_tracking)(config, request["ScalableDimension"])
        settings, resource, name = self._settings, request["ResourceId"], request["PolicyName"]
        arn = (
            f"arn:aws:autoscaling:{settings.region}:{settings.account}:scalingPolicy:"
            f"{policy_id[:8]}-{policy_id[8:12]}-{policy_id[12:16]}-{policy_id[16:20]}-{policy_id[20:32]}"
            f":resource/sagemaker/{resource}:policyName/{name}"
        )
        self._state.put(
            "scaling-policy",
            {
                "PolicyId": policy_id,
                "PolicyARN": arn,
                "PolicyName": name,
                "ServiceNamespace": "sagemaker",
                "ResourceId": resource,
                "ScalableDimension": request["ScalableDimension"],
                "PolicyType": kind,
                members[kind]: config,
                "Alarms": [],
                "CreationTime": known.get("CreationTime", time.time()),
            },
        )
        return {"PolicyARN": arn, "Alarms": []}

    async def _delete_policy(self, request: Record) -> Record:
        if self._state.get("scaling-policy", _policy_id(request)) is None:
            raise ApiError(
                "ObjectNotFoundException",
                f"No scaling policy found for service namespace: sagemaker, resource ID: {request['ResourceId']}, "
                f"scalable dimension: {request['ScalableDimension']}, policy name: {request['PolicyName']}",
            )
        self._state.delete("scaling-policy", _policy_id(request))
        return {}

    async def _describe_policies(self, request: Record) -> Record:
        found = [
            policy
            for policy in self._state.all("scaling-policy")
            if policy["PolicyName"] in request.get("PolicyNames", [policy["PolicyName"]])
            and request.get("ResourceId") in (None, policy["ResourceId"])
            and request.get("ScalableDimension") in (None, policy["ScalableDimension"])
        ]
        return _page("ScalingPolicies", found, "PolicyId", request)

    async def _describe_activities(self, request: Record) -> Record:
        found = [
            activity
            for activity in self._state.all("scaling-activity")
            if request.get("ResourceId") in (None, activity["ResourceId"])
            and request.get("ScalableDimension") in (None, activity["ScalableDimension"])
        ]
        return _page("ScalingActivities", found, "StartTime", request, newest_first=True)


def parse_resource(resource: str) -> tuple[str, str]:
    """Return endpoint and variant of ``endpoint/NAME/variant/NAME``.

    Raises
    ------
    ApiError
        If it is of another form.
    """
    match = _RESOURCE.fullmatch(resource)
    if match is None:
        raise validation_error(f"Unsupported resource ID: {resource}; expected endpoint/NAME/variant/NAME.")
    return match[1], match[2]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _target_id(request: Record) -> str:
    return _digest(request["ResourceId"], request["ScalableDimension"])


def _policy_id(request: Record) -> str:
    return _digest(request["ResourceId"], request["ScalableDimension"], request["PolicyName"])


def _check_steps(config: Record, _dimension: str) -> None:
    steps = config.get("StepAdjustments")
    if "AdjustmentType" not in config or not steps:
        raise validation_error("A step scaling policy needs an AdjustmentType and StepAdjustments.")
    for step in steps:
        lower, upper = step.get("MetricIntervalLowerBound"), step.get("MetricIntervalUpperBound")
        if lower is None and upper is None and len(steps) > 1:
            raise validation_error("A step without bounds must be the only one.")
        if lower is not None and upper is not None and lower >= upper:
            raise validation_error(f"A step's lower bound {lower:g} must be less than its upper bound {upper:g}.")


def _check_tracking(config: Record, dimension: str) -> None:
    predefined, customized = config.get("PredefinedMetricSpecification"), config.get("CustomizedMetricSpecification")
    if bool(predefined) == bool(customized):
        raise validation_error("A target tracking policy follows one metric: a predefined or a customized one.")
    if config["TargetValue"] <= 0:
        raise validation_error(f"TargetValue must be greater than 0, not {config['TargetValue']:g}.")
    if predefined and predefined["PredefinedMetricType"] != PREDEFINED[dimension]:
        raise validation_error(
            f"{predefined['PredefinedMetricType']} cannot scale {dimension}; {PREDEFINED[dimension]} can."
        )
    if customized:
        if customized.get("Metrics"):
            raise validation_error("The embedded Application Auto Scaling does not offer metric math.")
        if missing := {"MetricName", "Namespace", "Statistic"} - customized.keys():
            raise validation_error(f"CustomizedMetricSpecification needs {', '.join(sorted(missing))}.")


def _page(member: str, found: list[Record], order: str, request: Record, *, newest_first: bool = False) -> Record:
    hidden = ("TargetId", "PolicyId")
    found = sorted(found, key=lambda record: record[order], reverse=newest_first)
    try:
        start = int(base64.b64decode(request.get("NextToken", "MA==")))
    except ValueError:
        raise ApiError("InvalidNextTokenException", "The NextToken is not one of this list.") from None
    end = start + min(request.get("MaxResults", _PAGE), _PAGE)
    shown = [{name: value for name, value in record.items() if name not in hidden} for record in found[start:end]]
    token = {"NextToken": base64.b64encode(str(end).encode()).decode()} if end < len(found) else {}
    return {member: shown} | token
