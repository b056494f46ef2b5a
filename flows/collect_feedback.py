"""Collect what people thought of the API's answers, for the next training.

::

    python -m flows.collect_feedback --mlkey biography --out feedback.jsonl
    python -m flows.collect_feedback --config configs/aws.toml --since 2026-05-01 --out feedback.jsonl

Exit codes: 0 done, 1 failed, 2 wrong option.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.terminal import refuse, say

PROGRAM = "python -m flows.collect_feedback"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    try:
        named = ["--deploy.mlkey", options.mlkey] if options.mlkey is not None else []
        config = load_config([*others, *named], prog=PROGRAM)
    except ConfigError as error:
        return refuse(error, 2)

    from tasks.feedback.collect import collect_feedback, find_log
    from tasks.running.connect import connect

    try:
        target = connect(config)
        log = options.log or find_log(target, stack_name=config.api.stack_name)
        found = collect_feedback(
            log=log, mlkey=config.deploy.mlkey, out=options.out, target=target, since=options.since
        )
    except AsklineError as error:
        return refuse(error, 2 if isinstance(error, ConfigError) else 1)
    left_out = [
        f"{count} {what}"
        for count, what in (
            (found.without_text, "questions without text"),
            (found.unmatched, "verdicts on no single question"),
            (found.unreadable, "unreadable lines"),
        )
        if count
    ]
    say(f"{log}: {found.asked} questions, {found.verdicts} verdicts")
    say(f"{found.rows_file}: {_counted(found.rows, 'confirmed', 'corrected')}")
    say(f"{found.review_file}: {_counted(found.review, 'thumbs-down', 'abstained', 'redacted')}, to be answered")
    if left_out:
        say(f"left out: {', '.join(left_out)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Collect what people thought of the API's answers: rows for the next training, and questions that "
        "a person should answer.",
        epilog="The pipeline's options hold too, such as --config FILE, --region, --state-dir and "
        "--api.stack-name; python -m flows.full_pipeline --help lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("--mlkey", metavar="MLKEY", help="which model's questions (default: deploy.mlkey)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the rows go: a .jsonl or a .csv")
    parser.add_argument(
        "--since", type=date.fromisoformat, metavar="YYYY-MM-DD", help="first day, in UTC (default: all that is kept)"
    )
    parser.add_argument("--log", metavar="s3://BUCKET/PREFIX", help="the log (default: the deployed API's own)")
    return parser


def _counted(counts: Mapping[str, int], *names: str) -> str:
    return ", ".join(f"{counts.get(name, 0)} {name}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
