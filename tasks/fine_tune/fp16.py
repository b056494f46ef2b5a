"""fp16 for GPUs that have no bf16, and the guard against T5's overflow in it."""

from typing import Any

import torch

#: So many steps in a row whose gradients overflow, though the loss is scaled down by two each time, are no accident.
OVERFLOWS = 24


class HalfOverflowError(Exception):
    """fp16 does not hold this model's numbers."""

    def __init__(self, step: int) -> None:
        super().__init__(f"fp16 overflowed in {OVERFLOWS} steps in a row, up to step {step}")
        self.step = step


def keep_in_fp32(model: Any) -> None:
    """Have the feed-forward blocks' output layers (``wo``) compute in fp32 under autocast.

    The products there exceed 65504 in many T5 checkpoints; transformers keeps the same layers in fp32 where a whole
    model is cast to fp16.
    """
    for name, module in model.named_modules():
        if name.endswith(".wo") and isinstance(module, torch.nn.Linear):
            module.forward = _InFp32(module)  # type: ignore[method-assign, assignment]


class _InFp32:
    """A linear layer's forward pass outside autocast."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer = layer

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return torch.nn.functional.linear(values.float(), self._layer.weight, self._layer.bias)


class Overflows:
    """Counts steps in a row whose gradients are not finite: with a scaled loss one now and then is no harm."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def see(self, step: int, *, finite: bool) -> None:
        """Look at one step.

        Raises
        ------
        HalfOverflowError
            If too many in a row were not finite.
        """
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= OVERFLOWS:
            raise HalfOverflowError(step)
