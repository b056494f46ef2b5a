"""What is remembered of a step, under which key, and where: the results that a later run takes instead of its own.

The cores of the steps know nothing of Prefect; the options that stand here and in :mod:`tasks.running.retries` are all
that ties their shells in :mod:`tasks.steps` to it.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from prefect.context import TaskRunContext
from prefect.filesystems import RemoteFileSystem
from pydantic import BaseModel

from askline.config import Section
from askline.records import Record, Run
from tasks.identity import code_of
from tasks.workplace import file_system_options, folder_of, is_folder, store_of


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


def is_whole(record: Record, run: Run) -> bool:
    """Say whether the artifact of a remembered record is there as it was, and share it where machines share theirs."""
    kind = type(record).__name__.removesuffix("Ref").lower()
    sha256 = getattr(record, "sha256", None)
    if sha256 is None:
        return True
    store = store_of(run)
    whole = store.holds(kind, sha256)
    if whole:
        store.share(kind, sha256)  # it may stem from a time when this machine shared nothing
    return whole


def shared_results(run: Run) -> dict[str, Any]:
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
