"""Offer the pipeline for runs from the Prefect UI, on a schedule and on new data, from this machine.

::

    python -m deployments.serve                                             # runs from the UI
    python -m deployments.serve --cron "0 3 * * 1" --timezone Europe/Berlin # and every Monday at three
    python -m deployments.serve --retrain-on dataset                        # and whenever the dataset changes
    python -m deployments.serve --config my.toml --name nightly             # with your own defaults

One run at a time; others wait for their turn. A run whose process dies is marked as crashed, and frees its place
within five minutes.

Stays in the foreground until Ctrl-C. Options that it does not know go to the pipeline's configuration, and become
the defaults of the form in the UI.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from askline.command_line import load_config
from askline.config import PipelineConfig
from askline.errors import AsklineError, ConfigError
from flows.launch import start


def parameters_of(config: PipelineConfig) -> dict[str, Any]:
    """Return the options as a deployment's parameters; of the API only those that are set, since the rest stays."""
    return {**config.model_dump(mode="json"), "api": config.api.model_dump(mode="json", exclude_unset=True)}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options that are not the pipeline's own."""
    made = argparse.ArgumentParser(
        prog="python -m deployments.serve",
        description="Offer the pipeline for runs from the Prefect UI, on a schedule or on new data, from here.",
        epilog="All options of `python -m flows.full_pipeline` are taken too, as the defaults of each run.",
        allow_abbrev=False,
    )
    made.add_argument("--name", default="full-pipeline", help="name of the deployment (default %(default)s)")
    made.add_argument("--cron", help='schedule, for example "0 3 * * 1": every Monday at three')
    made.add_argument("--timezone", default="UTC", help="time zone of the schedule (default %(default)s)")
    made.add_argument(
        "--retrain-on",
        nargs="+",
        choices=("dataset", "feedback"),
        default=[],
        help="start a run when the dataset has a new revision, or when there is enough new feedback",
    )
    made.add_argument(
        "--watch-minutes",
        type=_positive,
        default=15.0,
        metavar="N",
        help="minutes between two looks at dataset and feedback (default %(default)g)",
    )
    made.add_argument(
        "--feedback-into",
        type=Path,
        metavar="FILE",
        help="the .csv or .jsonl that takes the feedback, in the dataset's folder; needed for --retrain-on feedback",
    )
    made.add_argument(
        "--feedback-rows",
        type=int,
        default=50,
        metavar="N",
        help="new rows of feedback that are enough (default %(default)s)",
    )
    made.add_argument(
        "--notify", metavar="TYPE/NAME", help="notification block that is told of runs that did not end well"
    )
    return made


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return the exit code."""
    own, rest = parser().parse_known_args(arguments)
    try:
        if "feedback" in own.retrain_on and own.feedback_into is None:
            raise ConfigError("--retrain-on feedback needs --feedback-into: the file that takes the rows to train on")
        config = load_config(rest, prog="python -m deployments.serve")
        target = start(config)
        schedule = _schedule(own.cron, own.timezone)
        from deployments.automations import ensure_automations

        ensure_automations(own.notify)
    except AsklineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the program's one message
        return 2 if isinstance(error, ConfigError) else 1
    from prefect import serve

    page = target.prefect_ui or os.environ.get("PREFECT_UI_URL") or "the Prefect UI"
    print(f"Serving {own.name}, start runs in {page}/deployments; Ctrl-C ends it", flush=True)  # noqa: T201 - for a person
    served = [_pipeline(own, config, schedule), *([_watch(own, config)] if own.retrain_on else [])]
    serve(*served, print_starting_message=False)
    return 0


def _pipeline(own: argparse.Namespace, config: PipelineConfig, schedule: Any) -> Any:
    from prefect.events import DeploymentEventTrigger
    from prefect.types.entrypoint import EntrypointType

    from flows.full_pipeline import full_pipeline
    from flows.watch_dataset import DATASET_CHANGED, FEEDBACK_ENOUGH, resource_id

    events = {"dataset": DATASET_CHANGED, "feedback": FEEDBACK_ENOUGH}
    triggers: list[Any] = [
        DeploymentEventTrigger(
            name=f"askline: {own.name} on {events[what]}",
            expect={events[what]},
            match={"prefect.resource.id": resource_id(config.deploy.mlkey)},
        )
        for what in own.retrain_on
    ]
    return full_pipeline.to_deployment(
        name=own.name,
        parameters={"config": parameters_of(config)},
        schedule=schedule,
        triggers=triggers,
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,  # a file path would put flows/ first on sys.path
    )


def _watch(own: argparse.Namespace, config: PipelineConfig) -> Any:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    from flows.watch_dataset import watch_dataset

    return watch_dataset.to_deployment(
        name=f"{own.name}-watch",
        parameters={
            "config": parameters_of(config),
            "feedback_into": str(own.feedback_into) if "feedback" in own.retrain_on else None,
            "feedback_rows": own.feedback_rows,
        },
        interval=timedelta(minutes=own.watch_minutes),
        # A look that comes while one is under way would find the same.
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


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
