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

    A loss on one part is made up for where the other part gains more by ``config.outweigh``: a champion that refuses
    nearly everything has all out-of-scope questions right, and no model that answers could ever replace it. Both parts
    count alike then, however many questions each has.
    """
    if overall is None:
        return "unproven", "there was no question to compare on"
    parts = {"in-scope": in_scope, "out-of-scope": out_of_scope}
    lost = {name: paired for name, paired in parts.items() if paired is not None and _is_worse(config, paired)}
    if len(lost) == 1:
        (name, loss), other = next(iter(lost.items())), next(name for name in parts if name not in lost)
        gain = parts[other]
        if gain is not None and gain.low + loss.low > config.outweigh:
            return "better", (
                f"better than the champion on the {other} questions by more than it is worse on the {name} ones "
                f"(--evaluation.outweigh {config.outweigh:g}): {figures(gain, config.alpha)}; {name}: "
                f"{figures(loss, config.alpha)}"
            )
    for name, paired in ({"held-out": overall} if _is_worse(config, overall) else lost).items():
        said = f"worse than the champion on the {name} questions: {figures(paired, config.alpha)}"
        if name in parts and len(lost) == 1:
            said += (
                f"; what it gains on the others makes up for that only where it is {100 * config.outweigh:g} points "
                "more (--evaluation.outweigh)"
            )
        return "worse", said
    if overall.p_better < config.alpha and overall.low > config.min_improvement:
        return "better", f"better than the champion: {figures(overall, config.alpha)}"
    said = f"not proven better than the champion: {figures(overall, config.alpha)}"
    if overall.p_better < config.alpha and overall.low > 0:
        said += f", and --evaluation.min-improvement asks for more than {100 * config.min_improvement:g} points"
    return "unproven", said


def _is_worse(config: EvaluationConfig, paired: Paired) -> bool:
    return paired.p_worse < config.alpha and paired.high < 0


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
