"""Training a model on examples, from wherever an earlier process left off."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from accelerate import PartialState  # type: ignore[import-untyped]
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from torch.distributed.checkpoint.api import CheckpointException
from transformers import PrinterCallback, Seq2SeqTrainingArguments

from askline.config import TrainingConfig
from askline.errors import TrainingError, TrainingStoppedError
from askline.progress import Progress
from tasks.fine_tune.allocator import kept_memory
from tasks.fine_tune.batches import varies
from tasks.fine_tune.checkpoints import newest_whole, step_of
from tasks.fine_tune.early_stopping import EarlyStopping
from tasks.fine_tune.examples import Examples
from tasks.fine_tune.fp16 import Overflows, keep_in_fp32
from tasks.fine_tune.loss_curve import Curve
from tasks.fine_tune.machine import Choices, choose
from tasks.fine_tune.micro_batch import MicroBatch, checkpoint_activations
from tasks.fine_tune.recipe import Recipe
from tasks.fine_tune.remote_checkpoints import CheckpointStore
from tasks.fine_tune.sharding import choose_sharding, gathered, memory_of_a_process, shard
from tasks.fine_tune.stop import StopSignal
from tasks.fine_tune.throughput import Meter, forward_backward_flops, peak_flops
from tasks.fine_tune.trainer import RepeatableTrainer, first_line
from tasks.t5.activation import one_kernel_gelu
from tasks.t5.threads import threads_for

log = logging.getLogger("askline.training")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trained(NamedTuple):
    """What a training did."""

    curve: list[dict[str, float]]
    """One entry a step: ``step``, ``epoch``, ``loss``, ``learning_rate``, ``grad_norm``, ``tokens`` so far."""
    epochs: float
    rates: dict[str, float]
    """``tokens_per_second`` and ``samples_per_second`` of this process's steps, ``memory_mb``, ``mfu``."""
    model: Any
    """The model that was given; where the processes divided it, a whole copy in the first and None in the others."""
    notes: tuple[str, ...]
    """What had to be changed on the way, such as a smaller micro-batch."""


