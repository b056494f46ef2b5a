"""Look at a file of questions and answers: what is understood of it, and what would help, before anything is trained.

::

    python -m flows.look questions.csv
    python -m flows.look questions.csv --training.base scratch
    python -m flows.look faq.json --json

It reads the file as the pipeline does and starts no server; the pipeline's options for the dataset hold too. A Hub id,
s3://… or https://… is downloaded first. Exit codes: 0 shown, 1 the source cannot be used, 2 wrong option.
"""

import argparse
import sys
from collections.abc import Sequence

from askline.command_line import load_config
from askline.config import PipelineConfig
from askline.errors import AsklineError, ConfigError
from askline.records import Target
from askline.records.look import Look
from flows.terminal import command_parser, refuse, say

PROGRAM = "python -m flows.look"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    if options.source is not None:
        others = ["--dataset.source", options.source, *others]
    try:
        config = load_config(others, prog=PROGRAM)
    except ConfigError as error:
        return refuse(error, 2)

    from tasks.fetch_dataset.look import text

    try:
        found = look(config)
    except AsklineError as error:
        return refuse(error, 1)
    say(found.model_dump_json(indent=2) if options.json else text(found))
    return 0


def look(config: PipelineConfig) -> Look:
    """Look at the source that ``config`` names.

    Raises
    ------
    DatasetError
        If it cannot be read as questions and answers.
    ConfigError
        If an option does not fit it.
    """
    from tasks.fetch_dataset.fetch_dataset import look_at_source
    from tasks.fetch_dataset.sources import SAMPLE, SAMPLE_FOLDER
    from tasks.workplace import Workplace

    dataset = config.dataset
    if dataset.source == SAMPLE:  # its folder, so that no Hub has to be up
        dataset = dataset.model_copy(update={"source": str(SAMPLE_FOLDER)})
    place = Workplace(Target(kind=config.target, region=config.region), config.state_dir)
    return look_at_source(dataset, base=config.training.base, place=place)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(PROGRAM, "Say what is understood of questions and answers, before anything is trained.")
    parser.add_argument("source", nargs="?", metavar="FILE", help="a file or folder, a Hub id, s3://… or https://…")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


if __name__ == "__main__":
    sys.exit(main())
