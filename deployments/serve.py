"""Offer the pipeline for runs from the Prefect UI, and on a schedule, from this machine.

::

    python -m deployments.serve                                             # runs from the UI
    python -m deployments.serve --cron "0 3 * * 1" --timezone Europe/Berlin # and every Monday at three
    python -m deployments.serve --config my.toml --name nightly             # with your own defaults

Stays in the foreground until Ctrl-C. Options that it does not know go to the pipeline's configuration, and become
the defaults of the form in the UI.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.launch import start


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options that are not the pipeline's own."""
    made = argparse.ArgumentParser(
        prog="python -m deployments.serve",
        description="Offer the pipeline for runs from the Prefect UI, and on a schedule, from this machine.",
        epilog="All options of `python -m flows.full_pipeline` are taken too, as the defaults of each run.",
        allow_abbrev=False,
    )
    made.add_argument("--name", default="full-pipeline", help="name of the deployment (default %(default)s)")
    made.add_argument("--cron", help='schedule, for example "0 3 * * 1": every Monday at three')
    made.add_argument("--timezone", default="UTC", help="time zone of the schedule (default %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return the exit code."""
    own, rest = parser().parse_known_args(arguments)
    try:
        config = load_config(rest, prog="python -m deployments.serve")
        target = start(config)
        schedule = _schedule(own.cron, own.timezone)
    except AsklineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the program's one message
        return 2 if isinstance(error, ConfigError) else 1
    from prefect.types.entrypoint import EntrypointType

    from flows.full_pipeline import full_pipeline

    page = target.prefect_ui or os.environ.get("PREFECT_UI_URL") or "the Prefect UI"
    print(f"Serving {own.name}, start runs in {page}/deployments; Ctrl-C ends it", flush=True)  # noqa: T201 - for a person
    full_pipeline.serve(
        name=own.name,
        parameters={"config": config.model_dump(mode="json")},
        schedule=schedule,
        limit=1,
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,  # a file path would put flows/ first on sys.path
    )
    return 0


def _schedule(cron: str | None, timezone: str) -> Any:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.schedules import Cron
    from pydantic import ValidationError

    if cron is None:
        return None
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        said = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ConfigError(
            f"--cron {cron!r} --timezone {timezone!r}: {said}. Give five fields such as '0 3 * * 1' and a zone such as "
            "Europe/Berlin."
        ) from None
    return Cron(cron, timezone=timezone)


if __name__ == "__main__":
    sys.exit(main())
