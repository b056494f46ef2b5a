"""Records as Markdown, for the artifacts in the Prefect UI."""

import json
from typing import Any

from askline.records import (
    ApiRef,
    Comparison,
    DatasetRef,
    EndpointRef,
    Gate,
    ModelRef,
    PackageRef,
    Paired,
    Scores,
    SmokeRef,
    SplitScores,
)
from askline.store import ArtifactStore
from tasks.evaluation.predictions import read_predictions
from tasks.packaging import calibration
from tasks.packaging.held_out import read_held_out
from tasks.reporting.words import percent, size

_MOST_WRONG_ANSWERS = 200
#: Probabilities to abstain below, as examples.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; bars and line breaks in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def dataset(record: DatasetRef, store: ArtifactStore) -> str:
    """Return the dataset's profile."""
    facts = [
        ["source", f"`{record.source.location}`"],
        ["revision", f"`{record.source.revision}`"],
        ["columns", f"`{record.question_column}` → `{record.answer_column}`"],
        ["split", record.split_by],
        *[[f"{name} rows", f"{count:,}"] for name, count in record.splits.items()],
        ["rejected rows", f"{record.rejected:,}"],
    ]
    profile = json.loads((store.path("dataset", record.sha256) / "profile.json").read_text(encoding="utf-8"))
    parts = ["## Dataset", table(["fact", "value"], facts)]
    if record.warnings:
        parts += ["### Worth a look", "\n".join(f"- {warning}" for warning in record.warnings)]
    parts += ["### Profile", f"```json\n{json.dumps(profile, indent=2, ensure_ascii=False)}\n```"]
    return "\n\n".join(parts)


def loss_curve(record: ModelRef, store: ArtifactStore, *, points: int = 12) -> str:
    """Return the training loss at a few evenly spaced steps; the whole curve is in ``training_log.jsonl``."""
    lines = (store.path("model", record.sha256) / "training_log.jsonl").read_text(encoding="utf-8").split("\n")
    log = [entry for entry in (json.loads(line) for line in lines if line) if "loss" in entry]
    chosen = [log[round(i * (len(log) - 1) / max(1, points - 1))] for i in range(min(points, len(log)))]
    rows = [[f"{entry['step']:,}", f"{entry['loss']:.4f}"] for entry in chosen]
    return "\n\n".join(
        [
            "## Training loss",
            f"{record.base}, {record.parameters:,} parameters, {record.epochs:.1f} epochs, {record.precision}",
            table(["step", "loss"], rows),
        ]
    )


def scores(record: Scores) -> str:
    """Return the scores beside the baselines."""
    rows = [_score_row("this model", record.test)]
    rows += [_score_row(name, each) for name, each in record.baselines.items()]
    parts = ["## Unseen questions", table(["answers by", "exact match", "token F1", "ROUGE-L", "questions"], rows)]
    if record.out_of_scope:
        rows = [_score_row("this model", record.out_of_scope)]
        rows += [_score_row(name, each) for name, each in record.out_of_scope_baselines.items()]
        parts += [
            "## Out-of-scope questions",
            table(["answers by", "exact match", "token F1", "ROUGE-L", "questions"], rows),
        ]
    parts.append(
        f"Training questions: exact match {percent(record.train.exact_match)}. "
        f"In-scope questions wrongly refused: {percent(record.false_abstention)}."
    )
    return "\n\n".join(parts)


def _score_row(name: str, each: SplitScores) -> list[str]:
    return [name, percent(each.exact_match), percent(each.token_f1), percent(each.rouge_l), f"{each.questions:,}"]


def gate(record: Gate) -> str:
    """Return the gate's decision, and champion and challenger side by side."""
    parts = ["## Promoted" if record.passed else "## Not promoted", *[f"- {reason}" for reason in record.reasons]]
    found = record.comparison
    if record.approval is not None:
        said = "approved" if record.approval.approved else "not approved"
        parts.append(f"A person has {said} it" + (f": {record.approval.note}" if record.approval.note else "."))
    if found is None:
        return "\n\n".join([*parts, "No deployed model was compared with."])
    parts += [
        "## Champion and challenger",
        f"Champion: model `{found.champion.model_version}` behind `{found.champion.endpoint}`, trained on "
        f"{found.champion.dataset}, promoted {found.champion.promoted_at}.",
        f"**{found.verdict.capitalize()}**: {found.reason}.",
    ]
    if found.overall is not None:
        parts.append(table(*comparison_table(found)))
    parts += [f"- {note}" for note in found.notes]
    return "\n\n".join(parts)


