"""Sharing the work of answering many questions among Dask workers, as Prefect task runs.

The workers are processes of this machine, which live as long as the work, or those of a Dask scheduler that is running
already. A part whose worker dies is done again by another; Prefect's retries are each part's own.
"""

import os
import queue
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from askline.config import EvaluationConfig
from askline.errors import ConfigError, WorkersError
from askline.progress import Progress
from askline.records import FanOut, ModelRef, Run
from tasks.ask.answer import Answer
from tasks.batch_answer.batch_answer import Ask as AskPackage
from tasks.batch_answer.batch_answer import Job
from tasks.evaluate.evaluate import Ask, Which, load_tokenizer
from tasks.qa.answers import Trie
from tasks.running.on_a_worker import BatchPart, EvaluationPart, versions
from tasks.running.retries import RETRIES
from tasks.t5.decoding import Answered, cut_for_workers
from tasks.workplace import store_of

#: So many parts for each worker: those that are done first take on what others have not begun.
PARTS_PER_WORKER = 3
#: How long a scheduler may take to answer, and how long there may be no worker, in seconds.
CONNECT_SECONDS = 20.0
NOBODY_SECONDS = 60.0
_LOOK_SECONDS = 5.0
#: What a Dask scheduler says that has no such module.
_UNREADABLE = "deserialization"


@task(name="answer-part", persist_result=False, cache_policy=NO_CACHE, **RETRIES)
def answer_part(part: EvaluationPart) -> list[Answered]:
    """Answer some of an evaluation's questions, on a worker."""
    # Imported there: a task travels with all that its body names.
    from tasks.running.on_a_worker import answer_evaluation

    return answer_evaluation(part)


@task(name="batch-answer-part", persist_result=False, cache_policy=NO_CACHE, **RETRIES)
def answer_batch_part(part: BatchPart) -> list[Answer]:
    """Answer some of a file's questions, on a worker."""
    from tasks.running.on_a_worker import answer_batch

    return answer_batch(part)


def require(fan_out: FanOut) -> None:
    """Say before any work is done that what it takes to share it is missing.

    Raises
    ------
    ConfigError
        If workers are asked for and prefect-dask is not installed.
    """
    if fan_out.asked_for and find_spec("prefect_dask") is None:
        option = "a scheduler" if fan_out.scheduler else f"{fan_out.workers} workers"
        raise ConfigError(
            f"{option} cannot be used: prefect-dask is not installed. Install it with: pip install -c constraints.txt "
            "-e '.[cloud-scale]'"
        )


@contextmanager
def asking(config: EvaluationConfig, model: ModelRef, run: Run) -> Iterator[Ask | None]:
    """Give what asks the run's workers the evaluation's questions; None where this process is to answer them.

    Raises
    ------
    ConfigError
        If prefect-dask is not installed.
    WorkersError
        If the workers cannot be had.
    """
    if not run.fan_out.asked_for:
        yield None
        return
    with workers(run.fan_out, run) as pool:

        def ask(which: Which, questions: Sequence[str], progress: Progress, trie: Trie | None = None) -> list[Answered]:
            return _ask(pool, config, model, run, which, questions, progress, trie)

        yield ask


@contextmanager
def asking_packages(given: Job) -> Iterator[AskPackage]:
    """Give what asks the run's workers a file's questions, each with a package of its own.

    Raises
    ------
    ConfigError
        If prefect-dask is not installed.
    WorkersError
        If the workers cannot be had.
    """
    with workers(given.run.fan_out, given.run) as pool:

        def ask(parts: Sequence[Sequence[str]]) -> Iterator[tuple[int, list[Answer]]]:
            handed = [BatchPart(tuple(part), given.deployed, given.run) for part in parts]
            for number, found in pool.run(answer_batch_part, handed, label=f"answer {given.deployed.mlkey}"):
                yield number, [Answer(*each) for each in found]

        yield ask


def _ask(
    pool: "Workers",
    config: EvaluationConfig,
    model: ModelRef,
    run: Run,
    which: Which,
    questions: Sequence[str],
    progress: Progress,
    trie: Trie | None,
) -> list[Answered]:
    if not questions:
        return []
    cut = cut_for_workers(
        load_tokenizer(store_of(run).verify("model", model.sha256)),
        questions,
        prompt=model.prompt,
        max_source_tokens=model.max_source_tokens,
        batch_size=config.batch_size,
        parts=PARTS_PER_WORKER * pool.count,
    )
    same = versions()
    parts = [
        EvaluationPart(which, tuple(questions[index] for index in part), model, config, run, same, trie) for part in cut
    ]
    answers = [Answered("", 0.0)] * len(questions)
    done = 0
    for number, given in pool.run(answer_part, parts, label=f"answer {which}"):
        for index, answer in zip(cut[number], given, strict=True):
            answers[index] = Answered(*answer)
        done += len(given)
        progress(done / len(questions), f"{done}/{len(questions)} questions, {pool.count} workers")
    return answers


