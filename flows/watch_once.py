"""One look of the watch, as a person or cron starts it in a terminal."""

from collections.abc import Sequence
from pathlib import Path

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.launch import start
from flows.terminal import command_parser, refuse, say

PROGRAM = "python -m flows.watch_dataset"


def watch_once(arguments: Sequence[str] | None = None) -> int:
    """Look once and return the exit code: 0 done, 1 failed, 2 wrong option."""
    parser = command_parser(PROGRAM, "Look whether there is something new to train on, and say so as a Prefect event.")
    parser.add_argument(
        "--feedback-into", type=Path, metavar="FILE", help="collect the API's feedback into this .csv or .jsonl first"
    )
    parser.add_argument(
        "--feedback-rows", type=int, default=50, metavar="N", help="new rows that are enough (default %(default)s)"
    )
    options, others = parser.parse_known_args(arguments)
    try:
        config = load_config(others, prog=PROGRAM)
        start(config)
    except AsklineError as error:
        return refuse(error, 2 if isinstance(error, ConfigError) else 1)
    from flows.watch_dataset import watch_dataset

    state = watch_dataset(config, options.feedback_into, options.feedback_rows, return_state=True)
    try:
        state.result()
    except AsklineError as error:
        return refuse(error, 1)
    say(f"{state.name}: {state.message}")
    return 0
