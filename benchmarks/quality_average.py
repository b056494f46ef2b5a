"""An average of the weights, which the recipe does not have and the quality benchmark tries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def averaged(decay: float, steps: int) -> Iterator[None]:
    """While open, keep a moving average of whatever weights an optimizer updates, and end with it after ``steps``."""
    if not decay:
        yield
        return
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    means: dict[torch.nn.Parameter, torch.Tensor] = {}
    done = 0

    def after(optimizer: Any, args: Any, options: Any) -> None:
        nonlocal done
        done += 1
        with torch.no_grad():
            for weights in (weights for group in optimizer.param_groups for weights in group["params"]):
                if weights not in means:
                    means[weights] = weights.detach().clone()
                # Young averages follow faster, or they would keep the noise that the weights began with.
                means[weights].lerp_(weights, 1 - min(decay, done / (10 + done)))
                if done == steps:
                    weights.copy_(means[weights])

    hook = register_optimizer_step_post_hook(after)
    try:
        yield
    finally:
        hook.remove()
