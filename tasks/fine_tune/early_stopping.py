"""Stopping early, on the real metric: exact match of generated answers on a validation split."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.qa.rows import Row

#: The best weights so far, beside the checkpoints.
BEST = "best"


def hold_out(rows: Sequence[Row], *, share: float, seed: int, whole_groups: bool) -> tuple[list[Row], list[Row]]:
    """Return (training rows, validation rows), divided as the dataset's own test split was.

    Parameters
    ----------
    whole_groups
        Hold out all rows of some groups, for data whose test questions are of other groups. Otherwise one wording of
        some facts: a row whose group keeps another one for training. Rows without a group stand for themselves.
    """
    rng = random.Random(f"{seed}/validation")  # noqa: S311 - not a secret
    order = list(range(len(rows)))
    rng.shuffle(order)
    names = [row.group if row.group is not None else f"\0{index}" for index, row in enumerate(rows)]
    members: dict[str, list[int]] = {}
    for index in order:
        members.setdefault(names[index], []).append(index)
    wanted = max(1, round(share * len(rows)))
    held: set[int] = set()
    left = {name: len(group) for name, group in members.items()}
    for index in order:
        if len(held) >= wanted:
            break
        if whole_groups:
            held.update(members[names[index]])
        elif left[names[index]] > 1 or rows[index].group is None:
            left[names[index]] -= 1
            held.add(index)
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


class EarlyStopping:
    """Measures every so many steps, keeps the best weights, and says when nothing has got better for long enough."""

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        *,
        every: int,
        patience: int,
        folder: Path,
        prompt: str,
        max_source_tokens: int,
        max_target_tokens: int,
    ) -> None:
        self._rows = list(rows)
        self._tokenizer = tokenizer
        self._every = every
        self._patience = patience
        self._folder = folder / BEST
        self._options = {
            "prompt": prompt,
            "max_source_tokens": max_source_tokens,
            "max_target_tokens": max_target_tokens,
            "batch_size": 64,
        }
        self.scores: list[tuple[int, float]] = []
        """(step, exact match) of each measurement."""

    @property
    def best(self) -> tuple[int, float] | None:
        """The first step with the highest exact match, and that."""
        return max(self.scores, key=lambda score: (score[1], -score[0])) if self.scores else None

    def is_due(self, step: int, last_step: int) -> bool:
        """Say whether to measure after this step."""
        return step % self._every == 0 or step == last_step

    def measure(self, model: Any, step: int, rank: int) -> bool:
        """Measure, keep the weights where they are the best so far, and return whether to stop.

        The first process measures; the others wait for what it says.
        """
        from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

        result = [self._exact_match(model) if rank == 0 else 0.0]
        broadcast_object_list(result)
        before = self.best
        self.scores.append((step, result[0]))
        if rank == 0 and (before is None or result[0] > before[1]):
            self._keep(model, step)
        best = self.best
        assert best is not None
        return sum(measured > best[0] for measured, _ in self.scores) >= self._patience

    def load_best(self, model: Any) -> None:
        """Give the model its best weights."""
        from safetensors.torch import load_file

        best = self.best
        if best is None or best[0] == self.scores[-1][0]:
            return
        model.load_state_dict(load_file(self._folder / f"{best[0]}.safetensors"), strict=False)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"scores": self.scores}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self.scores = [(int(step), float(score)) for step, score in state["scores"]]

    def log(self) -> str:
        """Return the measurements as JSON lines."""
        return "".join(json.dumps({"step": step, "exact_match": score}) + "\n" for step, score in self.scores)

    def _exact_match(self, model: Any) -> float:
        from tasks.qa.same_answer import exact_match
        from tasks.t5.decoding import answer_questions

        answers = answer_questions(model, self._tokenizer, [row.question for row in self._rows], **self._options)
        model.train()
        right = [exact_match(answer, row.answer) for answer, row in zip(answers, self._rows, strict=True)]
        return sum(right) / len(right)

    def _keep(self, model: Any, step: int) -> None:
        from safetensors.torch import save_file

        self._folder.mkdir(exist_ok=True)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        weights = {
            name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items() if name in trained
        }
        aside = self._folder / f"{step}.writing"
        save_file(weights, aside)
        aside.rename(self._folder / f"{step}.safetensors")
        # The one before stays: a checkpoint from before this measurement still names it.
        kept = sorted(self._folder.glob("*.safetensors"), key=lambda path: int(path.stem))
        for path in kept[:-2]:
            path.unlink()
