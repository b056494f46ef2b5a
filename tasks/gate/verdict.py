"""From two tests to one word: better, worse, or unproven."""

from typing import Literal

from askline.config import EvaluationConfig
from askline.records import Paired

Verdict = Literal["better", "unproven", "worse"]


def verdict(
    config: EvaluationConfig, overall: Paired | None, in_scope: Paired | None, out_of_scope: Paired | None
) -> tuple[Verdict, str]:
    """Return what the comparison proves, and why.

    Better: over all questions, by both tests and by more than ``config.min_improvement``. Worse: by both tests, over
    all questions, or over those in or out of scope alone. Anything else is unproven.
    """
    if overall is None:
        return "unproven", "there was no question to compare on"
    for part, paired in (("held-out", overall), ("in-scope", in_scope), ("out-of-scope", out_of_scope)):
        if paired is not None and paired.p_worse < config.alpha and paired.high < 0:
            return "worse", f"worse than the champion on the {part} questions: {figures(paired, config.alpha)}"
    if overall.p_better < config.alpha and overall.low > config.min_improvement:
        return "better", f"better than the champion: {figures(overall, config.alpha)}"
    said = f"not proven better than the champion: {figures(overall, config.alpha)}"
    if overall.p_better < config.alpha and overall.low > 0:
        said += f", and --evaluation.min-improvement asks for more than {100 * config.min_improvement:g} points"
    return "unproven", said


def figures(paired: Paired, alpha: float) -> str:
    """Return the figures of a comparison in a clause."""
    p, wins = (
        (paired.p_better, "better") if paired.only_challenger >= paired.only_champion else (paired.p_worse, "worse")
    )
    return (
        f"{paired.challenger:.1%} of {paired.questions:,} questions against {paired.champion:.1%} "
        f"({paired.only_challenger} answered rightly by the new model alone, {paired.only_champion} by the champion "
        f"alone; p = {p:.2g} that it is {wins} by luck), a difference of {100 * paired.low:+.1f} to "
        f"{100 * paired.high:+.1f} points ({1 - 2 * alpha:.0%} interval)"
    )
