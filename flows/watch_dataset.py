"""Look whether there is something new to train on, and say so as an event that starts a run of the pipeline.

::

    python -m flows.watch_dataset --config configs/aws.toml          # one look
    python -m deployments.serve --watch-minutes 15                   # every quarter of an hour, with the trigger

Emits ``askline.dataset.changed`` when the dataset has another revision (the commit on the Hub, the hash of a file or
folder, the ETag in S3) and ``askline.feedback.enough`` when enough answers were confirmed or corrected. The first look
only remembers. What was seen counts as seen once the server has the event: a look that is killed is made up for by the
next one.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    from flows.watch_once import watch_once

    sys.exit(watch_once())

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.events import Event, Resource, get_events_client
from prefect.states import Completed
from prefect.variables import Variable
from pydantic import Field

from askline.config import PipelineConfig
from tasks.feedback.watching import Look, Seen, look, memory_of
from tasks.running.connect import connect, prepare_environment

DATASET_CHANGED = "askline.dataset.changed"
FEEDBACK_ENOUGH = "askline.feedback.enough"


@flow(name="askline-watch")
def watch_dataset(
    config: PipelineConfig = PipelineConfig(),  # noqa: B008 - frozen
    feedback_into: Path | None = None,
    feedback_rows: Annotated[int, Field(ge=1)] = 50,
) -> State:
    """Emit an event when the dataset has changed, or when there is enough new feedback."""
    target = connect(config)
    prepare_environment(target)
    name = memory_of(config.deploy.mlkey)
    remembered: Any = Variable.get(name)
    before = Seen.model_validate(remembered) if remembered else None
    found = look(config, target=target, before=before, feedback_into=feedback_into, feedback_rows=feedback_rows)
    events = _events(config, found, before)
    asyncio.run(_emit(events))
    Variable.set(name, found.seen.model_dump(), overwrite=True)
    if not events:
        said = "first look, remembered" if before is None else "nothing new"
        return Completed(name="Unchanged", message=f"{config.dataset.source}: {said} ({found.seen.revision[:12]})")
    return Completed(name="Changed", message="; ".join(event.event for event in events))


def resource_id(mlkey: str) -> str:
    """Return the id by which triggers know the events of an MLKey."""
    return f"askline.mlkey.{mlkey}"


def _events(config: PipelineConfig, found: Look, before: Seen | None) -> list[Event]:
    resource = Resource(
        {
            "prefect.resource.id": resource_id(config.deploy.mlkey),
            "prefect.resource.name": config.deploy.mlkey,
            "askline.dataset": config.dataset.source,
        }
    )
    events = []
    if found.dataset_changed and before is not None:
        what = {"source": config.dataset.source, "revision": found.seen.revision, "before": before.revision}
        events.append(Event(event=DATASET_CHANGED, resource=resource, payload=what))
    if found.new_feedback is not None:
        events.append(Event(event=FEEDBACK_ENOUGH, resource=resource, payload={"new_rows": found.new_feedback}))
    return events


async def _emit(events: list[Event]) -> None:
    if not events:
        return
    async with get_events_client(checkpoint_every=1) as client:  # each one is confirmed by the server
        for event in events:
            await client.emit(event)
