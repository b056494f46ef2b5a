"""What the small programs beside the pipeline share: their parser's frame, and the two ways in which they speak."""

import argparse
import sys

from askline.errors import AsklineError


def command_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that knows nothing yet but its help, which names some of the pipeline's own options."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="The pipeline's options hold too, such as --config FILE, --target, --region and --state-dir; "
        "python -m flows.full_pipeline --help lists them.",
        allow_abbrev=False,
    )


def refuse(error: AsklineError, code: int) -> int:
    """Print the program's one message of failure and return its exit code."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return code


def say(text: str) -> None:
    """Print a line of the program's answer."""
    print(text, flush=True)  # noqa: T201
