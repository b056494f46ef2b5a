"""The training itself, over plain folders: the same function in this process, under torchrun and in a container.

A :class:`TrainingJob` is all that a training needs to know and can be written as JSON; :func:`run_job` trains, and
leaves in ``job.output`` the files of a ``model`` artifact. Nothing here knows of Prefect, the artifact store or AWS.

Under torchrun (``RANK`` and ``WORLD_SIZE`` are set) every process calls :func:`run_job` with the same job. The
recipe's batch is then divided over the processes; the first of them trains the tokenizer, writes and tells progress,
and the folders must be ones that all of them see.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from askline.config import TrainingConfig
from askline.errors import TrainingError
from askline.progress import Progress, quiet
from askline.records import Record
from tasks.fine_tune.checkpoints import checkpoints_in
from tasks.fine_tune.lengths import Lengths, fit_lengths
from tasks.fine_tune.recipe import Recipe
from tasks.qa.rows import Row, read_rows
from tasks.t5.base import Base, load_base
from tasks.t5.scratch import SCRATCH, initial_model, small_t5, tokenizer_from_pieces, train_tokenizer
from tasks.t5.whole import check_reads

log = logging.getLogger("askline.training")

#: Of a batch whose loss is no number, so many questions are named.
NAMED = 8
#: ``training_log.jsonl`` holds at most about this many steps, evenly spaced.
LOGGED_STEPS = 2000
LIBRARIES = ("torch", "transformers", "accelerate", "sentencepiece", "tokenizers")


class TrainingJob(Record):
    """One training: folders, settings and what to write about it. ``model_dump_json`` and back give the same job."""

    dataset: Path
    """Folder with ``train.jsonl``, and ``validation.jsonl`` where there is one."""
    base: Path | None
    """Folder of the pretrained base, or None to train a tokenizer and a small T5 from the dataset."""
    base_name: str = SCRATCH
    """What messages call the base."""
    config: TrainingConfig
    recipe: Recipe
    """``config`` with everything filled in; a precision of "auto" is decided where the job runs."""
    unanswerable: str
    whole_groups: bool = False
    """Hold out whole groups where validation questions are taken from the training split, as the test split was."""
    checkpoints: Path
    """Folder of this job's checkpoints and of nothing else; a job that was interrupted goes on from there."""
    checkpoint_store: str | None = None
    """Another place for this job's checkpoints and nothing else, as an fsspec URL."""
    output: Path
    """Empty folder, or one that can be made, for the trained model."""
    events: Path | None = None
    """Folder for TensorBoard's event files and the rates, which differ from run to run and so belong to no model."""
    about: dict[str, Any] = Field(default_factory=dict)
    """Further facts for ``askline.json``: the dataset's and the base's identity."""


class JobResult(Record):
    """What a training did."""

    steps: int
    """Optimizer steps done: fewer than the recipe's where training stopped early."""
    epochs: float
    train_loss: float
    """Mean over the last twentieth of the steps."""
    parameters: int
    """Of the model, without an adapter's."""
    trained_parameters: int
    precision: str
    seconds: float
    choices: tuple[str, ...] = ()
    """What was chosen to suit the machine or changed on the way, a sentence each, with the reason."""
    rates: dict[str, float] = Field(default_factory=dict)
    """``tokens_per_second``, ``samples_per_second``, ``memory_mb`` (peak) and ``mfu`` (share of the machine's measured
    matrix-product peak), of the steps since the last start."""
    best_step: int | None = None
    """The step whose weights were kept by early stopping."""
    best_exact_match: float | None = None
    """Exact match on the validation questions at that step."""
    lengths: Lengths
    """How many tokens were read and written, and what that cut."""


def run_job(job: TrainingJob, *, progress: Progress = quiet) -> JobResult:
    """Train, and write the model into ``job.output``.

    Raises
    ------
    TrainingError
        If the base is damaged, the dataset is too small, the loss diverges, memory runs out or a checkpoint cannot be
        written.
    TrainingStoppedError
        After SIGTERM; the same job goes on from its checkpoint.
    """
    from tasks.fine_tune.fp16 import HalfOverflowError
    from tasks.fine_tune.micro_batch import is_out_of_memory

    try:
        return _run(job, progress)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory, though not in a step of the training: the model itself, the optimizer's state or a "
            "checkpoint did not fit. Train with --training.lora.rank 16, or use a smaller base or a larger machine"
        ) from error
    except HalfOverflowError as error:
        if job.config.precision != "auto":
            raise TrainingError(f"{error}; use --training.precision fp32, or bf16 where the GPU has it") from error
        for checkpoint in checkpoints_in(job.checkpoints):
            shutil.rmtree(checkpoint)
        again = job.model_copy(update={"config": job.config.model_copy(update={"precision": "fp32"})})
        done = _run(again, progress)
        return done.model_copy(update={"choices": (f"{error}: training started again in fp32", *done.choices)})


