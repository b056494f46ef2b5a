"""Records as tables of text: what the page of a run and the artifacts in the Prefect UI both show."""

import json
from typing import Any, NamedTuple

from askline.records import Comparison, DatasetRef, ModelRef, PackageRef, Paired, Scores, SmokeRef, SplitScores
from askline.store import ArtifactStore
from tasks.package import calibration
from tasks.qa.held_out import read_held_out
from tasks.qa.predictions import read_predictions
from tasks.report.curves import Picture, coverage
from tasks.report.words import percent

#: Probabilities to abstain below, as examples.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_SCORES = ["answers by", "exact match", "token F1", "ROUGE-L", "questions"]


class Table(NamedTuple):
    """A table of text; an empty head stands for none."""

    head: list[str]
    rows: list[list[str]]


class Confidence(NamedTuple):
    """What the calibrated confidence is worth."""

    said: str
    table: Table | None
    picture: Picture | None


def dataset(record: DatasetRef) -> Table:
    """Return the dataset's facts."""
    return Table(
        ["fact", "value"],
        [
            ["source", record.source.location],
            ["revision", record.source.revision],
            ["columns", f"{record.question_column} → {record.answer_column}"],
            ["split", record.split_by],
            *[[f"{name} rows", f"{count:,}"] for name, count in record.splits.items()],
            ["rejected rows", f"{record.rejected:,}"],
        ],
    )


