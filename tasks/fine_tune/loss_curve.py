"""The loss curve: noted in every step, read from the device now and then, told to whoever listens."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from askline.errors import TrainingError
from askline.progress import Progress
from tasks.fine_tune.batches import Facts
from tasks.fine_tune.fp16 import Overflows
from tasks.fine_tune.throughput import Meter

#: On a GPU, and with several processes, losses are fetched once in so many steps: each fetch waits for the device.
STEPS_BETWEEN_LOOKS = 10
#: Progress is told this often, in seconds.
SECONDS_BETWEEN_WORDS = 0.25
#: Rates are taken over at least so many seconds.
SECONDS_BETWEEN_RATES = 2.0


class Curve:
    """One entry a step: ``step``, ``epoch``, ``loss``, ``learning_rate``, ``grad_norm`` and ``tokens`` so far.

    Parameters
    ----------
    questions
        Names the examples with these numbers, for the message when the loss is no number.
    speed_log
        File for rates, one line each; they differ from run to run, and so stand in no artifact.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        progress: Progress,
        questions: Callable[[Sequence[int]], str],
        half: Overflows | None,
        every_step: bool,
        speed_log: Path | None,
    ) -> None:
        self._meter = meter
        self._progress = progress
        self._questions = questions
        self._half = half
        self._every_step = every_step
        self._speed_log = speed_log
        self._facts: Facts | None = None
        self._loss: torch.Tensor | None = None
        self._pending: list[tuple[dict[str, Any], torch.Tensor | float, Any, Facts]] = []
        self._told = self._rated = 0.0
        self._rates: dict[str, float] = {}

    def begin(self, facts: Facts) -> None:
        """Take what is counted of the next step's whole batch."""
        self._facts = facts

    def saw(self, loss: torch.Tensor) -> None:
        """Take this process's part of the step's loss, still on the device."""
        self._loss = loss

    def close(self, state: Any, grad_norm: Any, learning_rate: float | None) -> bool:
        """Note the step that the optimizer has just taken; False where there was none since the last call."""
        facts, loss, self._loss = self._facts, self._loss, None
        if loss is None or facts is None:
            return False
        entry = {"step": state.global_step, "epoch": state.epoch, "learning_rate": learning_rate}
        self._pending.append((entry, loss, grad_norm, facts))
        self._meter.add(facts)
        return True

    def is_due(self) -> bool:
        """Say whether it is time to read the losses."""
        return self._every_step or len(self._pending) >= STEPS_BETWEEN_LOOKS

    def flush(self, trainer: Any) -> None:
        """Read the losses that are pending, add them to the trainer's history, and tell.

        Raises
        ------
        TrainingError
            If one is not finite: with the step, and the questions of the batch that caused it.
        HalfOverflowError
            If fp16 overflows again and again.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        losses = torch.stack([torch.as_tensor(loss).float() for _, loss, _, _ in pending])
        if trainer.args.world_size > 1:
            losses = trainer.accelerator.reduce(losses, reduction="mean")
        history = trainer.state.log_history
        before = next((entry["tokens"] for entry in reversed(history) if "tokens" in entry), 0)
        for (entry, _, norm, facts), loss in zip(pending, losses.tolist(), strict=True):
            norm = float(norm) if norm is not None else 0.0
            self._check(entry["step"], loss, norm, facts, trainer)
            before += facts.source_tokens + facts.target_tokens
            told = {
                "loss": loss,
                "grad_norm": norm,
                "learning_rate": entry["learning_rate"],
                "epoch": entry["epoch"],
                "tokens": before,
            }
            history.append({**told, "step": entry["step"]})
        self._tell(trainer, pending[-1][0]["step"], told)

    def _check(self, step: int, loss: float, norm: float, facts: Facts, trainer: Any) -> None:
        finite = math.isfinite(loss) and math.isfinite(norm)
        if self._half is not None:
            self._half.see(step, finite=finite)
        elif not finite:
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
            raise TrainingError(
                f"{what} at step {step}: training has diverged. The batch that caused it: "
                f"{self._questions(facts.rows)}. Look at these rows, lower --training.learning-rate"
                + (", or use --training.precision fp32" if trainer.args.bf16 else "")
            )

    def _tell(self, trainer: Any, step: int, told: dict[str, float]) -> None:
        state, now = trainer.state, time.monotonic()
        last = step >= state.max_steps
        if now - self._told < SECONDS_BETWEEN_WORDS and not last:
            return
        self._told = now
        if now - self._rated >= SECONDS_BETWEEN_RATES or not self._rates or last:
            self._rated = now
            self._rates = self._meter.rates()
            if self._speed_log is not None and trainer.is_world_process_zero():
                with self._speed_log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **self._rates}) + "\n")
        trainer.control = trainer.callback_handler.on_log(trainer.args, state, trainer.control, {**told, **self._rates})
        left = self._meter.seconds_a_step() * (state.max_steps - step)
        self._progress(
            step / state.max_steps,
            f"step {step}/{state.max_steps} loss {told['loss']:.2f} eta {_duration(left)} · {words(self._rates)}",
        )


def words(rates: dict[str, float]) -> str:
    """Say rates in a few words."""
    said = (
        f"{rates['tokens_per_second']:,.0f} tokens/s · {rates['samples_per_second']:,.1f} questions/s · "
        f"{rates['memory_mb'] / 1024:.1f} GB"
    )
    return said + (f" · MFU {rates['mfu']:.0%}" if "mfu" in rates else "")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
