"""Show what is deployed, where the API answers, and what nothing refers to any more.

::

    python -m flows.status
    python -m flows.status --config configs/aws.toml --json

It only reads, and does not start the embedded cloud. Exit codes: 0 shown, 1 failed, 2 wrong option.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.terminal import command_parser, refuse, say

if TYPE_CHECKING:
    from tasks.deployed.status import Deployed, StatusReport

PROGRAM = "python -m flows.status"
HEADINGS = ("MLKEY", "STATUS", "VERSION", "PACKAGE", "EXACT", "RUNS ON", "AT ONCE", "PROMOTED", "BY RUN", "ENDPOINT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    try:
        config = load_config(others, prog=PROGRAM)
        if options.keep is not None and options.keep < 1:
            raise ConfigError(f"--keep {options.keep}: at least 1, the version that answers now")
    except ConfigError as error:
        return refuse(error, 2)

    from tasks.deployed.inventory import running_target
    from tasks.deployed.orphans import KEEP
    from tasks.deployed.status import status

    try:
        report = status(config, keep=options.keep or KEEP, target=running_target(config))
    except AsklineError as error:
        return refuse(error, 1)
    say(report.model_dump_json(indent=2) if options.json else render(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        PROGRAM, "Show what is deployed, where the API answers, and what nothing refers to any more."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="versions of each MLKey that stay ready to be gone back to; what only older ones use is an orphan "
        "(default: 5)",
    )
    return parser


def render(report: "StatusReport") -> str:
    """Return what a person reads."""
    place = "the embedded cloud" if report.target == "local" else "AWS"
    lines = [f"{place}, {report.region}", ""]
    if report.deployed:
        lines += _table([HEADINGS, *map(_row, report.deployed)])
        for found in report.deployed:
            lines += [f"  {found.mlkey}: {note}" for note in found.notes]
        lines.append("")
        lines += [f"{found.mlkey}: {_about(found)}" for found in report.deployed if found.registered]
    else:
        lines.append("nothing is deployed")
    lines.append("")
    if report.api_status is None:
        lines.append(f"API       not deployed (stack {report.api_stack})")
    else:
        lines.append(f"API       {report.api_url or 'no address yet'} (stack {report.api_stack}, {report.api_status})")
    lines.append(f"Archives  {report.archives} in S3, {report.archive_bytes / 1e6:.1f} MB, at S3's price for storage")
    if any(found.idle_usd_a_month == 0 for found in report.deployed):
        lines.append("Idle      serverless endpoints cost nothing while nobody asks")
    running = [found for found in report.deployed if found.idle_usd_a_month]
    lines += [
        f"Running   {found.mlkey} ({found.target}): {found.idle_usd_a_month:,.2f} $ a month as it runs now"
        for found in running
    ]
    lines.append(f"Orphans   {len(report.orphans) or 'none'}")
    lines += [
        f"  {orphan.resource}: {orphan.why}" + (" (recent: a deployment may be under way)" if orphan.recent else "")
        for orphan in report.orphans
    ]
    lines += [f"Not seen  {note}" for note in report.notes]
    return "\n".join(lines)


def _row(found: "Deployed") -> tuple[str, ...]:
    return (
        found.mlkey,
        found.status,
        found.model_version or "-",
        (found.archive_sha256 or "-")[:12],
        "-" if found.exact_match is None else f"{found.exact_match:.1%}",
        _runs_on(found),
        str(found.max_concurrency or "-"),
        (found.promoted_at or "-")[:16],
        (found.run_id or "-")[:17],
        found.endpoint,
    )


def _runs_on(found: "Deployed") -> str:
    if found.memory_mb:
        return f"{found.memory_mb} MB"
    if found.instance_type is None:
        return "-"
    return f"{found.instance_count} × {found.instance_type}{', scales' if found.scales else ''}"


def _about(found: "Deployed") -> str:
    back = f", gone back to promotion {found.restores}" if found.restores is not None else ""
    return f"{found.dataset}; {found.versions} versions in the history{back}"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
