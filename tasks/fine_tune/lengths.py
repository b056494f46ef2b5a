"""How many tokens of a question and of an answer are read and written: what the data needs, unless it is said."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from askline.config import TrainingConfig
from askline.records import Record
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row

#: Least length of a prompt and of an answer: those who ask the API write more than the dataset's questions hold.
SOURCE, TARGET = 128, 64
#: Longest length that is chosen here. T5 was pre-trained on 512 tokens; a step's memory and time grow with the length.
MOST_SOURCE, MOST_TARGET = 512, 512


class Lengths(Record):
    """The lengths of a training, in tokens with the end token, and what they cut."""

    max_source_tokens: int
    max_target_tokens: int
    cut_questions: int = 0
    """Training rows whose prompt is longer."""
    cut_answers: int = 0
    """Training rows whose answer is longer."""
    reasons: tuple[str, ...] = ()
    """What was chosen and what it costs, and what is cut, a sentence each."""


def fit_lengths(config: TrainingConfig, rows: Sequence[Row], tokenizer: Any) -> Lengths:
    """Return the lengths that ``config`` names, or those that the rows need.

    Parameters
    ----------
    rows
        Training rows.
    tokenizer
        T5 tokenizer; the end token that it adds counts.
    """
    prompts = [len(ids) for ids in tokenizer([format_prompt(config.prompt, row.question) for row in rows])["input_ids"]]
    answers = tokenizer([row.answer for row in rows])["input_ids"]
    written = [len(ids) for ids in answers]
    source = config.max_source_tokens or min(max(SOURCE, *prompts), MOST_SOURCE)
    # Answers that begin alike are told apart only where they part, however far that is.
    target = config.max_target_tokens or max(min(max(TARGET, *written), MOST_TARGET), min(_parting(answers), 1024))
    reasons = []
    if config.max_source_tokens is None and source > SOURCE:
        reasons.append(
            f"prompts up to {source} tokens, since the longest has {max(prompts)}: a step takes about "
            f"{source / SOURCE:.1f} times what {SOURCE} tokens would (--training.max-source-tokens)"
        )
    if config.max_target_tokens is None and target > TARGET:
        reasons.append(
            f"answers up to {target} tokens, since the longest has {max(written)}; the longest batches take up to "
            f"{target / TARGET:.1f} times what {TARGET} tokens would (--training.max-target-tokens)"
        )
    cut_questions = sum(length > source for length in prompts)
    cut_answers = sum(length > target for length in written)
    if cut_questions:
        reasons.append(
            f"{cut_questions} of {len(rows)} questions are cut: their prompts are longer than {source} tokens, the "
            f"longest has {max(prompts)} (--training.max-source-tokens)"
        )
    if cut_answers:
        reasons.append(
            f"{cut_answers} of {len(rows)} answers are trained without their end: they are longer than {target} "
            f"tokens, the longest has {max(written)} (--training.max-target-tokens)"
        )
    return Lengths(
        max_source_tokens=source,
        max_target_tokens=target,
        cut_questions=cut_questions,
        cut_answers=cut_answers,
        reasons=tuple(reasons),
    )


def _parting(answers: Sequence[Sequence[int]]) -> int:
    """Return after how many tokens no two different answers are still alike."""
    deepest = 0
    for first, second in pairwise(sorted(set(map(tuple, answers)))):
        shared = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        deepest = max(deepest, (min(len(first), len(second)) if shared is None else shared) + 1)
    return deepest
