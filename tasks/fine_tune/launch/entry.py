"""One process of a training: under torchrun on this machine, and in the container of a SageMaker job.

::

    torchrun --nproc-per-node 2 -m tasks.fine_tune.launch.entry --job job.json

The job file is a :class:`~tasks.fine_tune.job.TrainingJob`. In a container (``SM_MODEL_DIR`` is set) its folders are
those that SageMaker gives. Progress, the result and errors go to standard output as JSON lines, which
:mod:`tasks.fine_tune.launch.events` reads, wherever they are read from.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

from askline.errors import AsklineError, TrainingStoppedError
from askline.store import sha256_of_file
from tasks.fine_tune.job import JobResult, TrainingJob, run_job
from tasks.fine_tune.launch.events import ProcessEvent, tell

#: In a container, beside the model's files: what :func:`run_job` returned, and the sha256 of each file.
RESULT = "result.json"


def main(argv: list[str] | None = None) -> None:
    """Run this process's share of the training; exit with 1 where it fails."""
    parser = argparse.ArgumentParser(prog="python -m tasks.fine_tune.launch.entry")
    parser.add_argument("--job", type=Path, required=True, help="the job file")
    # SageMaker's launcher hands over every hyperparameter as an option; the others are there to be read by people.
    options, _ = parser.parse_known_args(argv)
    end_with_parent()
    rank = int(os.environ.get("RANK", "0"))
    try:
        job = TrainingJob.model_validate_json(options.job.read_text(encoding="utf-8"))
        if "SM_MODEL_DIR" in os.environ:
            job = in_container(job)
        result = run_job(job, progress=_progress)
    except Exception as error:  # noqa: BLE001 - told to whoever started the processes, who raises it there
        traceback.print_exc()
        message = str(error) if isinstance(error, AsklineError) else f"{type(error).__name__}: {error}"
        expected, stopped = isinstance(error, AsklineError), isinstance(error, TrainingStoppedError)
        tell(ProcessEvent(error=message, expected=expected, stopped=stopped, rank=rank))
        _write_failure(f"process {rank}: {message}")
        sys.exit(1)
    if rank == 0:
        if "SM_MODEL_DIR" in os.environ:
            _write_result(job.output, result)
        tell(ProcessEvent(result=result))


def in_container(job: TrainingJob) -> TrainingJob:
    """Return the job with the folders of this container instead of those of the machine that wrote it."""
    model = Path(os.environ["SM_MODEL_DIR"])
    return job.model_copy(
        update={
            "dataset": Path(os.environ["SM_CHANNEL_DATASET"]),
            "base": Path(os.environ["SM_CHANNEL_BASE"]) if job.base is not None else None,
            # The one folder of the convention that has no variable: it stands beside the model's.
            "checkpoints": model.parent / "checkpoints",
            "output": model,
        }
    )


def end_with_parent() -> None:
    """On Linux, have the kernel ask this process to stop (SIGTERM) when the process that started it dies.

    torchrun starts each process in a session of its own, so that no signal to a group reaches it.
    """
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _progress(share: float, message: str = "") -> None:
    tell(ProcessEvent(share=share, message=message))


def _write_result(folder: Path, result: JobResult) -> None:
    files = {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}
    facts = {"result": result.model_dump(mode="json"), "files": files}
    (folder / RESULT).write_text(json.dumps(facts), encoding="utf-8")


def _write_failure(message: str) -> None:
    """Leave the reason where SageMaker takes a job's FailureReason from; its launcher keeps a file that is there."""
    if "SM_MODEL_DIR" not in os.environ:
        return
    path = Path(os.environ["SM_MODEL_DIR"]).parent / "output" / "failure"
    try:
        with path.open("x", encoding="utf-8") as file:  # the first process to fail says why; the others follow from it
            file.write(message[:1024])
    except OSError:
        return


if __name__ == "__main__":
    main()
