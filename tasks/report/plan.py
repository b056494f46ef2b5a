"""The plan of a deployment as text for a terminal, and as markdown for the Prefect UI."""

from collections.abc import Mapping
from typing import Any

from askline.records import ApiCosts, DeployPlan, Scaling
from tasks.report.markdown import table
from tasks.report.words import dollars


def text(plan: DeployPlan) -> str:
    """Return the plan for a terminal."""
    lines = ["", "The plan; nothing of it is created yet:", ""]
    lines += [f"  {name:<18}{said}" for name, said in rows(plan)]
    lines += ["", *(f"  Note: {note}" for note in plan.notes)]
    return "\n".join(lines)


def markdown(plan: DeployPlan) -> str:
    """Return the plan as markdown."""
    body = [[name, said] for name, said in rows(plan)]
    notes = "\n".join(f"- {note}" for note in plan.notes)
    return "\n\n".join([f"## Plan for `{plan.endpoint_name}`", table(["", ""], body), notes])


def rows(plan: DeployPlan) -> list[tuple[str, str]]:
    """Return what the plan says, a name and a sentence each."""
    tags = ", ".join(f"{name}={value}" for name, value in plan.tags.items())
    archive = (
        plan.serving.archive_uri
        if plan.target_model is None
        else f"{plan.serving.archive_uri} (this one: {plan.target_model})"
    )
    said = [
        ("endpoint", f"{plan.endpoint_name} ({plan.serving.target}, {plan.region})"),
        ("model", plan.serving.model_name),
        ("configuration", plan.serving.config_name),
        ("archive", archive),
        ("image", plan.serving.image),
        ("role", plan.serving.role_arn),
        ("tags", tags),
    ]
    if plan.serving.target == "serverless":
        said += [
            ("memory", _memory(plan)),
            ("concurrency", f"at most {plan.serving.max_concurrency} answers at once, more are throttled"),
        ]
    else:
        said += [("instances", _instances(plan)), ("workers", f"{plan.size.workers} on each instance, one answer each")]
    said += _settings(plan).items()
    said.append(("answer", _answer(plan)))
    if plan.serving.target == "serverless":
        said += [("price", _price(plan)), ("real-time", _real_time(plan))]
    else:
        said += [("price", _hourly(plan)), ("serverless", _serverless(plan))]
    prices = [("prices", plan.costs.prices)]
    if plan.costs.api is not None:
        said.append(("with the API", api_price(plan.costs.api)))
        prices.append(("API's prices", plan.costs.api.prices))
    return [*said, *prices]


def api_price(costs: ApiCosts) -> str:
    """Say what questions through the API cost, in all and by part."""
    parts = (("API Gateway", costs.gateway_usd), ("Lambda", costs.lambda_usd), ("endpoint", costs.endpoint_usd))
    return (
        f"{dollars(costs.usd_per_1000)} for 1,000 questions "
        f"({', '.join(f'{name} {dollars(amount)}' for name, amount in parts)}), "
        f"{dollars(costs.usd_per_month)} a month at {costs.calls_per_month:,} questions"
    )


def _memory(plan: DeployPlan) -> str:
    serving, size = plan.serving, plan.size
    if size.measured_mb is None or size.needed_mb is None:
        return f"{serving.memory_mb} MB ({size.chosen})"
    figures = f"({size.measured_mb:.0f} measured + {size.container_mb:.0f} container) × {size.headroom:g}"
    why = "as configured" if size.chosen == "configured" else "the smallest tier that holds it"
    return f"{serving.memory_mb} MB, {why}: {figures} = {size.needed_mb:.0f} MB"


def _instances(plan: DeployPlan) -> str:
    serving, size = plan.serving, plan.size
    why = "as configured" if size.chosen == "configured" else "the cheapest that holds it"
    measured = "not measured" if size.measured_mb is None else f"{size.measured_mb:.0f} MB measured for each worker"
    needed = f"{(size.needed_mb or 0) / 1024:.1f} GiB and {size.workers} vCPU"
    figures = f"{needed} ({measured}, with the image, × {size.headroom:g})"
    return f"{serving.instance_count} × {serving.instance_type}, {why}: {figures}"


def _answer(plan: DeployPlan) -> str:
    if plan.size.answer_seconds is None:
        return "not measured"
    return f"{plan.size.answer_seconds:.3f} s, measured on {plan.size.measured_on}"


