"""The training itself, over plain folders: the same function in this process, under torchrun and in a container.

A :class:`TrainingJob` is all that a training needs to know and can be written as JSON; :func:`run_job` trains, and
leaves in ``job.output`` the files of a ``model`` artifact. Nothing here knows of Prefect, the artifact store or AWS.

Under torchrun (``RANK`` and ``WORLD_SIZE`` are set) every process calls :func:`run_job` with the same job. The
recipe's batch is then divided over the processes; the first of them trains the tokenizer, writes and tells progress,
and the folders must be ones that all of them see.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from askline.config import TrainingConfig
from askline.errors import TrainingError
from askline.progress import Progress, quiet
from askline.records import Record
from tasks.rows import read_rows
from tasks.training.base import Base, load_base
from tasks.training.recipe import SCRATCH, Recipe, choose_precision
from tasks.training.scratch import initial_model, small_t5, tokenizer_from_pieces, train_tokenizer

#: ``training_log.jsonl`` holds at most about this many steps, evenly spaced.
LOGGED_STEPS = 2000
LIBRARIES = ("torch", "transformers", "accelerate", "sentencepiece", "tokenizers")


class TrainingJob(Record):
    """One training: folders, settings and what to write about it. ``model_dump_json`` and back give the same job."""

    dataset: Path
    """Folder with ``train.jsonl``."""
    base: Path | None
    """Folder of the pretrained base, or None to train a tokenizer and a small T5 from the dataset."""
    base_name: str = SCRATCH
    """What messages call the base."""
    config: TrainingConfig
    recipe: Recipe
    """``config`` with everything filled in; a precision of "auto" is decided where the job runs."""
    unanswerable: str
    checkpoints: Path
    """Folder of this job's checkpoints and of nothing else; a job that was interrupted goes on from there."""
    output: Path
    """Empty folder, or one that can be made, for the trained model."""
    about: dict[str, Any] = Field(default_factory=dict)
    """Further facts for ``askline.json``: the dataset's and the base's identity."""


class JobResult(Record):
    """What a training did."""

    steps: int
    epochs: float
    train_loss: float
    """Mean over the last twentieth of the steps."""
    parameters: int
    precision: str
    seconds: float


def run_job(job: TrainingJob, *, progress: Progress = quiet) -> JobResult:
    """Train, and write the model into ``job.output``.

    Raises
    ------
    TrainingError
        If the base is damaged, the dataset is too small, the loss diverges, memory runs out or a checkpoint cannot be
        written.
    """
    from accelerate import PartialState  # type: ignore[import-untyped]
    from torch.cuda import is_available

    started = time.monotonic()
    processes = PartialState(cpu=not is_available())
    if not processes.is_main_process:
        progress = quiet
    rows = read_rows(job.dataset, "train")
    recipe = job.recipe.model_copy(update={"precision": choose_precision(job.recipe.precision)})
    try:
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        job.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot write to {error.filename}: {error.strerror}. Choose another folder with --state-dir"
        ) from error

    progress(0.0, "loading the base" if job.base else "training a tokenizer")
    if job.base is not None:
        model, tokenizer = load_base(Base(job.base, job.base_name, None, ""))
        pieces = job.base / "spiece.model"
    else:
        pieces = job.checkpoints / "spiece.model"
        if processes.is_main_process:
            train_tokenizer(rows, job.config.prompt, job.checkpoints)
        processes.wait_for_everyone()
        tokenizer = tokenizer_from_pieces(pieces)
        model = initial_model(small_t5(len(tokenizer)), tokenizer, recipe.seed)

    from tasks.training.examples import Examples
    from tasks.training.loop import train

    examples = Examples(
        rows,
        tokenizer,
        recipe,
        prompt=job.config.prompt,
        max_source_tokens=job.config.max_source_tokens,
        max_target_tokens=job.config.max_target_tokens,
        unanswerable=job.unanswerable,
        subwords=_subwords(pieces) if job.base is None else None,
    )
    curve, epochs = train(
        model,
        examples,
        recipe,
        folder=job.checkpoints,
        checkpoint_steps=job.config.checkpoint_steps,
        progress=progress,
    )
    if processes.is_main_process:
        _write(job, recipe, model, tokenizer, curve, pieces if pieces.is_file() else None)
    processes.wait_for_everyone()

    last = curve[-max(1, len(curve) // 20) :]
    return JobResult(
        steps=recipe.steps,
        epochs=epochs,
        train_loss=sum(entry["loss"] for entry in last) / len(last),
        parameters=model.num_parameters(),
        precision=recipe.precision,
        seconds=time.monotonic() - started,
    )


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape the weights, without importing them."""
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}


def _write(
    job: TrainingJob, recipe: Recipe, model: Any, tokenizer: Any, curve: list[dict[str, float]], pieces: Path | None
) -> None:
    from tasks.training.export import export

    config = job.config
    export(model, tokenizer, job.output, pieces=pieces, max_target_tokens=config.max_target_tokens)
    about = {
        "format": 1,
        "prompt": config.prompt,
        "max_source_tokens": config.max_source_tokens,
        "max_target_tokens": config.max_target_tokens,
        "unanswerable": job.unanswerable,
        "recipe": recipe.model_dump(),
        "versions": library_versions(),
    } | job.about
    (job.output / "askline.json").write_text(
        json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    every = math.ceil(len(curve) / LOGGED_STEPS)
    kept = [entry for number, entry in enumerate(curve, start=1) if number % every == 0 or number == len(curve)]
    text = "".join(json.dumps(entry) + "\n" for entry in kept)
    (job.output / "training_log.jsonl").write_text(text, encoding="utf-8")


def _subwords(pieces: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(pieces))
