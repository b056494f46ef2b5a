"""Scores of a list of answers, through the ``evaluate`` library and the metrics in this project."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from askline.records import SplitScores
from tasks.qa.same_answer import strict_match

_METRICS = Path(__file__).parent / "metrics"


def score(predictions: Sequence[str], references: Sequence[str]) -> SplitScores:
    """Compare predictions with references, both of the same length of at least one."""
    found: dict[str, float] = {}
    for name in ("normalised_exact_match", "token_f1", "rouge_l"):
        found |= _load(name).compute(predictions=list(predictions), references=list(references))
    found["strict_match"] = sum(map(strict_match, predictions, references)) / len(references)
    return SplitScores(questions=len(references), **{name: float(value) for name, value in found.items()})


@cache
def _load(name: str) -> Any:
    # Importing evaluate takes seconds; nothing is downloaded, since the metric is a file here.
    import evaluate

    return evaluate.load(str(_METRICS / name), keep_in_memory=True)
