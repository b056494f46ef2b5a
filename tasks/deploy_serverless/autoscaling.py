"""Autoscaling of endpoints: what is registered with Application Auto Scaling, and the alarm that wakes an async one.

::

    ensure("serv-hf-endpoint-biography", scaling, target=target, tags=tags)
    remove("serv-hf-endpoint-biography", target=target)

Every call may be made twice: registering and putting a policy replace what is there.
"""

from typing import Any

from askline.clients import aws_client
from askline.errors import DeployError
from askline.records import Scaling, Target
from tasks.aws.errors import code_of, explained
from tasks.aws.names import VARIANT

_SERVICE = "application-autoscaling"
_INSTANCES = "sagemaker:variant:DesiredInstanceCount"
_PROVISIONED = "sagemaker:variant:DesiredProvisionedConcurrency"
_BACKLOG = "ApproximateBacklogSizePerInstance"
_PREDEFINED = {
    "invocations": "SageMakerVariantInvocationsPerInstance",
    "utilisation": "SageMakerVariantProvisionedConcurrencyUtilization",
}
#: Ends of the names of the policies, which begin with the endpoint's name.
TRACKING, WAKE = "-follow-demand", "-wake-up"


def resource_id(endpoint: str) -> str:
    """Return what Application Auto Scaling calls the endpoint's variant."""
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def alarm_name(endpoint: str) -> str:
    """Return the name of the alarm that wakes the endpoint."""
    return f"askline-{endpoint}-has-backlog"


def ensure(endpoint: str, scaling: Scaling, *, target: Target, tags: dict[str, str]) -> None:
    """Let the endpoint scale as ``scaling`` says; what it says already is left as it is.

    An async endpoint scales by its backlog for each instance. Without instances that metric does not exist, so one
    that may sleep gets a second policy, which an alarm on HasBacklogWithoutCapacity sets off: zero to one.

    Raises
    ------
    DeployError
        If AWS refuses.
    """
    if read(endpoint, target=target) == scaling:
        return
    client = aws_client(target, _SERVICE)
    dimension = _PROVISIONED if scaling.by == "utilisation" else _INSTANCES
    variant = {"ServiceNamespace": "sagemaker", "ResourceId": resource_id(endpoint), "ScalableDimension": dimension}
    wakes = scaling.by == "backlog" and scaling.min == 0
    with explained(f"let {endpoint} scale from {scaling.min} to {scaling.max}", error_type=DeployError):
        client.register_scalable_target(**variant, MinCapacity=scaling.min, MaxCapacity=scaling.max)
        client.put_scaling_policy(
            **variant,
            PolicyName=endpoint + TRACKING,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=_tracking(endpoint, scaling),
        )
        if wakes:
            step = {
                "AdjustmentType": "ChangeInCapacity",
                "MetricAggregationType": "Average",
                "Cooldown": scaling.scale_in_seconds,
                "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
            }
            policy = client.put_scaling_policy(
                **variant, PolicyName=endpoint + WAKE, PolicyType="StepScaling", StepScalingPolicyConfiguration=step
            )["PolicyARN"]
            _put_alarm(endpoint, policy, target, tags)
    if not wakes and endpoint + WAKE in _policies(client, endpoint):
        _delete_alarm(endpoint, target)
        with explained(f"delete the policy {endpoint}{WAKE}", error_type=DeployError):
            client.delete_scaling_policy(PolicyName=endpoint + WAKE, **variant)


def _tracking(endpoint: str, scaling: Scaling) -> dict[str, Any]:
    tracking: dict[str, Any] = {
        "TargetValue": scaling.value,
        "ScaleOutCooldown": scaling.scale_out_seconds,
        "ScaleInCooldown": scaling.scale_in_seconds,
    }
    if scaling.by == "backlog":
        tracking["CustomizedMetricSpecification"] = {
            "MetricName": _BACKLOG,
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
            "Statistic": "Average",
        }
    else:
        tracking["PredefinedMetricSpecification"] = {"PredefinedMetricType": _PREDEFINED[scaling.by]}
    return tracking


def _put_alarm(endpoint: str, policy_arn: str, target: Target, tags: dict[str, str]) -> None:
    aws_client(target, "cloudwatch").put_metric_alarm(
        AlarmName=alarm_name(endpoint),
        AlarmDescription=f"Requests wait for {endpoint}, and no instance runs: wakes it",
        Namespace="AWS/SageMaker",
        MetricName="HasBacklogWithoutCapacity",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=2,
        DatapointsToAlarm=2,
        Threshold=1.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="missing",
        AlarmActions=[policy_arn],
        Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
    )


def _policies(client: Any, endpoint: str) -> dict[str, dict[str, Any]]:
    with explained(f"look up how {endpoint} scales", error_type=DeployError):
        found = client.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=resource_id(endpoint))
    return {policy["PolicyName"]: policy for policy in found["ScalingPolicies"]}


