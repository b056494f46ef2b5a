"""The tables of the quality benchmark, made from the rows that it keeps.

A difference is that of two trainings on the same split from the same weights, and its standard error comes from how
much it differs between seeds. So few seeds can agree by luck; the error that counts is therefore no smaller than the
one that all measures on the dataset together give.
"""

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from benchmarks.quality_data import FOLDERS, split_by_wording
from benchmarks.quality_measures import MEASURES, Measure

Row = dict[str, Any]

#: Besides exact match on what is in scope. "all" is exact match on all held-out questions, where "I don't know" is
#: right for those out of scope.
OTHERS = {
    "all": "all questions",
    "f1": "token F1",
    "out_of_scope": "out of scope",
    "false_abstention": "false abstention",
}
#: Standard errors that a difference must exceed to be taken for one.
ERRORS = 2.0


class Difference(NamedTuple):
    """What a measure changes on one dataset; shares."""

    before: list[float]
    after: list[float]
    """One figure a seed, of the seeds for which there are both."""
    error: float
    """Standard error of the mean difference; NaN where one seed says nothing of it."""

    @property
    def mean(self) -> float:
        """The mean difference."""
        return statistics.fmean(b - a for a, b in zip(self.before, self.after, strict=True))

    @property
    def sign(self) -> int:
        """1 for a gain beyond two standard errors, -1 for a loss, else 0."""
        if not abs(self.mean) > ERRORS * self.error:
            return 0
        return 1 if self.mean > 0 else -1


def difference(rows: Sequence[Row], dataset: str, measure: Measure, figure: str) -> Difference | None:
    """Return what ``measure`` changes on ``dataset``, or None where no seed has both sides."""
    before, after = _pairs(rows, dataset, measure, figure)
    if not before:
        return None
    pooled = [_variance(*_pairs(rows, dataset, other, figure)) for other in MEASURES]
    known = [value for value in pooled if value is not None]
    if not known:
        return Difference(before, after, math.nan)
    own = _variance(before, after)
    return Difference(before, after, math.sqrt(max(own or 0.0, statistics.fmean(known)) / len(before)))


def verdict(rows: Sequence[Row], measure: Measure) -> str:
    """Say whether a measure earns its place: gains beyond the error on two datasets, and a loss on none."""
    found = [difference(rows, dataset, measure, measure.judged_by) for dataset in FOLDERS]
    signs = [each.sign for each in found if each is not None]
    if -1 in signs:
        return "no"
    return "yes" if signs.count(1) >= 2 else "not shown"


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return all tables by their names, as Markdown."""
    return {
        "exact-match": exact_match_table(rows),
        "other-figures": other_figures_table(rows),
        "abstention": abstention_table(rows),
    }


def exact_match_table(rows: Sequence[Row]) -> str:
    """Return exact match on unseen wordings before and after each measure: mean ± sd of the seeds, in percent."""
    lines = [
        "| measure | dataset | before | after | difference | seeds | earns its place |",
        "|---|---|---|---|---|---|---|",
    ]
    unknown = [measure.title for measure in MEASURES if not _is_known(rows, measure)]
    for measure in MEASURES:
        if not _is_known(rows, measure):
            continue
        for number, dataset in enumerate(FOLDERS):
            found = difference(rows, dataset, measure, "em")
            title, says = (measure.title, verdict(rows, measure)) if number == 0 else ("", "")
            if found is None:
                lines.append(f"| {title} | {dataset} | | | | 0 | {says} |")
                continue
            change = f"{100 * found.mean:+.1f} ± {100 * found.error:.1f}"
            change = f"**{change}**" if found.sign else change
            lines.append(
                f"| {title} | {dataset} | {_spread(found.before)} | {_spread(found.after)} | {change} "
                f"| {len(found.before)} | {says} |"
            )
    if unknown:
        lines += ["", f"Not measured yet: {'; '.join(unknown)}."]
    return "\n".join(lines)


def other_figures_table(rows: Sequence[Row]) -> str:
    """Return what each measure changes in the other figures, in points: biography / elements / computing."""
    lines = ["| measure | " + " | ".join(OTHERS.values()) + " |", "|---" * (len(OTHERS) + 1) + "|"]
    for measure in (measure for measure in MEASURES if _is_known(rows, measure)):
        cells = []
        for figure in OTHERS:
            found = [difference(rows, dataset, measure, figure) for dataset in FOLDERS]
            cells.append(" / ".join(f"{100 * each.mean:+.1f}" if each else "–" for each in found))
        lines.append(f"| {measure.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def abstention_table(rows: Sequence[Row]) -> str:
    """Return precision over coverage of the held-out questions, as the threshold on the confidence rises."""
    lines = [
        "| dataset | trained | AUROC | threshold | answered | of these right | in scope right | declined |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dataset in FOLDERS:
        curves = [
            {
                row["seed"]: row
                for row in rows
                if (row["dataset"], row["variant"]) == (dataset, variant) and "curve" in row
            }
            for variant in WORDS
        ]
        seeds = sorted(set.intersection(*map(set, curves)))
        for variant, by_seed in zip(WORDS, curves, strict=True):
            runs = [by_seed[seed] for seed in seeds]
            if not runs:
                continue
            auroc = statistics.fmean(row["auroc"] for row in runs)
            for number, points in enumerate(zip(*(row["curve"] for row in runs), strict=True)):
                threshold, *shares = (statistics.fmean(values) for values in zip(*points, strict=True))
                if round(100 * threshold) not in SHOWN:
                    continue
                head = f"| {dataset} | {WORDS[variant]} | {auroc:.2f}" if number == 0 else "| | |"
                lines.append(f"{head} | {threshold:.1f} | " + " | ".join(f"{100 * s:.1f}" for s in shares) + " |")
    return "\n".join(lines)


#: Thresholds, in percent, that the table shows of those that are kept.
SHOWN = (0, 30, 50, 70, 90)
WORDS = {"default": "with invented questions", "no-invented": "without"}


def _is_known(rows: Sequence[Row], measure: Measure) -> bool:
    return any(_pairs(rows, dataset, measure, "em")[0] for dataset in FOLDERS)


def _pairs(rows: Sequence[Row], dataset: str, measure: Measure, figure: str) -> tuple[list[float], list[float]]:
    sides = [
        {row["seed"]: _figure(row, figure) for row in rows if (row["dataset"], row["variant"]) == (dataset, variant)}
        for variant in (measure.before, measure.after)
    ]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    return [sides[0][seed] for seed in seeds], [sides[1][seed] for seed in seeds]


def _figure(row: Row, figure: str) -> float:
    if figure != "all":
        return float(row[figure])
    inside, outside = _counts(row["dataset"])
    return float((inside * row["em"] + outside * row["out_of_scope"]) / (inside + outside))


@cache
def _counts(dataset: str) -> tuple[int, int]:
    """Return how many questions in scope and out of scope a split of the dataset holds out."""
    _, test = split_by_wording(dataset, 0)
    inside = sum(row.in_scope for row in test)
    return inside, len(test) - inside


def _variance(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Return the variance of the paired differences between seeds, or None of fewer than two."""
    if len(before) < 2:
        return None
    return statistics.variance(b - a for a, b in zip(before, after, strict=True))


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