@contextmanager
def workers(fan_out: FanOut, run: Run) -> Iterator["Workers"]:
    """Start the workers, or find those of the scheduler, for the length of the block.

    Raises
    ------
    ConfigError
        If prefect-dask is not installed.
    WorkersError
        If the scheduler does not answer, or nobody works for it; retryable.
    """
    require(fan_out)
    import dask
    from prefect_dask import DaskTaskRunner

    where = fan_out.scheduler or "this machine"
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_settings(fan_out)))
        runner = stack.enter_context(DaskTaskRunner(**_place(fan_out, run)))
        try:
            client: Any = runner.client
            client.wait_for_workers(1, timeout=NOBODY_SECONDS)
        except TimeoutError as error:
            raise WorkersError(
                f"nobody works for the Dask scheduler {where}: start workers with dask worker {where}", retryable=True
            ) from error
        except (OSError, ValueError) as error:
            raise WorkersError(
                f"no Dask scheduler answers at {where}: {error}. Start one with dask scheduler, and give its address",
                retryable=True,
            ) from error
        yield Workers(runner, client, where)


def _place(fan_out: FanOut, run: Run) -> dict[str, Any]:
    """Return DaskTaskRunner's own options."""
    if fan_out.scheduler is not None:
        return {"address": fan_out.scheduler, "client_kwargs": {"timeout": CONNECT_SECONDS}}
    return {
        "cluster_kwargs": {
            "n_workers": fan_out.workers,
            "threads_per_worker": 1,
            "host": "127.0.0.1",
            "dashboard_address": None,
            "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},  # where it would still listen, on 8787
            "memory_limit": 0,  # a model takes what it takes; Dask's limit would stop the worker for it
            "local_directory": str(run.state_dir / "work" / "dask"),
        }
    }


def _settings(fan_out: FanOut) -> dict[str, Any]:
    """Return Dask's settings: workers of this machine share its processors, unless the environment says otherwise."""
    if fan_out.scheduler is not None:
        return {}
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, processors // fan_out.workers)
    before_start = "distributed.nanny.pre-spawn-environ"
    said = {f"{before_start}.{name}": threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**said, "distributed.scheduler.http.routes": []}


class Workers:
    """Workers that are there, and Prefect's runner that hands them parts."""

    def __init__(self, runner: Any, client: Any, where: str) -> None:
        self._runner = runner
        self._client = client
        self._where = where

    @property
    def count(self) -> int:
        """How many there are now, at least 1."""
        return max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def run(self, part_task: Task[Any, Any], parts: Sequence[Any], *, label: str) -> Iterator[tuple[int, Any]]:
        """Have every part done, as one task run each, and yield (number, result) as they come.

        A few parts for each worker are under way at a time.

        Raises
        ------
        WorkersError
            If a part took one worker after another with it, or no worker is left.
        """
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        under_way: dict[int, Any] = {}
        waiting = iter(range(len(parts)))
        nobody = 0.0

        def hand_out() -> None:
            number = next(waiting, None)
            if number is None:
                return
            named = part_task.with_options(task_run_name=f"{label}, part {number + 1} of {len(parts)}")
            under_way[number] = self._runner.submit(named, parameters={"part": parts[number]})
            under_way[number].wrapped_future.add_done_callback(lambda _, number=number: done.put(number))

        try:
            for _ in range(PARTS_PER_WORKER * self.count):
                hand_out()
            while under_way:
                try:
                    number = done.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    nobody = nobody + _LOOK_SECONDS if self._deserted() else 0.0
                    if nobody > NOBODY_SECONDS:
                        raise WorkersError(
                            f"no Dask worker is left at {self._where}: start some, and run again. Their own output "
                            "says why they ended; one without this checkout ends at its first part",
                            retryable=True,
                        ) from None
                    continue
                result = self._result(under_way.pop(number))
                hand_out()
                yield number, result
        finally:
            self._client.cancel([future.wrapped_future for future in under_way.values()])

    def _deserted(self) -> bool:
        return not self._client.scheduler_info(n_workers=-1)["workers"]

    def _result(self, future: Any) -> Any:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise WorkersError(
                f"{error.allowed_failures + 1} Dask workers at {self._where} died one after the other of the same "
                "part, most likely for want of memory: use fewer workers on a machine, or a smaller "
                "--evaluation.batch-size"
            ) from error
        except CancelledError as error:
            raise WorkersError(
                f"the Dask scheduler at {self._where} has gone in the middle: {error}", retryable=True
            ) from error
        except (ImportError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and _UNREADABLE not in str(error):
                raise
            raise WorkersError(
                f"the Dask scheduler or workers at {self._where} cannot read what they are to do: they lack this code. "
                "Install the same checkout there, with its .[cloud-scale], and start scheduler and workers again"
            ) from error