def _delete_alarm(endpoint: str, target: Target) -> None:
    with explained(f"delete the alarm {alarm_name(endpoint)}", error_type=DeployError):
        # A name that is not there is no error.
        aws_client(target, "cloudwatch").delete_alarms(AlarmNames=[alarm_name(endpoint)])


def read(endpoint: str, *, target: Target) -> Scaling | None:
    """Return how the endpoint scales; None if it does not, or not in a way that this module made.

    Raises
    ------
    DeployError
        If AWS refuses.
    """
    if not _offered(target):
        return None
    client = aws_client(target, _SERVICE)
    with explained(f"look up how {endpoint} scales", error_type=DeployError):
        found = _registered(client, endpoint)
        if not found:
            return None
    named = _policies(client, endpoint)
    tracking = named.get(endpoint + TRACKING, {}).get("TargetTrackingScalingPolicyConfiguration")
    if tracking is None:
        return None
    metric = tracking.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
    scaling = Scaling(
        by=next((by for by, name in _PREDEFINED.items() if name == metric), "backlog"),  # type: ignore[arg-type]
        value=tracking["TargetValue"],
        min=found[0]["MinCapacity"],
        max=found[0]["MaxCapacity"],
        scale_out_seconds=tracking.get("ScaleOutCooldown", 0),
        scale_in_seconds=tracking.get("ScaleInCooldown", 0),
    )
    asleep_for_ever = scaling.by == "backlog" and scaling.min == 0 and not _wakes(endpoint, named, target)
    return None if asleep_for_ever else scaling


def _wakes(endpoint: str, policies: dict[str, Any], target: Target) -> bool:
    """Say whether policy and alarm are both there: a run may have been killed between the two."""
    policy = policies.get(endpoint + WAKE)
    if policy is None:
        return False
    with explained(f"look up the alarm {alarm_name(endpoint)}", error_type=DeployError):
        alarms = aws_client(target, "cloudwatch").describe_alarms(AlarmNames=[alarm_name(endpoint)])["MetricAlarms"]
    return any(policy["PolicyARN"] in alarm.get("AlarmActions", ()) for alarm in alarms)


def remove(endpoint: str, *, target: Target) -> bool:
    """Let the endpoint scale no more; False if it did not. Its policies, and their alarms, go with the registration.

    The alarm of our own goes first: as long as anything is registered, the next call finds both.

    Raises
    ------
    DeployError
        If AWS refuses.
    """
    from botocore.exceptions import ClientError

    if not _offered(target):
        return False
    client = aws_client(target, _SERVICE)
    with explained(f"look up how {endpoint} scales", error_type=DeployError):
        registered = _registered(client, endpoint)
    if any(found["ScalableDimension"] == _INSTANCES for found in registered):
        _delete_alarm(endpoint, target)
    with explained(f"stop the scaling of {endpoint}", error_type=DeployError):
        for found in registered:
            try:
                client.deregister_scalable_target(
                    ServiceNamespace="sagemaker",
                    ResourceId=found["ResourceId"],
                    ScalableDimension=found["ScalableDimension"],
                )
            except ClientError as error:
                if code_of(error) != "ObjectNotFoundException":
                    raise
    return bool(registered)


def read_if_allowed(endpoint: str, *, target: Target) -> Scaling | None:
    """Return how the endpoint scales, or None where whoever asks may not look: then the pipeline scales nothing there.

    Raises
    ------
    DeployError
        If AWS cannot be reached.
    """
    try:
        return read(endpoint, target=target)
    except DeployError as error:
        if error.retryable:
            raise
        return None


def remove_if_allowed(endpoint: str, *, target: Target) -> bool:
    """Let the endpoint scale no more, unless one may not even look.

    Raises
    ------
    DeployError
        If AWS cannot be reached, or it scales and refuses to stop.
    """
    if not _offered(target):
        return False
    try:
        with explained(f"look up how {endpoint} scales", error_type=DeployError):
            registered = _registered(aws_client(target, _SERVICE), endpoint)
    except DeployError as error:
        if error.retryable:
            raise
        return False
    return bool(registered) and remove(endpoint, target=target)


def registered_endpoints(*, target: Target) -> tuple[str, ...]:
    """Return the endpoints, there or gone, that scale by a policy of this module's.

    Raises
    ------
    DeployError
        If AWS refuses.
    """
    if not _offered(target):
        return ()
    client = aws_client(target, _SERVICE)
    with explained("list what scales (application-autoscaling:Describe*)", error_type=DeployError):
        pages = client.get_paginator("describe_scaling_policies").paginate(ServiceNamespace="sagemaker")
        policies = [policy for page in pages for policy in page["ScalingPolicies"]]
    names = {policy["ResourceId"].split("/")[1] for policy in policies if policy["PolicyName"].endswith(TRACKING)}
    return tuple(sorted(name for name in names if any(policy["PolicyName"] == name + TRACKING for policy in policies)))


def _registered(client: Any, endpoint: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource_id(endpoint)]
    )["ScalableTargets"]
    return found


def _offered(target: Target) -> bool:
    """An embedded cloud of an earlier version scales nothing."""
    return target.kind == "aws" or _SERVICE in target.endpoints
