"""One step of a run: a line in the terminal, its time limit, and whether its result is new or remembered."""

from collections.abc import Sequence
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger

from askline.console import step
from askline.errors import StepTimeoutError
from askline.records import Record, Run
from tasks.report.words import words
from tasks.running import fence
from tasks.running.redo import is_to_be_redone
from tasks.running.remembering import is_whole, shared_results

P = ParamSpec("P")
R = TypeVar("R", bound=Record)


def run_step(task: Task[P, R], /, *arguments: P.args, **options: P.kwargs) -> R:
    """Run one step as a line in the terminal, and say whether its result is new or remembered.

    A remembered record is believed only when its artifact is there and whole; otherwise the step runs anew. From
    ``run.redo_from`` on nothing that an earlier run remembered is taken. A run that has ended on the server takes no
    further step (:mod:`tasks.running.fence`).
    """
    run = _run_of(arguments)
    minutes = _limit(task.name, run)
    limit: dict[str, Any] = {} if minutes is None else {"timeout_seconds": 60 * minutes}
    task = task.with_options(**shared_results(run), **limit)
    fence.require_own(task.name)
    with step(task.name) as line:
        state = task.with_options(refresh_cache=is_to_be_redone(task, run))(*arguments, return_state=True, **options)
        if state.name == "TimedOut" and minutes is not None:
            option = f"timeouts.{_limit_name(task.name, run)}"
            raise StepTimeoutError(
                f"{task.name} was not done after {minutes:g} minutes and was broken off ({option}). What it finished "
                f"is kept: run again to go on from there, with a higher {option} where it needs longer"
            )
        record: R = state.result()
        reused = state.name == "Cached"
        if reused and not is_whole(record, run):
            record, reused = task.with_options(refresh_cache=True)(*arguments, **options), False
        first, *more = words(record).split("\n")
        said = "\n".join([first + (" · reused" if reused else ""), *more])
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