def profile(record: DatasetRef, store: ArtifactStore) -> dict[str, Any]:
    """Return what ``profile.json`` says of the dataset.

    Raises
    ------
    ArtifactError
        If the dataset artifact is missing or damaged.
    """
    text = (store.verify("dataset", record.sha256) / "profile.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def lengths(found: dict[str, Any]) -> Table | None:
    """Return how long questions and answers are, from a dataset's profile; None where it does not say."""
    rows = []
    for split, about in found.get("splits", {}).items():
        for name, value in about.items():
            if isinstance(value, dict) and {"p50", "max"} <= value.keys():
                rows.append([split, name.replace("_", " "), *(f"{value[q]:,}" for q in ("min", "p50", "p95", "max"))])
    return Table(["split", "", "least", "median", "95 of 100", "most"], rows) if rows else None


def model(record: ModelRef) -> Table:
    """Return the facts of a trained model."""
    rows = [
        ["base", record.base + (f" at {record.base_revision[:12]}" if record.base_revision else "")],
        ["parameters", f"{record.parameters:,}"],
        ["trained", f"{record.steps:,} steps, {record.epochs:.1f} epochs, {record.seconds:.0f} s"],
        ["training loss", f"{record.train_loss:.4f}"],
        ["precision", record.precision],
        ["tokens, at most", f"{record.max_source_tokens} of a prompt, {record.max_target_tokens} of an answer"],
        ["cut in training", f"{record.cut_questions:,} questions, {record.cut_answers:,} answers"],
        ["prompt", record.prompt],
    ]
    if record.trained_parameters is not None:
        rows.insert(2, ["of these trained", f"{record.trained_parameters:,}"])
    if record.best_step is not None:
        best = "" if record.best_exact_match is None else f", exact match {percent(record.best_exact_match)}"
        rows.append(["weights kept", f"of step {record.best_step:,}{best} on the validation questions"])
    units = {"tokens_per_second": "tokens a second", "samples_per_second": "questions a second"}
    units |= {"memory_mb": "MiB of memory at most"}
    said = [f"{record.rates[name]:,.0f} {unit}" for name, unit in units.items() if name in record.rates]
    if "mfu" in record.rates:
        said.append(f"{percent(record.rates['mfu'])} of the machine's measured matmul peak")
    return Table(["fact", "value"], [*rows, ["speed", ", ".join(said)]] if said else rows)


def scores(record: Scores) -> Table:
    """Return the scores on the in-scope held-out questions beside the baselines."""
    rows = [_score_row("this model", record.test)]
    return Table(_SCORES, rows + [_score_row(name, each) for name, each in record.baselines.items()])


def out_of_scope(record: Scores) -> Table | None:
    """Return the scores on the out-of-scope questions; None where the dataset has none."""
    if record.out_of_scope is None:
        return None
    rows = [_score_row("this model", record.out_of_scope)]
    return Table(_SCORES, rows + [_score_row(name, each) for name, each in record.out_of_scope_baselines.items()])


def _score_row(name: str, each: SplitScores) -> list[str]:
    return [name, percent(each.exact_match), percent(each.token_f1), percent(each.rouge_l), f"{each.questions:,}"]


def comparison(found: Comparison) -> Table:
    """Return champion and challenger, by part of the held-out questions; the first row holds all of them."""
    head = ["questions", "", "champion", "challenger", "only the champion right", "only the challenger right", "points"]
    parts = (("all", found.overall), ("in scope", found.in_scope), ("out of scope", found.out_of_scope))
    rows = [
        [
            name,
            f"{each.questions:,}",
            percent(each.champion),
            percent(each.challenger),
            f"{each.only_champion:,}",
            f"{each.only_challenger:,}",
            _points(each),
        ]
        for name, each in parts
        if each is not None
    ]
    return Table(head, rows)


def _points(paired: Paired) -> str:
    """Return a difference with its interval, in percentage points."""
    return f"{100 * paired.difference:+.1f} ({100 * paired.low:+.1f} to {100 * paired.high:+.1f})"


def wrong_answers(record: Scores, store: ArtifactStore, most: int) -> tuple[list[dict[str, Any]], int]:
    """Return the held-out questions that were answered wrongly, at most so many, and how many there are.

    Raises
    ------
    ArtifactError
        If the scores artifact is missing or damaged.
    """
    rows = read_predictions(record, store)
    wrong = [row for row in rows if row["split"] != "train" and not row["exact_match"]]
    return wrong[:most], len(wrong)


def confidence(record: Scores, store: ArtifactStore) -> Confidence:
    """Return what the calibrated confidence is worth, and what abstaining below a threshold does, cross-validated.

    Raises
    ------
    ArtifactError
        If the scores artifact is missing or damaged.
    """
    rows = read_held_out(record, store)
    fitted = calibration.fit(rows)
    if fitted.warning:
        return Confidence(f"{fitted.warning[0].upper()}{fitted.warning[1:]}.", None, None)
    probabilities = calibration.cross_validated(rows)
    trades = [calibration.trade(probabilities, rows, threshold) for threshold in (0.0, *THRESHOLDS)]
    body = [
        [
            f"{each.threshold:g}" if each.threshold else "never",
            percent(each.answered),
            percent(each.precision),
            *("–" if share is None else percent(share) for share in (each.in_scope, each.out_of_scope)),
        ]
        for each in trades
    ]
    head = ["abstain below", "answered", "of these right", "exact match", "out of scope recognised"]
    return Confidence(
        f"Calibrated on {fitted.questions:,} held-out questions, cross-validated: calibration error "
        f"{fitted.ece_before} → {fitted.ece_after} ({calibration.error_by_chance(probabilities):.3f} by chance "
        f"alone), Brier score {fitted.brier_before} → {fitted.brier_after}.",
        Table(head, body),
        coverage(probabilities, [row.right for row in rows]),
    )


def agreement(record: PackageRef) -> Table | None:
    """Return how the package answered beside the evaluation; None where it was not proved."""
    found = record.agreement
    if found is None:
        return None
    return Table(
        [f"{found.questions:,} held-out questions", "package", "evaluation"],
        [
            ["same answers", percent(found.same_answers), ""],
            ["same tokens", percent(found.same_tokens), ""],
            ["exact match", percent(found.exact_match), percent(found.exact_match_evaluated)],
            ["token F1", percent(found.token_f1), percent(found.token_f1_evaluated)],
        ],
    )


def measured(record: PackageRef) -> Table | None:
    """Return what the package needed when it was proved; None where it was not."""
    needed = record.measured
    if needed is None:
        return None
    return Table(
        ["", ""],
        [
            ["load", f"{needed.load_seconds:.2f} s"],
            ["first answer", f"{needed.first_answer_seconds:.3f} s"],
            ["one answer, median and 95 of 100", f"{needed.answer_seconds:.3f} s, {needed.answer_seconds_p95:.3f} s"],
            [f"{needed.batch_questions} questions together", f"{needed.batch_seconds:.3f} s"],
            ["resident memory, loaded and at most", f"{needed.load_peak_mb:.0f} MiB, {needed.peak_mb:.0f} MiB"],
        ],
    )


def smoke(record: SmokeRef) -> Table:
    """Return what the deployed endpoint was asked."""
    return Table(
        ["question", "right answer", "endpoint's answer", "seconds"],
        [[a.question, a.expected, a.answered, f"{a.seconds:.2f}"] for a in record.answers],
    )
