"""What is chosen to suit the machine, each with the reason: arithmetic, padding, compilation, attention, workers."""

import os
from typing import Literal, NamedTuple

from askline.config import TrainingConfig
from tasks.fine_tune.recipe import Recipe
from tasks.fine_tune.sharding import Sharding, ShardingChoice

Precision = Literal["fp32", "bf16", "fp16"]

#: On an H100 torch.compile took 27 to 74 s and then saved more than half of a step of rows of one length (see
#: docs/training-speed.md); lengths that change are compiled for anew, and cost more. It pays where the steps
#: are expected to take longer than this without it, in seconds.
COMPILE_PAYS_AFTER = 600.0
#: Assumed speed of a GPU's training step before anything was measured, in floating-point operations a second.
_ASSUMED_GPU_SPEED = 1e14


class Choices(NamedTuple):
    """How this machine trains."""

    precision: Precision
    tf32: bool
    multiple: int
    """Sequences are padded to a multiple of so many tokens."""
    compile: bool
    workers: int
    """Processes that prepare batches."""
    sharding: Sharding
    """Whether each process holds the whole model, or its part."""
    reasons: tuple[str, ...]


def choose(
    config: TrainingConfig, recipe: Recipe, *, total_flops: float, varies: bool, divided: ShardingChoice | None = None
) -> Choices:
    """Return what suits this machine where the configuration says "auto".

    Parameters
    ----------
    total_flops
        Floating-point operations of the whole training, roughly.
    varies
        Whether examples differ from epoch to epoch, and so have to be prepared anew.
    divided
        Whether several processes divide the model; None in a single one.
    """
    import torch

    gpu = torch.cuda.is_available()
    sharding = divided.sharding if divided else "none"
    precision, why = choose_precision(config.precision)
    if sharding == "full" and precision == "fp16":
        precision, why = "fp32", "the GPU has no bf16, and fp16 is not offered with FSDP"
    reasons = [f"precision {precision}: {why}"]
    if divided is not None:
        reasons.append(f"{'FSDP' if sharding == 'full' else 'DDP'}: {divided.reason}")
    tf32 = gpu and precision == "fp32" and torch.cuda.get_device_capability()[0] >= 8
    if tf32:
        reasons.append("tf32 for matrix products: the GPU has it, and its 10 bits do for training")
    multiple = 8 if gpu or precision != "fp32" else 1
    reasons.append(
        "padding to a multiple of 8: the matrix units work in tiles of 8"
        if multiple == 8
        else "padding to the longest of the batch: in fp32 on a CPU a multiple of 8 only adds work"
    )
    compiled, why = _compile(config, gpu=gpu, total_flops=total_flops)
    if sharding == "full" and compiled:
        compiled, why = False, "not offered with FSDP"
    reasons.append(f"torch.compile {'on' if compiled else 'off'}: {why}")
    reasons.append("attention sdpa: it takes T5's relative bias as an additive mask; flash attention takes none")
    workers = min(4, (os.cpu_count() or 1) - 1) if gpu and varies else 0
    if workers:
        reasons.append(f"{workers} processes prepare batches, so that the GPU need not wait")
    if not gpu:
        threads = torch.get_num_threads()
        reasons.append(f"{threads} thread{'s' if threads > 1 else ''}")
    return Choices(precision, tf32, multiple, compiled, workers, sharding, tuple(reasons))


def choose_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"]) -> tuple[Precision, str]:
    """Return the arithmetic of the forward and backward pass on this machine, and why."""
    if wanted != "auto":
        return wanted, "as configured"
    import torch

    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU multiplies in it, and it holds T5's large activations"
        if torch.cuda.get_device_capability()[0] >= 7:
            return "fp16", (
                "the GPU has no bf16; the loss is scaled, T5's wo layers stay in fp32, and training starts again in "
                "fp32 where it overflows all the same"
            )
        return "fp32", "the GPU is quick in nothing smaller"
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        return "bf16", "the processor multiplies in it"
    return "fp32", "the processor has no bf16, and emulating it is slower"


def _compile(config: TrainingConfig, *, gpu: bool, total_flops: float) -> tuple[bool, str]:
    if config.compile != "auto":
        return config.compile == "on", "as configured"
    if not gpu:
        return False, "on a CPU it takes minutes and saves nothing"
    expected = total_flops / _ASSUMED_GPU_SPEED
    if expected < COMPILE_PAYS_AFTER:
        return False, f"about {expected:.0f} s of training are too few to earn back its minute"
    return True, f"about {expected:.0f} s of training earn back its minute"
