"""What to do when memory runs out: fewer rows at once, with the same batch and so the same loss to rounding."""

import gc
import logging
from collections.abc import Iterator
from typing import Any

import torch

from askline.errors import TrainingError

log = logging.getLogger("askline.training")

#: How torch and the C++ library say that memory ran out, besides the error classes that are made for it.
_SAYS_SO = ("can't allocate memory", "out of memory", "std::bad_alloc", "Cannot allocate memory")
#: All that oneDNN says when it got no memory for the code or the scratch space of a bf16 product. It says no more of
#: some other failures either, so it counts as the whole message only: an operation that it lacks, "could not create
#: a primitive descriptor for …", is none of these.
_ONEDNN_SAYS = ("could not create a primitive", "could not execute a primitive", "could not create a memory")


class MicroBatch:
    """How many rows go through the model at once, made smaller each time that memory runs out.

    A step's gradient is the sum over its pieces, each weighted by its tokens, so that the effective batch stays what
    the recipe says. With one row at once, activations are computed twice instead of kept; after that nothing is left.
    """

    def __init__(self, rows: int | None, *, checkpointing: bool) -> None:
        self.rows = rows
        """None for the whole share of the batch."""
        self.checkpointing = checkpointing
        self.notes: list[str] = []

    def pieces(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the batch in pieces of ``rows`` rows, each without the padding that only the others needed.

        ``input_ids`` and ``attention_mask`` are (batch, source tokens), ``labels`` are (batch, target tokens).
        """
        count = len(inputs["input_ids"])
        size = count if self.rows is None else min(self.rows, count)
        for start in range(0, count, size):
            piece = {name: tensor[start : start + size] for name, tensor in inputs.items()}
            yield piece if size == count else _trimmed(piece)

    def shrink(self, model: Any, count: int, *, said: str = "") -> None:
        """Halve the rows of a piece after ``count`` rows did not fit; or keep fewer activations.

        Each call leaves less to make smaller, so that a failure which is not one of memory ends the training too, after
        a handful of attempts.

        Parameters
        ----------
        said
            The message of the error, told where nothing is left: it may have had another cause than memory.

        Raises
        ------
        TrainingError
            If nothing is left that could be smaller.
        """
        fitted = count if self.rows is None else min(self.rows, count)
        if fitted > 1:
            self.rows = -(-fitted // 2)
            note = f"micro-batch {self.rows}: {fitted} rows at once ran out of memory; the batch stays the same"
        elif not self.checkpointing:
            checkpoint_activations(model)
            self.checkpointing = True
            note = "activations are computed twice: even one row at once ran out of memory"
        else:
            raise TrainingError(
                "out of memory with a single row at once. Lower --training.max-source-tokens, train with "
                "--training.lora.rank 16, or use a smaller base or a larger machine"
                + (f". What was said is: {said}" if said else "")
            )
        log.warning("%s", note)
        self.notes.append(note)


def checkpoint_activations(model: Any) -> None:
    """Have the model compute activations again in the backward pass instead of keeping them."""
    model = getattr(model, "module", model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out, on the GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).strip()
    return isinstance(error, RuntimeError) and (said in _ONEDNN_SAYS or any(words in said for words in _SAYS_SO))


def free() -> None:
    """Give back what the failed attempt held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trimmed(piece: dict[str, Any]) -> dict[str, Any]:
    """Cut off the columns that are padding in every row; on the CPU only, where looking costs nothing."""
    mask, labels = piece["attention_mask"], piece["labels"]
    if mask.device.type != "cpu":
        return piece
    source = max(1, int(mask.sum(dim=1).max()))
    target = max(1, int((labels >= 0).sum(dim=1).max()))
    return {name: tensor[:, : target if name == "labels" else source] for name, tensor in piece.items()}
