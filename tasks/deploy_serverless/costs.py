"""What an endpoint costs, beside what it would cost as one of another kind: arithmetic on prices and measurements."""

from typing import Any

from askline.config import DeployConfig
from askline.config.deploy import scaling_min
from askline.errors import ConfigError, DeployError
from askline.records import ApiCosts, Costs, PackageRef, Size
from tasks.deploy_serverless.prices import Prices
from tasks.deploy_serverless.sizing import (
    HOURS_PER_MONTH,
    InstanceChoice,
    MemoryChoice,
    Need,
    break_even_calls,
    busy,
    cheapest_instance,
    serverless_memory,
    usd_per_call,
)


def priced_serverless(
    config: DeployConfig, package: PackageRef, memory: MemoryChoice, prices: Prices
) -> tuple[Size, Costs, tuple[str, ...]]:
    """Return why a serverless endpoint has its memory, what it costs, and what a person should know of both.

    Raises
    ------
    ConfigError
        If the price file does not have the tier.
    """
    per_second = prices.per_second(memory.memory_mb)
    seconds = None if package.measured is None else package.measured.answer_seconds
    per_call = None if seconds is None else usd_per_call(per_second, seconds)
    notes = list(memory.notes)
    if config.provisioned_concurrency is not None:
        notes.append("what provisioned concurrency costs by the hour is not in the price file, and not counted here")
    try:
        instance = cheapest_instance(Need(memory_mb=memory.needed_mb or memory.memory_mb), prices.instances)
    except ConfigError as error:
        instance = None
        notes.append(str(error))
    if seconds is not None:
        notes.append(
            "seconds are of the machine that built the package; what processor a serverless endpoint has is not "
            "published, and vCPUs come in proportion to memory, so a small tier answers more slowly"
        )
    even = None if instance is None or not per_call else break_even_calls(instance.usd_per_hour, per_call)
    size = Size(
        chosen=memory.chosen,
        measured_mb=memory.measured_mb,
        container_mb=memory.container_mb,
        headroom=memory.headroom,
        needed_mb=memory.needed_mb,
        **_measured(package),
    )
    costs = Costs(
        calls_per_month=config.calls_per_month,
        usd_per_month=None if per_call is None else config.calls_per_month * per_call,
        usd_per_1000_calls=None if per_call is None else 1000 * per_call,
        usd_per_second=per_second,
        instance=None if instance is None else instance.name,
        instance_usd_per_hour=None if instance is None else instance.usd_per_hour,
        instance_usd_per_month=None if instance is None else instance.usd_per_hour * HOURS_PER_MONTH,
        break_even_calls=even,
        break_even_busy=None if even is None or seconds is None else busy(even, seconds),
        prices=_source(prices),
        api=through_the_api(seconds, None if per_call is None else 1000 * per_call, config.calls_per_month, prices),
    )
    return size, costs, (*notes, *_common_notes(seconds, prices))


