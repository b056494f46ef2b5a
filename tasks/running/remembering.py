"""What the ``@task`` shells in :mod:`tasks.steps` share: cache keys, retries and progress.

The cores of the steps know nothing of Prefect; these few lines are all that ties them to it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Task, get_client, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterName,
    TaskRunFilterState,
    TaskRunFilterStateName,
)
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectAlreadyExists
from prefect.filesystems import RemoteFileSystem
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from askline.config import STEPS, Section
from askline.console import current_progress, step
from askline.errors import BusyError, StepTimeoutError
from askline.progress import Progress
from askline.records import Record, Run
from tasks.identity import code_of
from tasks.report.words import words
from tasks.workplace import Workplace, file_system_options, folder_of, is_folder, store_of

P = ParamSpec("P")
R = TypeVar("R", bound=Record)

#: Seconds after which a lock whose holder has died is free again; the server takes no less.
_LEASE_SECONDS = 60
_SECONDS_BETWEEN_TRIES = 2.0

#: An artifact update is a call to the server (about 25 ms): this often is enough for an eye.
_SECONDS_BETWEEN_UPDATES = 2.0


def _is_retryable(task: Any, task_run: Any, state: Any) -> bool:
    try:
        state.result()
    except Exception as error:  # noqa: BLE001 - whatever it was, the error itself says whether to try again
        return bool(getattr(error, "retryable", False))
    return False


#: ``@task`` options: tried again, ever later, only when the error itself says that this can help.
RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_retryable,
}


def cached_on(*rooms: str, libraries: Sequence[str] = ()) -> dict[str, Any]:
    """Return the ``@task`` options of a step whose result depends only on its inputs, its code and its libraries.

    A later run with the same inputs takes the record of the earlier one, on another machine too where the two share
    their artifacts. Of a record or a group of options only its identity counts; a parameter of type
    :class:`~askline.records.Run` (where things lie, who runs) never changes the key.
    """

    def key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
        return _key(context.task.name, code_of(*rooms, libraries=tuple(libraries)), parameters)

    return {"cache_key_fn": key, "persist_result": True, "result_serializer": "json"}


def _key(task_name: str, depends_on: str, parameters: dict[str, Any]) -> str:
    inputs = {name: _identity(value) for name, value in sorted(parameters.items()) if not isinstance(value, Run)}
    text = json.dumps([depends_on, inputs], sort_keys=True, default=str)
    return f"{task_name}-{hashlib.sha256(text.encode()).hexdigest()}"


def _identity(value: Any) -> Any:
    if isinstance(value, Record | Section):
        return value.identity()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _key_in_run(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    run = next(value for value in parameters.values() if isinstance(value, Run))
    return _key(context.task.name, run.run_id, parameters)


#: ``@task`` options of a step that asks the world (a Hub's newest commit, an upload): every run does it anew, and the
#: retry of a run, from the UI for instance, does not.
ONCE_A_RUN: dict[str, Any] = {"cache_key_fn": _key_in_run, "persist_result": True, "result_serializer": "json"}


def run_step(task: Task[P, R], /, *arguments: P.args, **options: P.kwargs) -> R:
    """Run one step as a line in the terminal, and say whether its result is new or remembered.

    A remembered record is believed only when its artifact is there and whole; otherwise the step runs anew. From
    ``run.redo_from`` on nothing that an earlier run remembered is taken.
    """
    run = _run_of(arguments)
    minutes = _limit(task.name, run)
    limit: dict[str, Any] = {} if minutes is None else {"timeout_seconds": 60 * minutes}
    task = task.with_options(**_shared_results(run), **limit)
    with step(task.name) as line:
        state = task.with_options(refresh_cache=_is_to_be_redone(task, run))(*arguments, return_state=True, **options)
        if state.name == "TimedOut" and minutes is not None:
            option = f"timeouts.{_limit_name(task.name, run)}"
            raise StepTimeoutError(
                f"{task.name} was not done after {minutes:g} minutes and was broken off ({option}). What it finished "
                f"is kept: run again to go on from there, with a higher {option} where it needs longer"
            )
        record: R = state.result()
        reused = state.name == "Cached"
        if reused and not _is_whole(record, run):
            record, reused = task.with_options(refresh_cache=True)(*arguments, **options), False
        said = words(record) + (" · reused" if reused else "")
        line.done(said)
        get_run_logger().info("%s: %s", task.name, said)
    return record


def _limit_name(name: str, run: Run) -> str:
    option = name.replace("-", "_")
    return "deploy" if option not in run.timeouts and option.startswith("deploy_") else option


def _limit(name: str, run: Run) -> float | None:
    return run.timeouts.get(_limit_name(name, run))


def _run_of(arguments: Sequence[Any]) -> Run:
    return next(argument for argument in arguments if isinstance(argument, Run))


def _is_whole(record: Record, run: Run) -> bool:
    kind = type(record).__name__.removesuffix("Ref").lower()
    sha256 = getattr(record, "sha256", None)
    if sha256 is None:
        return True
    store = store_of(run)
    whole = store.holds(kind, sha256)
    if whole:
        store.share(kind, sha256)  # it may stem from a time when this machine shared nothing
    return whole


def _is_to_be_redone(task: Task[Any, Any], run: Run) -> bool:
    """Say whether an earlier run's result must not be taken; what this very run has done is not redone by its retry."""
    if run.redo_from is None or task.cache_key_fn in (None, _key_in_run):
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