def train(
    model: Any,
    examples: Examples,
    recipe: Recipe,
    config: TrainingConfig,
    choices: Choices,
    *,
    folder: Path,
    questions: Callable[[Sequence[int]], str],
    early: EarlyStopping | None = None,
    events: Path | None = None,
    checkpoint_store: str | None = None,
    progress: Progress,
) -> Trained:
    """Train ``model``, in place; where ``choices`` say so it is divided over the processes first.

    Checkpoints go into ``folder``; when it holds a whole one, training goes on from there, with the same result as if
    it had not stopped.

    Raises
    ------
    TrainingError
        If the loss is not finite, memory runs out even with one row at once, or a checkpoint cannot be written.
    TrainingStoppedError
        After SIGTERM, with a checkpoint to go on from.
    HalfOverflowError
        If fp16 does not hold the model's numbers.
    """
    processes = PartialState()
    if choices.precision == "fp16":
        keep_in_fp32(model)
    micro = MicroBatch(config.micro_batch, checkpointing=config.gradient_checkpointing == "on")
    if micro.checkpointing:
        checkpoint_activations(model)
    remote = CheckpointStore(checkpoint_store) if checkpoint_store and processes.is_main_process else None
    sharded = choices.sharding == "full"
    with (
        _silence(),
        threads_for(model),
        one_kernel_gelu(model),
        # Where the model is divided, what was gathered is to be given back: memory is what it is divided for.
        nullcontext() if sharded or torch.cuda.is_available() else kept_memory(),
        StopSignal() as stop,
    ):
        device = processes.device
        if choices.tf32:
            torch.set_float32_matmul_precision("high")
        if sharded:
            shard(model, bf16=choices.precision == "bf16", device=device, processes=processes.num_processes)
        meter = Meter(model.config, device, peak_flops(device, _DTYPES[choices.precision]), processes.num_processes)
        curve = Curve(
            meter,
            progress=progress,
            questions=questions,
            half=Overflows() if choices.precision == "fp16" else None,
            every_step=device.type == "cpu" and processes.num_processes == 1,
            speed_log=events / "speed.jsonl" if events else None,
        )
        trainer = RepeatableTrainer(
            recipe=recipe,
            choices=choices,
            micro=micro,
            curve=curve,
            stop=stop,
            early=early,
            remote=remote,
            model=model,
            args=_arguments(recipe, config, choices, folder),
            train_dataset=examples,
            callbacks=_listeners(config, events),
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = _where_to_go_on(folder, remote, processes, sharded=sharded)
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
            trainer.restore(checkpoint)
        meter.start()
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except CheckpointException as error:  # which is no Exception
            raise TrainingError(
                f"cannot go on from {checkpoint}: {first_line(next(iter(error.failures.values()))[0])}. Remove it, and "
                "the next run goes on from the one before"
            ) from error
        finally:
            if remote is not None:
                remote.wait()
        if stop.obeyed:
            raise TrainingStoppedError(
                f"training was asked to stop (SIGTERM) and did so after step {trainer.state.global_step} of "
                f"{recipe.steps}; the checkpoint is kept. Run the same again to go on from there"
            )
        if sharded:
            model = gathered(model, first=processes.is_main_process)
        if early is not None and model is not None:
            early.load_best(model)
        rates = meter.rates(whole=True)
    keys = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens")
    steps = [{key: entry[key] for key in keys} for entry in trainer.state.log_history if "tokens" in entry]
    return Trained(steps, float(trainer.state.epoch or 0.0), rates, model, tuple(micro.notes))


def choices_for(model: Any, examples: Examples, recipe: Recipe, config: TrainingConfig) -> Choices:
    """Return how this machine trains ``model``, its adapter included, on ``examples``.

    Raises
    ------
    TrainingError
        If the model is to be divided over a single process.
    """
    divided = choose_sharding(
        config,
        processes=PartialState().num_processes,
        parameters=model.num_parameters(),
        trained=model.num_parameters(only_trainable=True),
        memory=memory_of_a_process(PartialState().device),
    )
    several = PartialState().num_processes > 1
    if several:  # machines may differ: the first process decides for all
        (divided,) = broadcast_object_list([divided])
    rows = recipe.steps * recipe.batch_size
    source = rows * sum(examples.lengths) // max(1, len(examples.lengths))
    flops = forward_backward_flops(model.config, source, source // 2, rows)
    with threads_for(model):
        return choose(config, recipe, total_flops=flops, varies=varies(recipe), divided=divided if several else None)


def _arguments(recipe: Recipe, config: TrainingConfig, choices: Choices, folder: Path) -> Seq2SeqTrainingArguments:
    options: dict[str, Any] = {}
    if choices.compile:
        options = {"torch_compile": True}
    if choices.sharding == "full":
        # The model is divided already (see shard), and accelerate is only to treat it so. Each process writes its part
        # of a checkpoint.
        options |= {
            "fsdp": True,
            "fsdp_config": {"version": 2, "auto_wrap_policy": "NO_WRAP", "state_dict_type": "SHARDED_STATE_DICT"},
        }
    return Seq2SeqTrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        # One batch of the loader is one process's share of a step; it is divided further where memory runs out.
        per_device_train_batch_size=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=choices.precision == "bf16",
        fp16=choices.precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        eval_strategy="no",
        report_to=[name for name in config.report_to if name != "tensorboard"] or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        **options,
    )


def _listeners(config: TrainingConfig, events: Path | None) -> list[Any]:
    """Return the callback that writes TensorBoard's event files, where they are wanted."""
    if events is None or not {"tensorboard", "all"} & set(config.report_to):
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(tb_writer=SummaryWriter(str(events)))]


def _where_to_go_on(folder: Path, remote: CheckpointStore | None, processes: Any, *, sharded: bool) -> Path | None:
    """Return the newest whole checkpoint, fetched from the remote place where that has a newer one."""
    kind = {"processes": processes.num_processes, "sharded": sharded}
    here = newest_whole(folder, **kind)
    if remote is not None:
        newer_than = step_of(here) if here is not None else -1
        fetched = remote.restore_remote(folder, newer_than=newer_than, **kind)
        here = fetched or here
    processes.wait_for_everyone()
    return newest_whole(folder, **kind) if processes.num_processes > 1 else here


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
