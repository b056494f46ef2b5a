"""Handing a step's batch to the trainer: the order of the examples, each process's share, and the padding.

One batch of the loader is what one process does in one optimizer step. The order is that of the whole batch, whatever
the number of processes, so that two processes see together what one alone would have seen.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from tasks.fine_tune.examples import IGNORED, LengthGroupedSampler, collate
from tasks.fine_tune.recipe import Recipe

Key = tuple[int, int]
#: Stands for a row where a short last batch cannot be divided evenly; nothing is learnt from it.
NOTHING = (-1, -1)


class Facts(NamedTuple):
    """What is counted of a batch on its way: of one process's share, and added up of the whole step."""

    rows: tuple[int, ...]
    """Numbers of this process's examples; -1 for filling."""
    samples: int
    source_tokens: int
    """Tokens that are no padding."""
    target_tokens: int
    computed_tokens: int
    """Source and target positions, padding included."""


class Shares(BatchSampler):
    """One process's share of each step's batch, in an order that depends on seed and epoch alone."""

    def __init__(self, lengths: Sequence[int], recipe: Recipe, *, rank: int, processes: int) -> None:
        self._order = LengthGroupedSampler(lengths, recipe.batch_size, recipe.seed)
        self.batch_size = recipe.batch_size
        self.drop_last = False
        self._rank = rank
        self._processes = processes

    @property
    def batch_sampler(self) -> "Shares":
        """Where the trainer looks for ``set_epoch``; it finds it there with and without batches to skip."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def __iter__(self) -> Iterator[list[Any]]:
        keys = iter(self._order)
        while whole := list(islice(keys, self.batch_size)):
            size = -(-len(whole) // self._processes)
            share = whole[self._rank * size : (self._rank + 1) * size]
            # Each process takes part in each step, so that none waits for another for ever.
            yield share or [NOTHING]


class Numbered(Dataset[dict[str, Any]]):
    """Examples with their number, and what stands in for a row that is missing."""

    def __init__(self, examples: Any) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Return the examples of a batch."""
        if list(keys) == [NOTHING]:
            return [{"input_ids": [1], "labels": [IGNORED], "row": -1}]
        found = self._examples.__getitems__(keys)
        return [{**example, "row": index} for (_, index), example in zip(keys, found, strict=True)]


class Collate:
    """Pads to the longest of the batch, or the next multiple of ``multiple``, and counts."""

    def __init__(self, multiple: int = 1) -> None:
        self._multiple = multiple

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the tensors of :func:`~tasks.fine_tune.examples.collate` and the batch's :class:`Facts`."""
        batch: dict[str, Any] = collate(features)
        if self._multiple > 1:
            for name, filling in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORED)):
                missing = -batch[name].shape[1] % self._multiple
                batch[name] = torch.nn.functional.pad(batch[name], (0, missing), value=filling)
        batch["facts"] = Facts(
            rows=tuple(feature["row"] for feature in features),
            samples=sum(feature["row"] >= 0 for feature in features),
            source_tokens=sum(len(feature["input_ids"]) for feature in features),
            target_tokens=int((batch["labels"] != IGNORED).sum()),
            computed_tokens=batch["input_ids"].numel() + batch["labels"].numel(),
        )
        return batch


def loader(
    examples: Any, recipe: Recipe, *, rank: int, processes: int, multiple: int, workers: int, pin_memory: bool
) -> DataLoader[dict[str, Any]]:
    """Return the loader of this process: one batch for each optimizer step."""
    return DataLoader(
        Numbered(examples),
        batch_sampler=Shares(examples.lengths, recipe, rank=rank, processes=processes),
        collate_fn=Collate(multiple),
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def varies(recipe: Recipe) -> bool:
    """Say whether an example may differ from epoch to epoch."""
    return recipe.augment or recipe.subword_sampling > 0 or recipe.out_of_scope_share > 0
