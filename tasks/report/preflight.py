"""What the checks before a deployment found, for a terminal and for the Prefect UI."""

from askline.records import Preflight
from tasks.report.markdown import table

_MARK = {True: "✓", False: "✗", None: "–"}


def text(found: Preflight) -> str:
    """Return the checks for a terminal: what failed with its remedy, the rest in a line each."""
    lines = ["", f"Before the deployment: {found.summary}", ""]
    for check in found.checks:
        lines.append(f"  {_MARK[check.passed]} {check.name:<20}{check.found}")
        if check.remedy and check.passed is False:
            lines.append(f"    {'':<20}→ {check.remedy}")
    return "\n".join(lines)


def markdown(found: Preflight) -> str:
    """Return the checks as markdown."""
    rows = [[_MARK[check.passed], check.name, check.found, check.remedy] for check in found.checks]
    return "\n\n".join([f"## Before the deployment: {found.summary}", table(["", "check", "found", "remedy"], rows)])
