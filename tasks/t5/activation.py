"""Flan-T5's activation in one kernel instead of eight."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_kernel_gelu(network: Any) -> Iterator[None]:
    """Compute ``gelu_new``, the activation of Flan-T5 and T5 v1.1, by torch's own kernel for the length of the block.

    transformers writes 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) out in eight operations, each of which reads and
    writes the widest tensor of a layer, and keeps most of them for the backward pass. torch has the same formula as one
    operation; results differ in the last bits. Weights and configuration stay what they are.
    """
    from torch.nn import GELU
    from transformers.activations import NewGELUActivation

    replaced = [
        (module, name, child)
        for module in network.modules()
        for name, child in module.named_children()
        if isinstance(child, NewGELUActivation)
    ]
    for module, name, _ in replaced:
        setattr(module, name, GELU(approximate="tanh"))
    try:
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)