def comparison_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of champion and challenger."""
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
    return head, rows


def _points(paired: Paired) -> str:
    """Return a difference with its interval, in percentage points."""
    return f"{100 * paired.difference:+.1f} ({100 * paired.low:+.1f} to {100 * paired.high:+.1f})"


def predictions(record: Scores, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the evaluation's predictions, one dict a question."""
    return read_predictions(record, store)


def wrong_answers(record: Scores, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the held-out questions that were answered wrongly, as rows of a table artifact."""
    wrong = [row for row in predictions(record, store) if row["split"] != "train" and not row["exact_match"]]
    return [
        {"question": row["question"], "right answer": row["answer"], "model's answer": row["prediction"]}
        for row in wrong[:_MOST_WRONG_ANSWERS]
    ]


def confidence(record: Scores, store: ArtifactStore) -> str:
    """Return what the calibrated confidence is worth, and what abstaining below a threshold does, cross-validated."""
    rows = read_held_out(record, store)
    fitted = calibration.fit(rows)
    if fitted.warning:
        return f"## Confidence\n\n{fitted.warning[0].upper()}{fitted.warning[1:]}."
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
    return "\n\n".join(
        [
            "## Confidence",
            f"Calibrated on {fitted.questions:,} held-out questions, cross-validated: calibration error "
            f"{fitted.ece_before} → {fitted.ece_after} ({calibration.error_by_chance(probabilities):.3f} by chance "
            f"alone), Brier score {fitted.brier_before} → {fitted.brier_after}.",
            table(["abstain below", "answered", "of these right", "exact match", "out of scope recognised"], body),
        ]
    )


def package(record: PackageRef) -> str:
    """Return what was packed, how it answered, and what it needs."""
    parts = [
        f"## `model.tar.gz` ({record.engine} {record.quantisation})",
        f"{size(record.size)}, {size(record.unpacked_size)} unpacked, {len(record.members)} files, "
        f"sha256 `{record.archive_sha256}`",
        *(f"- {note}" for note in (*record.passed_over, *record.notes)),
    ]
    if record.agreement:
        found = record.agreement
        rows = [
            ["same answers", percent(found.same_answers), ""],
            ["same tokens", percent(found.same_tokens), ""],
            ["exact match", percent(found.exact_match), percent(found.exact_match_evaluated)],
            ["token F1", percent(found.token_f1), percent(found.token_f1_evaluated)],
        ]
        parts += [f"### {found.questions} held-out questions", table(["", "package", "evaluation"], rows)]
    if record.measured:
        needed = record.measured
        rows = [
            ["load", f"{needed.load_seconds:.2f} s"],
            ["first answer", f"{needed.first_answer_seconds:.3f} s"],
            ["one answer, median and 95 of 100", f"{needed.answer_seconds:.3f} s, {needed.answer_seconds_p95:.3f} s"],
            [f"{needed.batch_questions} questions together", f"{needed.batch_seconds:.3f} s"],
            ["resident memory, loaded and at most", f"{needed.load_peak_mb:.0f} MiB, {needed.peak_mb:.0f} MiB"],
        ]
        parts += [f"### Measured on {needed.processor}", table(["", ""], rows)]
    return "\n\n".join(parts)


def curl(api: ApiRef, mlkey: str, question: str) -> str:
    """Return a curl command that works when pasted into a shell, once the API key is filled in where one is needed."""
    key = " --header 'x-api-key: <your key>'" if api.auth == "key" else ""
    body = json.dumps({"MLKey": mlkey, "question": question}, ensure_ascii=False).replace("'", "'\\''")
    return f"curl --location --request GET '{api.url}'{key} --header 'Content-Type: application/json' --data '{body}'"


def deployment(endpoint: EndpointRef, api: ApiRef | None, smoke: SmokeRef) -> str:
    """Return the endpoint, the API and what they answered."""
    parts = [
        f"## Endpoint `{endpoint.name}`",
        f"{endpoint.action}, {endpoint.target}, {endpoint.runs_on}"
        + (f", at most {endpoint.max_concurrency} at once" if endpoint.max_concurrency else "")
        + f", config `{endpoint.config_name}`",
    ]
    if api is not None:
        parts += [f"## API {api.url}", f"```sh\n{curl(api, endpoint.mlkey, smoke.answers[0].question)}\n```"]
    rows = [[a.question, a.expected, a.answered, f"{a.seconds:.2f}"] for a in smoke.answers]
    parts += ["## Asked", table(["question", "right answer", "endpoint's answer", "seconds"], rows)]
    return "\n\n".join(parts)
