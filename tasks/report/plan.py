"""The plan of a deployment as text for a terminal, and as markdown for the Prefect UI."""

from askline.records import DeployPlan
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
    archive = plan.archive_uri if plan.target_model is None else f"{plan.archive_uri} (this one: {plan.target_model})"
    said = [
        ("endpoint", f"{plan.endpoint_name} ({plan.target}, {plan.region})"),
        ("model", plan.model_name),
        ("configuration", plan.config_name),
        ("archive", archive),
        ("image", plan.image),
        ("role", plan.role_arn),
        ("tags", tags),
    ]
    if plan.target == "serverless":
        said += [
            ("memory", _memory(plan)),
            ("concurrency", f"at most {plan.max_concurrency} answers at once, more are throttled"),
        ]
    else:
        said += [("instances", _instances(plan)), ("workers", f"{plan.workers} on each instance, one answer each")]
    said += plan.settings.items()
    said.append(("answer", _answer(plan)))
    if plan.target == "serverless":
        said += [("price", _price(plan)), ("real-time", _real_time(plan))]
    else:
        said += [("price", _hourly(plan)), ("serverless", _serverless(plan))]
    return [*said, ("prices", plan.prices)]


def _memory(plan: DeployPlan) -> str:
    if plan.measured_mb is None or plan.needed_mb is None:
        return f"{plan.memory_mb} MB ({plan.memory_chosen})"
    figures = f"({plan.measured_mb:.0f} measured + {plan.container_mb:.0f} container) × {plan.headroom:g}"
    why = "as configured" if plan.memory_chosen == "configured" else "the smallest tier that holds it"
    return f"{plan.memory_mb} MB, {why}: {figures} = {plan.needed_mb:.0f} MB"


def _instances(plan: DeployPlan) -> str:
    why = "as configured" if plan.memory_chosen == "configured" else "the cheapest that holds it"
    measured = "not measured" if plan.measured_mb is None else f"{plan.measured_mb:.0f} MB measured for each worker"
    needed = f"{(plan.needed_mb or 0) / 1024:.1f} GiB and {plan.workers} vCPU"
    return f"{plan.instance_count} × {plan.instance}, {why}: {needed} ({measured}, with the image, × {plan.headroom:g})"


def _answer(plan: DeployPlan) -> str:
    if plan.answer_seconds is None:
        return "not measured"
    return f"{plan.answer_seconds:.3f} s, measured on {plan.measured_on}"


def _price(plan: DeployPlan) -> str:
    rate = f"{dollars(plan.usd_per_second or 0)} a busy second, nothing while idle"
    if plan.usd_per_1000_calls is None or plan.usd_per_month is None:
        return rate
    return (
        f"{dollars(plan.usd_per_1000_calls)} for 1,000 calls, {dollars(plan.usd_per_month)} a month at "
        f"{plan.calls_per_month:,} calls ({rate})"
    )


def _real_time(plan: DeployPlan) -> str:
    if plan.instance is None or plan.instance_usd_per_month is None:
        return "no instance in the price file holds the model"
    said = f"{plan.instance}, {plan.instance_usd_per_hour:g} $ an hour, {dollars(plan.instance_usd_per_month)} a month"
    if plan.break_even_calls is None or plan.break_even_busy is None:
        return said
    return (
        f"{said}; cheaper from {plan.break_even_calls:,.0f} calls a month on, if it keeps up "
        f"({plan.break_even_busy:.2g} answers under way at once, on average)"
    )


def _hourly(plan: DeployPlan) -> str:
    if plan.usd_per_hour is None or plan.usd_per_month is None:
        return "not known: the price file does not have the instance"
    always = "while it is awake" if plan.target == "async" else "asked or not"
    said = f"{plan.usd_per_hour:g} $ an hour, {dollars(plan.usd_per_month)} a month, {always}"
    if plan.usd_per_hour_most is not None:
        said += f", up to {plan.usd_per_hour_most:g} $ an hour when scaled out"
    if plan.usd_per_1000_calls is not None:
        said += f" ({dollars(plan.usd_per_1000_calls)} for 1,000 calls at {plan.calls_per_month:,} calls a month)"
    return said


def _serverless(plan: DeployPlan) -> str:
    if plan.break_even_calls is None or plan.break_even_busy is None:
        return "no comparison: not measured, without a price, or too large for any serverless tier"
    return (
        f"cheaper below {plan.break_even_calls:,.0f} calls a month ({plan.break_even_busy:.2g} answers under way at "
        "once, on average)"
    )