def _shared_results(run: Run) -> dict[str, Any]:
    """Return the ``@task`` options by which records are remembered where other machines look for them too."""
    if run.artifact_store is None:
        return {}
    if is_folder(run.artifact_store):
        return {"result_storage": folder_of(run.artifact_store) / "results"}
    return {"result_storage": _result_block(run.artifact_store, tuple(sorted(file_system_options(run).items())))}


@cache
def _result_block(url: str, options: tuple[tuple[str, str], ...]) -> RemoteFileSystem:
    """Save the place as a block on the Prefect server, so that other machines and the UI find what lies there."""
    block = RemoteFileSystem(basepath=f"{url.rstrip('/')}/results", settings=dict(options))
    block.save(f"askline-{hashlib.sha256(url.encode()).hexdigest()[:12]}", overwrite=True)
    return block


def place_of(run: Run, name: str) -> Workplace:
    """Return where the step of that name works, told to the terminal and the Prefect UI."""
    return Workplace.of(run, progress_of(name))


def progress_of(name: str) -> Progress:
    """Return a progress that moves the step's bar in the terminal and, throttled, an artifact in the Prefect UI."""
    bar: Callable[[float, str], None] = current_progress()
    artifact: Any = None
    last = time.monotonic()

    def progress(share: float, message: str = "") -> None:
        nonlocal artifact, last
        bar(share, message)
        now = time.monotonic()
        finished = share >= 1 and artifact is not None  # a step that is over at once needs no artifact
        if now - last < _SECONDS_BETWEEN_UPDATES and not finished:
            return
        last = now
        percent = round(100 * min(max(share, 0.0), 1.0), 1)
        description = f"{name}: {message}"
        if artifact is None:
            artifact = create_progress_artifact(progress=percent, key=f"{name}-progress", description=description)
        else:
            update_progress_artifact(artifact, progress=percent, description=description)

    return progress


@contextmanager
def one_at_a_time(name: str, *, wait_seconds: float, option: str = "deploy.queue_seconds") -> Iterator[None]:
    """Run the block while no other run on this Prefect server, on whatever machine, is in a block of that name.

    A run that has to wait says so as a step of its own. What a killed run held is free again after a minute or so.

    Parameters
    ----------
    name
        Whatever must not happen twice at once: ``"deploy local biography"``.
    wait_seconds
        How long to wait for another run to be done.
    option
        What the configuration calls that.

    Raises
    ------
    BusyError
        If the other run is not done by then.
    """
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    with ExitStack() as held:
        if not _take(name, held):
            with step("wait") as line:
                waited = _wait_for(name, held, wait_seconds, option)
                line.done(f"{waited:.0f} s, until another run was done with {name!r}")
        yield


def _wait_for(name: str, held: ExitStack, wait_seconds: float, option: str) -> float:
    started, told = time.monotonic(), -60.0
    progress = current_progress()
    while True:
        waited = time.monotonic() - started
        if waited > wait_seconds:
            raise BusyError(
                f"another run has been at {name!r} for the {waited:.0f} s that this one waited ({option}); "
                "run again when it is done. If there is no such run any more, free its place: prefect "
                f"global-concurrency-limit update {name!r} --active-slots 0"
            )
        if waited - told >= 30:
            told = waited
            get_run_logger().info("waiting for another run that is at %r, %.0f s", name, waited)
        progress(min(0.99, waited / max(wait_seconds, 1)), f"another run is at {name!r}, {waited:.0f} s")
        time.sleep(_SECONDS_BETWEEN_TRIES)
        if _take(name, held):
            return time.monotonic() - started


def _take(name: str, held: ExitStack) -> bool:
    """Try once. The server's own advice on when to try again may be half a minute, for a lock held for seconds."""
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(name)
    if limit.active_slots >= limit.limit:
        return False
    lock = concurrency(
        name,
        strict=True,
        max_retries=0,
        lease_duration=_LEASE_SECONDS,
        # A server that cannot be reached for a while is no reason to break off in the middle of an update.
        raise_on_lease_renewal_failure=False,
    )
    try:
        held.enter_context(lock)
    except ConcurrencySlotAcquisitionError as error:
        response = getattr(error.__cause__, "response", None)
        if response is None or response.status_code != 423:  # Locked
            raise
        return False
    return True
