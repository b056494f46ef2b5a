"""Whether the account's quotas leave room for the endpoint, beside what is deployed already.

Quotas are found by their names: their codes are not documented for all. Where Service Quotas does not list one (the
memory of a serverless endpoint has been met missing), it is not checked.
"""

import re
from collections.abc import Iterator
from typing import Any

from askline.config import PipelineConfig
from askline.records import DeployPlan, PreflightCheck, Target
from tasks.aws.errors import is_missing
from tasks.aws.names import named_by
from tasks.preflight.checks import Checks, bad, good, looking, made, unknown

_MEMORY = re.compile(r"memory size in mb per serverless endpoint", re.IGNORECASE)
_CONCURRENCY = re.compile(r"maximum total concurrency .*across all serverless endpoints", re.IGNORECASE)
_ENDPOINTS = re.compile(r"(maximum )?number of serverless endpoints.*", re.IGNORECASE)


def other_names(plan: DeployPlan, *, target: Target) -> Checks:
    """Yield whether another endpoint's name differs from the planned one in capital letters only.

    SageMaker does not tell such names apart, and says so at the last moment in words that help nobody.
    """
    yield from made("endpoint's name", _alike(plan, target), "sagemaker:ListEndpoints")


def _alike(plan: DeployPlan, target: Target) -> Checks:
    name = plan.endpoint_name
    pages = looking(target, "sagemaker").get_paginator("list_endpoints").paginate()
    others = [each["EndpointName"] for page in pages for each in page["Endpoints"]]
    alike = next((each for each in others if each != name and each.lower() == name.lower()), None)
    if alike is None:
        yield good("endpoint's name", "no other one differs in capital letters only")
    else:
        yield bad(
            "endpoint's name",
            f"{alike} is there, and SageMaker does not tell capital letters from small ones in endpoints' names",
            f"set deploy.mlkey to {named_by(alike)}, or to a name that differs in more",
        )


def quota_checks(config: PipelineConfig, plan: DeployPlan, *, target: Target) -> Checks:
    """Yield whether each quota that the endpoint counts for is large enough for it."""
    check = _instances if config.deploy.target != "serverless" else _serverless
    yield from made("quota", check(config, plan, target), "servicequotas:ListServiceQuotas, sagemaker:List*")


def _serverless(config: PipelineConfig, plan: DeployPlan, target: Target) -> Checks:
    quotas = _quotas(target)
    deploy = config.deploy
    yield _compared(
        "quota: memory",
        _value(quotas, _MEMORY),
        wanted=plan.serving.memory_mb or 0,
        used=0,
        unit="MB for one serverless endpoint",
        remedy="deploy.memory_mb, where a smaller tier holds the model",
    )
    concurrency, endpoints = _value(quotas, _CONCURRENCY), _value(quotas, _ENDPOINTS)
    others = list(_others(plan, target)) if concurrency is not None or endpoints is not None else []
    yield _compared(
        "quota: concurrency",
        concurrency,
        wanted=deploy.max_concurrency,
        used=sum(most for _, most in others),
        unit="answers at once, of all serverless endpoints together",
        remedy="deploy.max_concurrency",
    )
    if endpoints is not None:
        yield _compared(
            "quota: endpoints",
            endpoints,
            wanted=1,
            used=len(others),
            unit="serverless endpoints",
            remedy="the number of endpoints (python -m flows.status shows them)",
        )


def _instances(config: PipelineConfig, plan: DeployPlan, target: Target) -> Checks:
    kind, count = plan.serving.instance_type, plan.serving.instance_count
    if kind is None or count is None:
        yield unknown("quota: instances", "not checked: the plan names no instance")
        return
    most = _value(_quotas(target), re.compile(re.escape(f"{kind} for endpoint usage"), re.IGNORECASE))
    # An update runs the new instances beside the old ones until the requests have moved.
    used = sum(_running(target, kind)) if most is not None else 0
    yield _compared(
        "quota: instances",
        most,
        wanted=max(count, config.deploy.autoscaling.max or 0),
        used=used,
        unit=f"instances of {kind} for endpoints (an update runs old and new side by side)",
        remedy="deploy.instance_count, or choose another deploy.instance_type",
    )


def _compared(name: str, most: float | None, *, wanted: int, used: int, unit: str, remedy: str) -> PreflightCheck:
    if most is None:
        return unknown(name, f"not checked: Service Quotas lists none for {unit}")
    said = f"{wanted} wanted, {used} in use, {most:g} allowed: {unit}"
    if used + wanted > most:
        return bad(name, said, f"ask for more in Service Quotas (SageMaker), or lower {remedy}")
    return good(name, said)


def _quotas(target: Target) -> dict[str, float]:
    pages = looking(target, "service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    return {quota["QuotaName"]: float(quota["Value"]) for page in pages for quota in page["Quotas"]}


def _value(quotas: dict[str, float], name: re.Pattern[str]) -> float | None:
    return next((value for known, value in quotas.items() if name.fullmatch(known)), None)


def _described(target: Target) -> Iterator[dict[str, Any]]:
    from botocore.exceptions import ClientError

    client = looking(target, "sagemaker")
    for page in client.get_paginator("list_endpoints").paginate():
        for listed in page["Endpoints"]:
            try:
                yield client.describe_endpoint(EndpointName=listed["EndpointName"])
            except ClientError as error:
                if not is_missing(error):  # deleted since it was listed
                    raise


def _others(plan: DeployPlan, target: Target) -> Iterator[tuple[str, int]]:
    """Yield name and MaxConcurrency of the serverless endpoints that the deployment does not replace."""
    for endpoint in _described(target):
        if endpoint["EndpointName"] == plan.endpoint_name:
            continue
        for variant in endpoint.get("ProductionVariants", ()):
            size = variant.get("CurrentServerlessConfig") or variant.get("DesiredServerlessConfig")
            if size:
                yield endpoint["EndpointName"], size["MaxConcurrency"]


def _running(target: Target, kind: str) -> Iterator[int]:
    """Yield the instances of a kind that endpoints run."""
    from botocore.exceptions import ClientError

    client = looking(target, "sagemaker")
    for endpoint in _described(target):
        try:
            config = client.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        except ClientError as error:
            if is_missing(error):
                continue
            raise
        kinds = {variant["VariantName"]: variant.get("InstanceType") for variant in config["ProductionVariants"]}
        for variant in endpoint.get("ProductionVariants", ()):
            if kinds.get(variant["VariantName"]) == kind:
                yield variant.get("CurrentInstanceCount") or 0
