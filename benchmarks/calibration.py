"""What the model's confidence is worth, and what abstaining below a threshold does.

``python -m benchmarks.calibration [--state-dir .askline]`` reads the newest evaluation of a run and prints, cross-
validated on its held-out questions: how often answers of like probability are right, before and after the calibration;
other ways to calibrate beside the one that is packed; and precision against coverage at several thresholds. It takes
seconds and trains nothing; the exit status is 1 where there is no evaluation, or too little in it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from askline.errors import AsklineError
from askline.records import Scores
from askline.store import ArtifactStore
from tasks.package import calibration
from tasks.qa.held_out import HeldOut, read_held_out
from tasks.report import markdown
from tasks.report.words import percent

Predict = Callable[[Any], Any]
"""From confidences (rows,) to probabilities (rows,)."""


def newest_scores(state_dir: Path) -> Scores | None:
    """Return the record of the evaluation that was written last, or None where there is none."""
    found = list((state_dir / "artifacts" / "scores").glob("[!.]*/scores.json"))
    if not found:
        return None
    path = max(found, key=lambda each: each.stat().st_mtime_ns)
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts.pop("skipped", None)
    return Scores(sha256=path.parent.name, seconds=0, **facts)


def reliability(rows: Sequence[HeldOut]) -> str:
    """Return a table of the bins: mean probability and share of right answers, before and after."""
    right = [row.right for row in rows]
    before = calibration.reliability(calibration.raw(rows), right)
    after = calibration.reliability(calibration.cross_validated(rows), right)
    body = [
        [
            str(raw.questions),
            *(f"{share:.3f}" for share in (raw.probability, raw.right, fitted.probability, fitted.right)),
        ]
        for raw, fitted in zip(before, after, strict=True)
    ]
    return markdown.table(["questions", "confidence", "right", "calibrated", "right of these"], body)


def methods(rows: Sequence[HeldOut]) -> str:
    """Return a table of ways to calibrate, each cross-validated on the folds of the one that is packed."""
    right = [row.right for row in rows]
    known = {
        "none": calibration.raw(rows),
        "Platt scaling (packed)": calibration.cross_validated(rows),
        "temperature": _cross_validated(rows, _temperature),
        "isotonic regression": _cross_validated(rows, _isotonic),
        "share of right answers, for every question": _cross_validated(rows, _base_rate),
    }
    body = [
        [
            name,
            f"{calibration.brier(found, right):.4f}",
            f"{calibration.expected_calibration_error(found, right):.3f}",
            f"{calibration.error_by_chance(found):.3f}",
        ]
        for name, found in known.items()
    ]
    return markdown.table(["calibration", "Brier score", "calibration error", "by chance alone"], body)


def _cross_validated(rows: Sequence[HeldOut], fit: Callable[[Any, Any], Predict]) -> list[float]:
    import numpy as np
    from sklearn.model_selection import RepeatedStratifiedKFold

    confidences = np.array(calibration.raw(rows))
    right = np.array([int(row.right) for row in rows])
    folds = RepeatedStratifiedKFold(n_splits=calibration.FOLDS, n_repeats=calibration.REPEATS, random_state=0)
    total = np.zeros(len(rows))
    for known, asked in folds.split(confidences, right):
        total[asked] += fit(confidences[known], right[known])(confidences[asked])
    return [float(value) for value in total / calibration.REPEATS]


def _temperature(confidences: Any, right: Any) -> Predict:
    """Platt scaling without its intercept."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    def logits(values: Any) -> Any:
        kept = np.clip(values, 1e-4, 1 - 1e-4)
        return np.log(kept / (1 - kept))[:, None]

    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(logits(confidences), right)
    return lambda values: model.predict_proba(logits(values))[:, 1]


def _isotonic(confidences: Any, right: Any) -> Predict:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidences, right)
    return lambda values: model.predict(values)


def _base_rate(confidences: Any, right: Any) -> Predict:
    del confidences
    share = right.mean()
    return lambda values: values * 0 + share


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--state-dir", type=Path, default=Path(".askline"), help="folder of the runs (.askline)")
    options = parser.parse_args(arguments)
    scores = newest_scores(options.state_dir)
    if scores is None:
        print(f"{options.state_dir} holds no evaluation yet: run the pipeline first (make run)", file=sys.stderr)
        return 1
    store = ArtifactStore(options.state_dir / "artifacts")
    try:
        rows = read_held_out(scores, store)
    except AsklineError as error:
        print(error, file=sys.stderr)
        return 1
    fitted = calibration.fit(rows)
    if fitted.warning:
        print(fitted.warning, file=sys.stderr)
        return 1
    right = percent(sum(row.right for row in rows) / len(rows))
    print(
        f"Evaluation {scores.sha256[:12]} of the model {scores.model_sha256[:12]}: {len(rows)} held-out questions, "
        f"{right} answered right. Packed: {fitted.method}, a = {fitted.a}, b = {fitted.b}.\n"
    )
    for part in (reliability(rows), methods(rows), markdown.confidence(scores, store)):
        print(part, end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