def priced_instances(
    config: DeployConfig, package: PackageRef, choice: InstanceChoice, prices: Prices
) -> tuple[Size, Costs, tuple[str, ...]]:
    """Return why an endpoint has its instances, what they cost, and what a person should know of both."""
    seconds = None if package.measured is None else package.measured.answer_seconds
    notes = list(choice.notes)
    if choice.chosen == "not measured":
        notes.append("the memory of the package was not measured; package it anew for the instance that fits")
    if (choice.instance is not None and choice.instance.gpus) or config.gpu:
        notes.append(
            "the archive's engine computes on the processor: with this package a GPU brings nothing, and is paid for"
        )
    if config.target == "real-time" and config.instance_count == 1:
        notes.append("one instance: while SageMaker mends it nothing answers; deploy.instance_count 2 spreads the risk")
    hourly = None if choice.instance is None else choice.instance.usd_per_hour
    total = None if hourly is None else hourly * config.instance_count
    month = None if total is None else total * HOURS_PER_MONTH
    most = config.autoscaling.max
    even = None
    if hourly is not None and seconds is not None:
        even = _serverless_instead(config, package, hourly, seconds, prices)
    if total is not None and config.target == "async" and most is not None and not scaling_min(config):
        notes.append("asleep, the endpoint costs nothing: a month's price is that of an instance that is always awake")
    size = Size(
        chosen=choice.chosen,
        measured_mb=choice.measured_mb,
        container_mb=choice.worker_mb + choice.shared_mb,
        headroom=choice.headroom,
        needed_mb=choice.need.total_mb,
        workers=config.workers,
        **_measured(package),
    )
    costs = Costs(
        calls_per_month=config.calls_per_month,
        usd_per_month=month,
        usd_per_1000_calls=None if month is None else 1000 * month / config.calls_per_month,
        usd_per_hour=total,
        usd_per_hour_most=None if hourly is None or most is None else hourly * most,
        instance=choice.instance_type,
        instance_usd_per_hour=hourly,
        instance_usd_per_month=None if hourly is None else hourly * HOURS_PER_MONTH,
        break_even_calls=even,
        break_even_busy=None if even is None or seconds is None else busy(even, seconds),
        prices=_source(prices),
        api=through_the_api(
            seconds, None if month is None else 1000 * month / config.calls_per_month, config.calls_per_month, prices
        ),
    )
    return size, costs, (*notes, *_common_notes(seconds, prices))


#: Seconds that the function takes for itself beside waiting for the answer, and its memory (``api.memory_mb``).
FUNCTION_SECONDS = 0.02
FUNCTION_GB = 256 / 1024


def through_the_api(
    answer_seconds: float | None, endpoint_usd: float | None, calls_per_month: int, prices: Prices
) -> ApiCosts | None:
    """Return what 1,000 questions through API Gateway and Lambda cost; None where a part is not known.

    Parameters
    ----------
    endpoint_usd
        Of 1,000 calls of the endpoint.
    """
    api = prices.api
    if api is None or answer_seconds is None or endpoint_usd is None:
        return None
    busy_seconds = answer_seconds + FUNCTION_SECONDS
    return ApiCosts(
        gateway_usd=api.gateway_usd_per_million / 1000,
        lambda_usd=api.lambda_usd_per_million / 1000 + 1000 * busy_seconds * FUNCTION_GB * api.lambda_usd_per_gb_second,
        endpoint_usd=endpoint_usd,
        calls_per_month=calls_per_month,
        prices=f"{api.read}: {api.source}",
    )


def _measured(package: PackageRef) -> dict[str, Any]:
    found = package.measured
    return {
        "answer_seconds": None if found is None else found.answer_seconds,
        "measured_on": None if found is None else found.processor,
    }


def _source(prices: Prices) -> str:
    return f"{prices.region}, {prices.read}: {prices.source}"


def _serverless_instead(
    config: DeployConfig, package: PackageRef, hourly: float, seconds: float, prices: Prices
) -> float | None:
    """Return the calls a month below which a serverless endpoint would be cheaper; None where none holds the model."""
    like = DeployConfig(image=config.image, memory_headroom=config.memory_headroom)
    try:
        tier = serverless_memory(like, package, region=prices.region).memory_mb
    except DeployError:
        return None
    per_call = usd_per_call(prices.per_second(tier), seconds)
    return break_even_calls(hourly * config.instance_count, per_call) if per_call else None


def _common_notes(seconds: float | None, prices: Prices) -> list[str]:
    notes = []
    if seconds is None:
        notes.append("what a call costs is not known: how long an answer takes was not measured")
    if prices.data_usd_per_gb is not None:
        notes.append(
            f"not counted: data in and out ({prices.data_usd_per_gb:g} dollars a GB), cold starts, and the "
            "milliseconds that the container's server itself takes for a call"
        )
    return notes
