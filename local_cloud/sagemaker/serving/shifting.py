"""How an update moves an endpoint's traffic: at once, a canary first, or in steps, with a look at alarms in between."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from local_cloud.sagemaker.alarms import Alarms
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record

_LOOK_SECONDS = 0.5


def steps(config: Record, instances: int) -> tuple[list[float], float]:
    """Return which shares of the traffic go to the new fleet, one after the other, and the wait after each.

    Parameters
    ----------
    config
        A DeploymentConfig; empty for "all at once".
    instances
        Of the new fleet, for steps that are given as a number of them.

    Returns
    -------
    list of float, float
        Shares from above 0 to 1, the last one 1, and seconds.
    """
    rolling = config.get("RollingUpdatePolicy")
    if rolling:
        return _even(_share(rolling["MaximumBatchSize"], instances)), float(rolling["WaitIntervalInSeconds"])
    routing = config.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration")
    if not routing:
        return [1.0], 0.0
    wait = float(routing["WaitIntervalInSeconds"])
    match routing["Type"]:
        case "CANARY":
            return [_share(routing["CanarySize"], instances), 1.0], wait
        case "LINEAR":
            return _even(_share(routing["LinearStepSize"], instances)), wait
    return [1.0], wait


def _share(size: Record, instances: int) -> float:
    whole = 100 if size["Type"] == "CAPACITY_PERCENT" else max(1, instances)
    return min(1.0, float(size["Value"]) / whole)


def _even(step: float) -> list[float]:
    return [min(1.0, step * number) for number in range(1, math.ceil(1 / step - 1e-9) + 1)]


async def shift(
    config: Record, instances: int, move: Callable[[float], None], alarms: Alarms, settings: Settings
) -> str | None:
    """Move the traffic step by step; return why it has to go back, or None when all of it has moved.

    ``move`` is called with the share of the new fleet.
    """
    watched = [alarm["AlarmName"] for alarm in config.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
    look = _looker(watched, alarms)
    shares, wait = steps(config, instances)
    reason = await look()
    for share in shares:
        if reason:
            return reason
        move(share)
        deadline = time.monotonic() + settings.waiting(wait)
        while not (reason := await look()) and time.monotonic() < deadline:
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
    return reason


def _looker(watched: list[str], alarms: Alarms) -> Callable[[], Awaitable[str | None]]:
    async def look() -> str | None:
        if not watched:
            return None
        try:
            found = await alarms.look(watched)
        except Exception as error:  # noqa: BLE001 - an update that nobody watches must not go on
            return f"CloudWatch could not be asked for the alarms {', '.join(watched)}: {error}"
        missing = [name for name in watched if name not in found]
        if missing:
            return f"The alarms {', '.join(missing)} do not exist any longer."
        gone_off = [name for name in watched if found[name]["StateValue"] == "ALARM"]
        return f"One or more configured alarm(s) went into alarm: {', '.join(gone_off)}." if gone_off else None

    return look
