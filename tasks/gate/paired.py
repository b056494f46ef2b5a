"""Whether one model is better than another, or only luckier, from their answers to the same questions.

Two tests look at the same pairs. McNemar's exact test asks whether the questions that only one of the two answers
rightly fall to one side more often than a fair coin would (McNemar 1947; exact: the binomial distribution). It takes
the questions as independent, which several wordings of one fact are not. So the confidence interval of the difference
comes from a bootstrap that draws whole facts (Efron and Tibshirani 1993; drawing clusters: Davison and Hinkley 1997).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from askline.records import Paired

RESAMPLES = 9999
#: Resamples computed together: with 100,000 questions, all at once would take gigabytes.
BATCH = 200
SEED = 11


class Pair(NamedTuple):
    """One question that both have answered."""

    champion: bool
    """Whether the champion's answer is right."""
    challenger: bool
    fact: str
    """What the question asks for; questions of the same fact are drawn together."""


def compare(pairs: Sequence[Pair], *, alpha: float) -> Paired | None:
    """Compare challenger with champion; None where there is no question.

    Parameters
    ----------
    alpha
        Each end of the confidence interval is one-sided at this level, so the interval holds 1 - 2 alpha.
    """
    if not pairs:
        return None
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    only_champion = sum(pair.champion and not pair.challenger for pair in pairs)
    only_challenger = sum(pair.challenger and not pair.champion for pair in pairs)
    differing = only_champion + only_challenger
    low, high = _interval(pairs, alpha)
    return Paired(
        questions=len(pairs),
        champion=sum(pair.champion for pair in pairs) / len(pairs),
        challenger=sum(pair.challenger for pair in pairs) / len(pairs),
        only_champion=only_champion,
        only_challenger=only_challenger,
        p_better=float(binomtest(only_challenger, differing, alternative="greater").pvalue) if differing else 1.0,
        p_worse=float(binomtest(only_champion, differing, alternative="greater").pvalue) if differing else 1.0,
        low=low,
        high=high,
    )


def _interval(pairs: Sequence[Pair], alpha: float) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    facts: dict[str, list[int]] = defaultdict(list)
    for pair in pairs:
        facts[pair.fact].append(int(pair.challenger) - int(pair.champion))
    gains = np.array([sum(each) for each in facts.values()], dtype=float)
    counts = np.array([len(each) for each in facts.values()], dtype=float)
    if len(facts) < 2:
        # Nothing to draw from: one fact says nothing about others.
        return -1.0, 1.0

    def difference(gain: Any, count: Any, axis: int = -1) -> Any:
        return gain.sum(axis=axis) / count.sum(axis=axis)

    found = bootstrap(
        (gains, counts),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=1 - 2 * alpha,
        # BCa is undefined where all facts agree; with paired differences of -1, 0 and 1 it gains little.
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
