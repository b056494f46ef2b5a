"""Dividing a model over the processes that train it, when none of them can hold it alone: PyTorch's FSDP2.

Each process keeps its part of every weight, of its gradient and of the optimizer's state, and gathers the rest of a
block only while it computes with it. The numbers are those of DDP, to rounding.
"""

import os
import warnings
from typing import Any, Literal, NamedTuple

import torch

from askline.config import TrainingConfig
from askline.errors import TrainingError

Sharding = Literal["none", "full"]

#: Bytes for a trained parameter: weight, gradient and AdamW's two moments, each in fp32; autocast adds none that stay.
BYTES_TRAINED = 16
#: Bytes for a parameter that stays as it is, beside an adapter.
BYTES_FROZEN = 4
#: Share of a process's memory that these may take; the rest is for activations, for the flat copies of the gradients
#: that DDP sends (4 bytes a parameter), and for the allocator.
SHARE_OF_MEMORY = 0.5


class ShardingChoice(NamedTuple):
    """Whether the model is divided over the processes, and why."""

    sharding: Sharding
    reason: str


def state_bytes(parameters: int, trained: int) -> int:
    """Return the bytes that weights, gradients and AdamW's state take in all, wherever they are.

    Parameters
    ----------
    parameters
        All of the model's.
    trained
        Those that are trained; fewer with an adapter.
    """
    return BYTES_TRAINED * trained + BYTES_FROZEN * (parameters - trained)


def memory_of_a_process(device: torch.device) -> int:
    """Return the bytes that one process has: its GPU's, else its share of the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    return int(psutil.virtual_memory().total) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def choose_sharding(
    config: TrainingConfig, *, processes: int, parameters: int, trained: int, memory: int
) -> ShardingChoice:
    """Return whether to divide the model over the processes.

    Parameters
    ----------
    processes
        On all machines together.
    parameters, trained
        As in :func:`state_bytes`.
    memory
        Bytes that one process has.

    Raises
    ------
    TrainingError
        If it is to be divided over a single process.
    """
    wanted = config.cluster.sharding
    if wanted == "full" and processes == 1:
        raise TrainingError(
            'training.cluster.sharding "full" divides the model over several processes, and there is one: set '
            '--training.cluster.processes, choose an instance with several GPUs, or leave it at "auto"'
        )
    needed, has = state_bytes(parameters, trained), f"{memory / 1e9:.1f} GB of a process"
    each = f"weights, gradients and AdamW's state take {needed / 1e9:.1f} GB"
    if wanted == "full":
        return ShardingChoice("full", f"as configured; {needed / processes / 1e9:.2f} of {needed / 1e9:.2f} GB each")
    if wanted == "none":
        return ShardingChoice("none", "as configured: each process holds the whole model")
    if processes == 1:
        return ShardingChoice("none", "one process holds the whole model")
    if needed <= SHARE_OF_MEMORY * memory:
        return ShardingChoice("none", f"{each}, which fit into half of the {has}")
    for name, excluded in (("compile", config.compile == "on"), ("precision", config.precision == "fp16")):
        if excluded:
            value = getattr(config, name)
            return ShardingChoice(
                "none", f"{each}, more than half of the {has}, but training.{name} {value!r} is not offered with FSDP"
            )
    return ShardingChoice(
        "full", f"{each}, more than half of the {has}; divided over {processes} it is {needed / processes / 1e9:.1f} GB"
    )


def shard(model: Any, *, bf16: bool, device: torch.device, processes: int) -> None:
    """Divide a model over the processes, in place, and move this process's part to its device.

    Each T5 block is gathered and let go by itself. The rest, which is the embedding that encoder, decoder and (in some
    T5) the output layer share, that layer and the last norms, is one unit: a weight must not belong to two. accelerate,
    left to itself, makes the embedding a unit of its own, which fails with T5, and takes a model as it is that was
    divided before.

    In bf16 a block's weights are gathered in bf16, and so kept for the backward pass by nobody; gradients are added up
    in fp32, and what runs from block to block stays in fp32, as under autocast alone.

    Raises
    ------
    TrainingError
        If a trained matrix has fewer rows than there are processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers.models.t5.modeling_t5 import T5Block

    for name, parameter in model.named_parameters():
        # accelerate tells the optimizer's parameters apart by their address, which an empty part has not.
        if parameter.requires_grad and len(parameter) < processes:
            raise TrainingError(
                f"{name} has {len(parameter)} rows, too few for {processes} processes: use fewer, or an adapter of a "
                "higher --training.lora.rank"
            )
    # T5 computes out of place with what a block returns; elsewhere it would be as the warning says.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (processes,))
    in_blocks = MixedPrecisionPolicy()
    if bf16:
        in_blocks = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for module in model.modules():
        if isinstance(module, T5Block):
            fully_shard(module, mesh=mesh, mp_policy=in_blocks)
    fully_shard(model, mesh=mesh)


def gathered(model: Any, *, first: bool) -> Any:
    """Return a whole copy of a divided model on the CPU in the first process, and None in the others.

    All processes must call it. One weight after the other is gathered, so that only the first process ever holds more
    than its part: 4 bytes a parameter.
    """
    whole: Any = _empty_like(model) if first else None
    made: dict[torch.Tensor, torch.nn.Parameter] = {}
    for name, part in model.named_parameters(remove_duplicate=False):
        if part not in made:
            weight = part.detach().full_tensor()
            made[part] = torch.nn.Parameter(weight.cpu() if first else weight.new_empty(0), part.requires_grad)
        if first:
            module, _, own_name = name.rpartition(".")
            setattr(whole.get_submodule(module), own_name, made[part])
    return whole


def _empty_like(model: Any) -> Any:
    """Return a model of the same architecture, adapter included, whose weights take no memory."""
    import copy

    from transformers import T5ForConditionalGeneration

    adapted = hasattr(model, "get_base_model")
    inner = model.get_base_model() if adapted else model
    with torch.device("meta"):
        whole = T5ForConditionalGeneration(inner.config)
        whole.generation_config = inner.generation_config
        if not adapted:
            return whole
        from peft import get_peft_model

        return get_peft_model(whole, copy.deepcopy(model.peft_config["default"]))
