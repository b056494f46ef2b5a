"""What a Dask worker does of a step: it answers one part of the questions.

A worker is a process that lives on between parts, on this machine or another. It keeps the model that it loaded last,
and answers one part at a time. :mod:`tasks.running.workers` hands out the parts.
"""

import importlib.metadata
import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from askline.config import EvaluationConfig
from askline.errors import ArtifactError, WorkersError
from askline.records import ModelRef, Run
from tasks.ask.answer import Answer
from tasks.ask.package import PackagedEngine
from tasks.batch_answer.batch_answer import open_engine
from tasks.deploy_serverless.served_package import Deployed
from tasks.evaluate.evaluate import ROOMS, Which, answer, load, precision_for
from tasks.identity import code_of
from tasks.qa.answers import Trie
from tasks.running.connect import prepare_environment
from tasks.t5.decoding import Answered
from tasks.workplace import Workplace, store_of

#: What has a say in an answer, and so must be the same on every machine. A build of torch for CUDA counts as the same
#: version as the one for processors.
LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class EvaluationPart:
    """Some questions of an evaluation."""

    which: Which
    questions: tuple[str, ...]
    model: ModelRef
    config: EvaluationConfig
    run: Run
    versions: dict[str, str]
    """What :func:`versions` says where the evaluation runs."""
    trie: Trie | None = None
    """Of the known answers that the model is to choose from."""


@dataclass(frozen=True)
class BatchPart:
    """Some questions of a file."""

    questions: tuple[str, ...]
    deployed: Deployed
    run: Run


#: One part at a time, whatever number of threads the worker has: a model in use has settings of its own.
_busy = threading.Lock()
_loaded: tuple[tuple[str, str], tuple[Any, Any]] | None = None
_engine: tuple[str, PackagedEngine] | None = None


def answer_evaluation(part: EvaluationPart) -> list[Answered]:
    """Return the answers to a part's questions, in their order.

    Raises
    ------
    WorkersError
        If this machine lacks the model, or would answer with other versions of code or libraries.
    """
    global _loaded
    with _busy:
        run = on_this_machine(part.run)
        _compare(part.versions)
        prepare_environment(run.target)
        _take_a_gpu()
        wanted = (part.which, part.model.sha256)
        if _loaded is None or _loaded[0] != wanted:
            _loaded = None  # not two models at once
            folder = _model_folder(part, run)
            _loaded = wanted, load(part.which, folder, part.model, place=Workplace.of(run))
        precision = precision_for(part.config, part.model.parameters)
        return answer(
            _loaded[1],
            part.model,
            part.questions,
            batch_size=part.config.batch_size,
            precision=precision,
            trie=part.trie,
        )


def answer_batch(part: BatchPart) -> list[Answer]:
    """Return the package's answers to a part's questions, in their order.

    The engine uses as many threads as ``OMP_NUM_THREADS`` says, one where it says nothing.

    Raises
    ------
    ArtifactError, CloudError, PackageError
        If this machine cannot have the package, or it fails.
    """
    global _engine
    with _busy:
        wanted = part.deployed.archive_sha256
        if _engine is None or _engine[0] != wanted or not _engine[1].is_alive:
            if _engine is not None:
                _engine[1].close()
                _engine = None
            said = os.environ.get("OMP_NUM_THREADS", "")
            threads = int(said) if said.isdecimal() else 1
            _engine = wanted, open_engine(part.deployed, on_this_machine(part.run), threads=threads)
        return _engine[1].ask(part.questions)


def on_this_machine(run: Run) -> Run:
    """Return the run with a state folder that there is: the run's own, or on another machine one of the worker's.

    That is ``.askline`` in ``ASKLINE_HOME`` or else in the folder in which the worker was started.
    """
    if run.state_dir.is_dir():
        return run
    return run.model_copy(update={"state_dir": Path(os.environ.get("ASKLINE_HOME") or ".").resolve() / ".askline"})


def _lacks(what: str, run: Run) -> WorkersError:
    """Return the error of a worker that cannot see what the run has made."""
    here = socket.gethostname()
    if run.artifact_store is None:
        remedy = (
            f"the run keeps its artifacts in {run.state_dir} alone: let workers on other machines see that folder at "
            "the same path, or set --artifact-store to a place that all of them reach (s3://bucket/prefix)"
        )
    else:
        remedy = (
            f"it is not in {run.artifact_store} as this machine sees it: a folder must be mounted there at the same "
            "path, a bucket must be readable with the worker's credentials"
        )
    return WorkersError(f"the Dask worker on {here} does not find {what}: {remedy}")


def versions() -> dict[str, str]:
    """Return the versions of what answers, by name; askline's own code counts by a hash of it."""
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return found | {"askline's code": code_of(*ROOMS, "running.on_a_worker")[:12]}


def _compare(expected: dict[str, str]) -> None:
    found = versions()
    others = [f"{name} {found[name]} instead of {value}" for name, value in expected.items() if found[name] != value]
    if others:
        raise WorkersError(
            f"the Dask worker on {socket.gethostname()} has {', '.join(others)}: its answers could be others. Install "
            "the same there (make, in the same checkout) and start the worker again"
        )


def _model_folder(part: EvaluationPart, run: Run) -> Path:
    try:
        return store_of(run).verify("model", part.model.sha256)
    except ArtifactError as error:
        if error.retryable:
            raise
        raise _lacks(f"the model {part.model.sha256[:12]}", part.run) from error


def _take_a_gpu() -> None:
    """Spread the workers of a machine over its GPUs, by the number at the end of their names or addresses."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        from distributed import get_worker

        number = re.search(r"(\d+)$", str(get_worker().name))
        torch.cuda.set_device(int(number[1]) % count if number else 0)