def _price(plan: DeployPlan) -> str:
    costs = plan.costs
    rate = f"{dollars(costs.usd_per_second or 0)} a busy second, nothing while idle"
    if costs.usd_per_1000_calls is None or costs.usd_per_month is None:
        return rate
    return (
        f"{dollars(costs.usd_per_1000_calls)} for 1,000 calls, {dollars(costs.usd_per_month)} a month at "
        f"{costs.calls_per_month:,} calls ({rate})"
    )


def _real_time(plan: DeployPlan) -> str:
    costs = plan.costs
    if costs.instance is None or costs.instance_usd_per_month is None:
        return "no instance in the price file holds the model"
    said = (
        f"{costs.instance}, {costs.instance_usd_per_hour:g} $ an hour, {dollars(costs.instance_usd_per_month)} a month"
    )
    if costs.break_even_calls is None or costs.break_even_busy is None:
        return said
    return (
        f"{said}; cheaper from {costs.break_even_calls:,.0f} calls a month on, if it keeps up "
        f"({costs.break_even_busy:.2g} answers under way at once, on average)"
    )


def _hourly(plan: DeployPlan) -> str:
    costs = plan.costs
    if costs.usd_per_hour is None or costs.usd_per_month is None:
        return "not known: the price file does not have the instance"
    always = "while it is awake" if plan.serving.target == "async" else "asked or not"
    said = f"{costs.usd_per_hour:g} $ an hour, {dollars(costs.usd_per_month)} a month, {always}"
    if costs.usd_per_hour_most is not None:
        said += f", up to {costs.usd_per_hour_most:g} $ an hour when scaled out"
    if costs.usd_per_1000_calls is not None:
        said += f" ({dollars(costs.usd_per_1000_calls)} for 1,000 calls at {costs.calls_per_month:,} calls a month)"
    return said


def _serverless(plan: DeployPlan) -> str:
    costs = plan.costs
    if costs.break_even_calls is None or costs.break_even_busy is None:
        return "no comparison: not measured, without a price, or too large for any serverless tier"
    return (
        f"cheaper below {costs.break_even_calls:,.0f} calls a month ({costs.break_even_busy:.2g} answers under way at "
        "once, on average)"
    )


def _settings(plan: DeployPlan) -> dict[str, str]:
    """Say what else is set up, beside the size."""
    said: dict[str, str] = {}
    serving = plan.serving
    if serving.provisioned_concurrency is not None:
        said["kept warm"] = f"containers for {serving.provisioned_concurrency} answers at once"
    if serving.scaling is not None:
        said["scaling"] = _scaling(serving.scaling)
    if serving.target == "async":
        said["answers to"] = f"{serving.output_path}, failures to {serving.failure_path}"
        told = [
            f"{what} to {topic}"
            for what, topic in (("answers", serving.success_topic), ("failures", serving.error_topic))
        ]
        if serving.success_topic or serving.error_topic:
            said["tells"] = ", ".join(each for each in told if not each.endswith("None"))
    if serving.capture_percentage:
        said["data capture"] = f"{serving.capture_percentage} % of the requests and answers, to {serving.capture_to}"
    if serving.volume_size_gb is not None:
        said["volume"] = f"{serving.volume_size_gb} GB for each instance"
    if serving.subnets or serving.network_isolation:
        network = f"subnets {', '.join(serving.subnets)}" if serving.subnets else ""
        said["network"] = ", ".join(filter(None, [network, "no network at all" if serving.network_isolation else ""]))
    if plan.update is not None:
        said["updates"] = _update(plan.update)
    return said


def _scaling(scaling: Scaling) -> str:
    aim = {
        "invocations": f"{scaling.value:g} requests a minute for each instance",
        "backlog": f"{scaling.value:g} waiting requests for each instance",
        "utilisation": f"{scaling.value:.0%} of what is kept warm in use",
    }[scaling.by]
    wakes = (
        "; asleep while nothing waits, awake about 2 minutes after a request, and its start" if not scaling.min else ""
    )
    return (
        f"{scaling.min} to {scaling.max}, for {aim}, {scaling.scale_out_seconds} s between steps up, "
        f"{scaling.scale_in_seconds} s down{wakes}"
    )


def _update(deployment: Mapping[str, Any]) -> str:
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    moves = {
        "ALL_AT_ONCE": "new instances beside the old, then all requests at once",
        "CANARY": "new instances beside the old, a first share of the requests, then all",
        "LINEAR": "new instances beside the old, share by share",
    }[routing["Type"]]
    alarms = [alarm["AlarmName"] for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", ())]
    return moves + (f"; back if {' or '.join(alarms)} goes off" if alarms else "")