def _run(job: TrainingJob, progress: Progress) -> JobResult:
    from accelerate import PartialState  # type: ignore[import-untyped]
    from torch.cuda import is_available

    started = time.monotonic()
    processes = PartialState(cpu=not is_available())
    if not processes.is_main_process:
        progress = quiet
    config = job.config
    rows, validation = _rows(job)
    for folder in (job.checkpoints, job.output, job.events):
        _make(folder)

    progress(0.0, "loading the base" if job.base else "training a tokenizer")
    if job.base is not None:
        model, tokenizer = load_base(Base(job.base, job.base_name, None, ""))
        check_reads(tokenizer, [row.question for row in rows], config.max_unreadable, job.base_name)
        pieces = job.base / "spiece.model"
    else:
        pieces = job.checkpoints / "spiece.model"
        if processes.is_main_process:
            train_tokenizer(rows, config.prompt, job.checkpoints)
        processes.wait_for_everyone()
        tokenizer = tokenizer_from_pieces(pieces)
        model = initial_model(small_t5(len(tokenizer)), tokenizer, job.recipe.seed)

    from tasks.fine_tune.early_stopping import EarlyStopping
    from tasks.fine_tune.examples import Examples
    from tasks.fine_tune.loop import choices_for, train

    lengths = fit_lengths(config, rows, tokenizer)
    examples = Examples(
        rows,
        tokenizer,
        job.recipe,
        prompt=config.prompt,
        max_source_tokens=lengths.max_source_tokens,
        max_target_tokens=lengths.max_target_tokens,
        unanswerable=job.unanswerable,
        subwords=_subwords(pieces) if job.base is None else None,
    )
    parameters = trained = model.num_parameters()
    if config.lora.rank is not None:
        from tasks.fine_tune.lora import add_adapter

        model = add_adapter(model, config.lora, seed=job.recipe.seed)
        trained = model.num_parameters(only_trainable=True)
    choices = choices_for(model, examples, job.recipe, config)
    recipe = job.recipe.model_copy(update={"precision": choices.precision})
    for reason in (*choices.reasons, *lengths.reasons):
        log.info("%s", reason)
    progress(0.0, "; ".join(choices.reasons))
    early = None
    if validation:
        early = EarlyStopping(
            validation,
            tokenizer,
            every=config.early_stopping.steps,
            patience=config.early_stopping.patience,
            folder=job.checkpoints,
            prompt=config.prompt,
            max_source_tokens=lengths.max_source_tokens,
            max_target_tokens=lengths.max_target_tokens,
        )
    done = train(
        model,
        examples,
        recipe,
        config,
        choices,
        folder=job.checkpoints,
        questions=lambda numbers: _questions(rows, numbers),
        early=early,
        events=job.events if processes.is_main_process else None,
        checkpoint_store=job.checkpoint_store,
        progress=progress,
    )
    if processes.is_main_process:
        _write(job, recipe, lengths, done.model, tokenizer, done.curve, pieces if pieces.is_file() else None, early)
    processes.wait_for_everyone()

    last = done.curve[-max(1, len(done.curve) // 20) :]
    best = early.best if early is not None else None
    return JobResult(
        steps=len(done.curve),
        epochs=done.epochs,
        train_loss=sum(entry["loss"] for entry in last) / len(last),
        parameters=parameters,
        trained_parameters=trained,
        precision=recipe.precision,
        seconds=time.monotonic() - started,
        choices=choices.reasons + lengths.reasons + done.notes,
        rates=done.rates,
        best_step=best[0] if best else None,
        best_exact_match=best[1] if best else None,
        lengths=lengths,
    )


def _rows(job: TrainingJob) -> tuple[list[Row], list[Row]]:
    """Return (training rows, validation rows); the latter only where training may stop early."""
    rows = read_rows(job.dataset, "train")
    early = job.config.early_stopping
    if not early.enabled:
        return rows, []
    from tasks.fine_tune.early_stopping import hold_out

    if (job.dataset / "validation.jsonl").is_file():
        validation = read_rows(job.dataset, "validation")
        if validation:
            return rows, validation
    return hold_out(rows, share=early.fraction, seed=job.recipe.seed, whole_groups=job.whole_groups)


def _questions(rows: Sequence[Row], numbers: Sequence[int]) -> str:
    """Name the examples with these numbers, the first few in full."""
    named = [
        f"row {number + 1} ({rows[number].question!r})" if number < len(rows) else "an invented question"
        for number in numbers
        if number >= 0
    ]
    more = len(named) - NAMED
    return ", ".join(named[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _make(folder: Path | None) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot write to {folder}: {error.strerror}. Choose another folder with --state-dir"
        ) from error


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape the weights, without importing them."""
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}


def _write(
    job: TrainingJob,
    recipe: Recipe,
    lengths: Lengths,
    model: Any,
    tokenizer: Any,
    curve: list[dict[str, float]],
    pieces: Path | None,
    early: Any,
) -> None:
    from safetensors import SafetensorError

    from tasks.fine_tune.export import export

    config = job.config
    try:
        if config.lora.rank is not None:
            from tasks.fine_tune.lora import merge

            revision = job.about.get("base", {}).get("revision")
            model = merge(model, job.output, base=job.base_name, revision=revision)
        export(model, tokenizer, job.output, pieces=pieces, max_target_tokens=lengths.max_target_tokens)
        about = {
            "format": 1,
            "prompt": config.prompt,
            "max_source_tokens": lengths.max_source_tokens,
            "max_target_tokens": lengths.max_target_tokens,
            "unanswerable": job.unanswerable,
            "recipe": recipe.model_dump(),
            "versions": library_versions(),
        } | job.about
        if config.lora.rank is not None:
            about["lora"] = config.lora.model_dump(mode="json")
        (job.output / "askline.json").write_text(
            json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        every = math.ceil(len(curve) / LOGGED_STEPS)
        kept = [entry for number, entry in enumerate(curve, start=1) if number % every == 0 or number == len(curve)]
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        (job.output / "training_log.jsonl").write_text(text, encoding="utf-8")
        if early is not None:
            (job.output / "validation_log.jsonl").write_text(early.log(), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot write the model to {job.output}: {getattr(error, 'strerror', None) or error}. Free some space; "
            "the next run goes on from the last checkpoint"
        ) from error


def _subwords(pieces: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(pieces))
