"""The training loop: Hugging Face's ``Seq2SeqTrainer``, made silent, repeatable and resumable."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState  # type: ignore[import-untyped]
from torch.utils.data import Sampler
from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from askline.errors import TrainingError
from askline.progress import Progress
from tasks.threads import threads_for
from tasks.training.checkpoints import newest_whole
from tasks.training.examples import Examples, LengthGroupedSampler, collate
from tasks.training.recipe import Recipe

log = logging.getLogger("askline.training")


class RepeatableTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer whose order of examples is a function of the seed and the epoch alone."""

    def __init__(self, *, recipe: Recipe, **options: Any) -> None:
        self._recipe = recipe
        super().__init__(**options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        examples = train_dataset if train_dataset is not None else self.train_dataset
        return LengthGroupedSampler(examples.lengths, self._recipe.batch_size, self._recipe.seed)


class Watch(TrainerCallback):
    """Tells how far training is, and stops it when the loss is no number."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = self._told = 0.0
        self._first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time and the step at which this process starts."""
        self._started = time.monotonic()
        self._first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Look at one step's loss."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        step = state.global_step
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step}: training has diverged. Lower --training.learning-rate"
                + (", or use --training.precision fp32" if args.bf16 else "")
            )
        now = time.monotonic()
        if step < state.max_steps and now - self._told < 0.25:
            return
        self._told = now
        left = (now - self._started) / max(1, step - self._first) * (state.max_steps - step)
        self._progress(step / state.max_steps, f"step {step}/{state.max_steps} loss {loss:.2f} eta {left:.0f} s")


def train(
    model: Any, examples: Examples, recipe: Recipe, *, folder: Path, checkpoint_steps: int, progress: Progress
) -> tuple[list[dict[str, float]], float]:
    """Train ``model`` in place and return (loss curve, epochs).

    The curve has one entry a step: ``step``, ``epoch``, ``loss``, ``learning_rate``, ``grad_norm``. Checkpoints go into
    ``folder``; when it holds a whole one, training goes on from there, with the same result as if it had not stopped.

    Raises
    ------
    TrainingError
        If the loss is not finite, memory runs out or a checkpoint cannot be written.
    """
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=max(1, recipe.batch_size // PartialState().num_processes),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_strategy="steps",
        save_steps=checkpoint_steps,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    with _silence(), threads_for(model):
        trainer = RepeatableTrainer(
            recipe=recipe,
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=collate,
            callbacks=[Watch(progress)],
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = newest_whole(folder)
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"out of memory with {recipe.batch_size} questions per step; lower --training.batch-size"
            ) from error
        except OSError as error:
            raise TrainingError(
                f"cannot write a checkpoint to {folder}: {error.strerror or error}. Free some space or choose another "
                "folder with --state-dir; the next run goes on from the last whole checkpoint"
            ) from error
    keys = ("step", "epoch", "loss", "learning_rate", "grad_norm")
    curve = [
        {key: entry[key] for key in keys if key in entry} for entry in trainer.state.log_history if "loss" in entry
    ]
    return curve, float(trainer.state.epoch or 0.0)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers from printing; what matters is told through ``progress`` and errors."""
    before = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()
