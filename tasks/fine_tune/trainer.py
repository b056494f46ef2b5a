"""Hugging Face's ``Seq2SeqTrainer``, made repeatable, able to go on, and light.

What is its own here: the order and division of batches (:mod:`tasks.fine_tune.batches`), a loss that is the mean over
all tokens of a step however it is divided, smaller pieces when memory runs out, checkpoints that are renamed whole, and
a loss curve that is read from the device now and then rather than in every step.
"""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin  # type: ignore[import-untyped]
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer

from askline.errors import TrainingError
from tasks.fine_tune.batches import Facts, loader
from tasks.fine_tune.checkpoints import WRITING, publish, seal, thin_out
from tasks.fine_tune.early_stopping import EarlyStopping
from tasks.fine_tune.examples import IGNORED
from tasks.fine_tune.loss_curve import Curve
from tasks.fine_tune.machine import Choices
from tasks.fine_tune.micro_batch import MicroBatch, free, is_out_of_memory
from tasks.fine_tune.recipe import Recipe
from tasks.fine_tune.remote_checkpoints import CheckpointStore
from tasks.fine_tune.sharding import gathered
from tasks.fine_tune.stop import StopSignal

#: Beside the trainer's own state in a checkpoint: what else the next process needs to go on alike.
STATE = "askline_state.json"


class RepeatableTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer whose result is a function of the recipe, the base and the dataset alone."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        choices: Choices,
        micro: MicroBatch,
        curve: Curve,
        stop: StopSignal,
        early: EarlyStopping | None,
        remote: CheckpointStore | None,
        **options: Any,
    ) -> None:
        self._recipe = recipe
        self._choices = choices
        self._micro = micro
        self._curve = curve
        self._stop = stop
        self._early = early
        self._remote = remote
        self._writing: Path | None = None
        self._positions: torch.Tensor | None = None
        self.control: Any
        self.is_fsdp_enabled: bool
        self._sharded = choices.sharding == "full"
        super().__init__(**options)
        output_layer(self.model).register_forward_pre_hook(self._only_where_needed)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, with FSDP on CPUs too where the model is divided.

        accelerate 1.15 passes over its plugin unless the processes have accelerators (``AcceleratorState``); set here
        are the two fields that it sets for these, and the one that the stock trainer has read from them by now.
        """
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self._sharded and not self.is_fsdp_enabled:
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    # --- batches ------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's loader; it is not divided again."""
        return loader(
            self.train_dataset,
            self._recipe,
            rank=self.args.process_index,
            processes=self.args.world_size,
            multiple=self._choices.multiple,
            workers=self._choices.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return the label tokens of the whole step; with them the processes agree whether to stop."""
        facts: Facts = batch_samples[0]["facts"]
        if self.args.world_size > 1:
            own = torch.tensor([*facts[1:], int(self._stop.asked)], device=device)
            *counts, asked = self.accelerator.reduce(own, reduction="sum").tolist()
            facts = Facts(facts.rows, *counts)
            self._stop.asked = asked > 0
        self._curve.begin(facts)
        return facts.target_tokens

    # --- one step -----------------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add up the gradients of one process's share of a step, in as many pieces as memory asks for.

        Parameters
        ----------
        model
            T5ForConditionalGeneration, or what accelerate wraps it in.
        inputs
            What :class:`~tasks.fine_tune.batches.Collate` made: int64 ``input_ids`` and ``attention_mask``
            (rows, source tokens), ``labels`` (rows, target tokens), and ``facts``.
        num_items_in_batch
            Label tokens of the whole step, of all processes.

        Returns
        -------
        torch.Tensor
            fp32, shape (): this process's part of the mean loss of a label token.
        """
        model.train()
        tensors = self._prepare_inputs({name: value for name, value in inputs.items() if name != "facts"})
        count = len(inputs["facts"].rows)
        while True:
            try:
                loss = self._forward_backward(model, tensors, int(num_items_in_batch))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.args.world_size > 1:
                    raise TrainingError(
                        f"out of memory with {count} rows at once in one of {self.args.world_size} processes; set "
                        "--training.micro-batch to fewer: the batch stays the same"
                    ) from error
                said = str(error).strip().split("\n")[0]
            # Outside the handler, whose traceback keeps the failed attempt's tensors.
            model.zero_grad()
            free()
            self._micro.shrink(model, count, said=said)
        self._curve.saw(loss)
        return loss

    def _forward_backward(self, model: Any, tensors: dict[str, torch.Tensor], total: int) -> torch.Tensor:
        """Return the loss of the rows in ``tensors``, shape (), after its gradients were added to the weights'."""
        pieces = list(self._micro.pieces(tensors))
        sums = []
        for number, piece in enumerate(pieces, start=1):
            last = number == len(pieces)
            # A divided model adds each piece's gradients up at once: what waits would be whole in each process.
            with nullcontext() if last or self._sharded else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self._share_of_loss(model, piece, total)
                self.accelerator.backward(loss)
            sums.append(loss.detach())
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Return the context of a forward pass; accelerate puts one around the model itself unless it is divided."""
        return self.accelerator.autocast() if self._sharded else super().autocast_smart_context_manager(cache_enabled)

    def _share_of_loss(self, model: Any, inputs: dict[str, torch.Tensor], total: int) -> torch.Tensor:
        """Return this piece's part of the mean over the step's ``total`` label tokens, shape ().

        The output layer and the softmax see the positions that have a label; the others would be thrown away. Gradients
        are averaged over the processes, so that each weighs its part by their number.

        ``input_ids`` and ``attention_mask`` are (rows, source tokens), ``labels`` (rows, target tokens) with
        :data:`~tasks.fine_tune.examples.IGNORED` where there is none. Only the logits of labelled positions are
        computed: (1, labelled positions, vocabulary).
        """
        labels = inputs.pop("labels")
        decoder_input_ids = self._shift_right(labels)
        labels = labels.flatten()
        self._positions = (labels != IGNORED).nonzero().squeeze(1)
        empty = len(self._positions) == 0
        if empty:  # a share of nothing but filling takes part all the same
            self._positions = torch.zeros(1, dtype=torch.long, device=labels.device)
        try:
            logits = model(**inputs, decoder_input_ids=decoder_input_ids, use_cache=False).logits
        finally:
            positions, self._positions = self._positions, None
        logits = logits.view(-1, logits.shape[-1])
        if empty:
            nothing: torch.Tensor = logits.float().sum() * 0.0
            return nothing
        loss: torch.Tensor = cross_entropy(
            logits.float(), labels[positions], label_smoothing=self._recipe.label_smoothing
        )
        weight = len(positions) * self.args.world_size
        return loss if weight == total else loss * (weight / total)

    def _shift_right(self, labels: torch.Tensor) -> torch.Tensor:
        """Return what the decoder reads: the labels, (rows, target tokens), one place later, after its start token."""
        config = self.model.config
        shifted = labels.new_zeros(labels.shape)
        shifted[:, 1:] = labels[:, :-1]
        shifted[:, 0] = config.decoder_start_token_id
        filled: torch.Tensor = shifted.masked_fill_(shifted == IGNORED, config.pad_token_id)
        return filled

    def _only_where_needed(self, layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hand the output layer only the positions that have a label; everything, where something is generated.

        ``arguments`` holds the decoder's output, (rows, target tokens, width); returned is (1, positions, width).
        """
        if self._positions is None:
            return None
        hidden = arguments[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._positions).unsqueeze(0),)

    def floating_point_ops(self, inputs: Any) -> int:
        """Count nothing here: the stock method walks through all parameters in every step."""
        return 0

    # --- after a step -------------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: Any,
        model: Any,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: Any,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        """Note the step, look at the scores, and save where it is time to, or where somebody asked to stop."""
        new = self._curve.close(self.state, grad_norm, learning_rate)
        if new and self._early is not None and self._early.is_due(self.state.global_step, self.state.max_steps):
            self._curve.flush(self)
            if self._early.measure(self._whole(), self.state.global_step, self.args.process_index):
                self.control.should_training_stop = self.control.should_save = True
        if new and self._stop.asked and self.state.global_step < self.state.max_steps:
            self._stop.obeyed = self.control.should_training_stop = self.control.should_save = True
        last = self.state.global_step >= self.state.max_steps
        if new and (self.control.should_save or last or self._curve.is_due()):
            self._curve.flush(self)
        if self.control.should_save and new:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_save = False

    def _whole(self) -> Any:
        """Return the model as the first process can ask it questions; None in the others where it is divided."""
        if not self._sharded:
            return self.model
        whole = gathered(self.model, first=self.args.process_index == 0)
        return whole.to(self.args.device) if whole is not None else None

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder for checkpoints: while one is written, the one aside."""
        return str(self._writing or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside, and rename it once it is whole."""
        folder = Path(self.args.output_dir)
        self._writing = folder / WRITING
        written = self._writing / f"checkpoint-{self.state.global_step}"
        first = self.args.should_save
        try:
            if first:
                shutil.rmtree(self._writing, ignore_errors=True)
                written.mkdir(parents=True)
            self._all_wait()
            super()._save_checkpoint(model, trial)
            self._all_wait()
            if first:
                state: dict[str, Any] = {"micro_batch": self._micro.rows, "checkpointing": self._micro.checkpointing}
                if self._early is not None:
                    state["early_stopping"] = self._early.state()
                (written / STATE).write_text(json.dumps(state), encoding="utf-8")
                seal(written)
                final = publish(written, folder)
                if self._remote is not None:
                    self._remote.save_remote(final)
                spare = self._remote.sending if self._remote else None
                thin_out(folder, spare=spare, up_to=self.state.global_step)
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            # torch and safetensors report a full disk as an error of their own, with the system's words in it.
            reason = getattr(error, "strerror", None) or first_line(error)
            if isinstance(error, CheckpointException):  # of a process that wrote its part: without the system's words
                failed = next(iter(error.failures.values()))[0]
                reason = f"{first_line(failed)} ({shutil.disk_usage(folder).free / 1e6:,.0f} MB were free)"
            shutil.rmtree(self._writing, ignore_errors=True)
            raise TrainingError(
                f"cannot write a checkpoint to {folder}: {reason}. Free some space or choose another folder with "
                "--state-dir; the next run goes on from the last whole checkpoint"
            ) from error
        finally:
            self._writing = None
        self._all_wait()

    def restore(self, checkpoint: Path) -> None:
        """Take from a checkpoint what the stock trainer knows nothing of."""
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        self._micro.rows = state["micro_batch"]
        if state["checkpointing"] and not self._micro.checkpointing:
            self._micro.shrink(self.model, 1)
        if self._early is not None and "early_stopping" in state:
            self._early.restore(state["early_stopping"])

    def _all_wait(self) -> None:
        self.accelerator.wait_for_everyone()


def output_layer(model: Any) -> torch.nn.Module:
    """Return the layer that gives a T5's logits, whatever is wrapped around the model."""
    layer: torch.nn.Module = model.get_output_embeddings()
    return layer


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or else its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
