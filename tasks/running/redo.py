"""From which step on nothing remembered is taken: ``--redo-from``."""

from typing import Any
from uuid import UUID

from prefect import Task, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterName,
    TaskRunFilterState,
    TaskRunFilterStateName,
)
from prefect.runtime import flow_run

from askline.config import STEPS
from askline.records import Run
from tasks.running.remembering import ONCE_A_RUN


def is_to_be_redone(task: Task[Any, Any], run: Run) -> bool:
    """Say whether an earlier run's result must not be taken; what this very run has done is not redone by its retry."""
    if run.redo_from is None or task.cache_key_fn in (None, ONCE_A_RUN["cache_key_fn"]):
        return False
    return STEPS.index(task.name) >= STEPS.index(run.redo_from) and not _finished_in_this_run(task.name)


def _finished_in_this_run(name: str) -> bool:
    if not flow_run.id or (flow_run.run_count or 1) < 2:
        return False
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run.id)])),
            task_run_filter=TaskRunFilter(
                name=TaskRunFilterName(like_=name),
                state=TaskRunFilterState(name=TaskRunFilterStateName(any_=["Completed"])),
            ),
        )
    return any(each.name.rpartition("-")[0] == name for each in found)
