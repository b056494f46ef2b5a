"""What the Prefect server does by itself: mark dead runs as crashed, and tell somebody.

::

    python -m deployments.automations                                      # dead runs are marked
    python -m deployments.automations --notify slack-webhook/data-team     # and a Prefect block is told of failures
    python -m deployments.automations --again                              # runs of dead machines go on, elsewhere

Running it again changes nothing. The block is any notification block of Prefect's, named as type/name; the UI's page
Blocks makes them. ``PREFECT_API_URL`` says which server; without it, the one of the embedded cloud in ``--state-dir``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.launch import HEARTBEAT_SECONDS, start

if TYPE_CHECKING:
    from prefect.automations import Automation

#: The flows whose runs are looked after.
FLOWS = ["askline", "askline-train", "askline-watch"]
CRASHED = "askline: mark runs without a heartbeat as crashed"
AGAIN = "askline: start runs again whose machine has gone"
NO_HEARTBEAT = "No heartbeat"
NOTIFY = "askline: tell of runs that failed or were not promoted"


def main(arguments: Sequence[str] | None = None) -> int:
    """Create or update the automations; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.automations",
        description="Have the Prefect server mark dead runs as crashed, and tell of runs that did not end well.",
        epilog="The pipeline's options are taken too, such as --state-dir.",
        allow_abbrev=False,
    )
    parser.add_argument("--notify", metavar="TYPE/NAME", help="notification block that is told, e.g. slack-webhook/me")
    parser.add_argument(
        "--again",
        action="store_true",
        help="start runs of work pools again whose machine has gone, on whichever worker takes them",
    )
    own, rest = parser.parse_known_args(arguments)
    try:
        config = load_config(rest, prog=parser.prog)
        if "PREFECT_API_URL" not in os.environ:
            start(config)
        for name in ensure_automations(own.notify, again=own.again):
            print(name)  # noqa: T201 - the program's answer
    except AsklineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the program's one message
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def ensure_automations(notify: str | None = None, *, again: bool = False) -> list[str]:
    """Create the automations on the server, or bring those of the same name up to date; return their names.

    Raises
    ------
    ConfigError
        If there is no such notification block.
    """
    wanted = [mark_dead_runs(), *([tell(notify)] if notify else []), *([start_again()] if again else [])]
    for automation in wanted:
        ensure(automation)
    return [automation.name for automation in wanted]


def mark_dead_runs(silent_seconds: float = 3 * HEARTBEAT_SECONDS) -> "Automation":
    """Return the automation that marks a run as crashed when it was silent for so long: three heartbeats.

    A process that was killed cannot say so itself: without this its run would stay "Running" for ever.
    """
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Paused")}
    named = {f"prefect.flow-run.{state}" for state in ("Promoted", "NotPromoted", "Planned", "Changed", "Unchanged")}
    return Automation(
        name=CRASHED,
        description="A run whose process is gone sends no heartbeat; after three it counts as crashed.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended, *named},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silent_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"{NO_HEARTBEAT}: the process that ran this has gone. Run it again."
            )
        ],
    )


def start_again(*, not_within: timedelta = timedelta(minutes=30)) -> "Automation":
    """Return the automation that starts a run again whose machine has gone, as the UI's Retry does.

    The run keeps its id and its parameters, goes back to its work pool and is taken by any worker there. Only silence
    counts: where a worker lives to report the crash, the run itself died, of too little memory for instance, and would
    again. A worker also reports a crash twice, some seconds apart, so that the second could hit a run that is back at
    work. A run that falls silent again within ``not_within`` stays crashed.
    """
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    return Automation(
        name=AGAIN,
        description="It goes on where another machine has a worker.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-message": f"{NO_HEARTBEAT}*"},
            match_related=[
                {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
                {"prefect.resource.role": "work-pool"},
            ],
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=not_within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED, name="AwaitingRetry", message="Its machine has gone; another may take it."
            )
        ],
    )


def tell(block: str) -> "Automation":
    """Return the automation that sends a notification when a run fails, crashes or is not promoted.

    Raises
    ------
    ConfigError
        If there is no such block.
    """
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.blocks.core import Block
    from prefect.events.actions import SendNotification

    try:
        found: Any = Block.load(block)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"there is no Prefect block {block!r}: {error}. Give a notification block as type/name, for example "
            "slack-webhook/data-team; the UI's page Blocks lists and makes them"
        ) from error
    return Automation(
        name=NOTIFY,
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut", "NotPromoted")},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=found._block_document_id,
                subject="askline: {{ flow_run.name }} is {{ flow_run.state.name }}",
                body="{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}\n"
                "{{ flow_run|ui_url }}",
            )
        ],
    )


def ensure(wanted: "Automation") -> None:
    """Create an automation, or bring the one of its name up to date."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(wanted.name)
    if not there:
        wanted.create()
        return
    wanted.id = there[0].id
    wanted.update()


if __name__ == "__main__":
    sys.exit(main())
