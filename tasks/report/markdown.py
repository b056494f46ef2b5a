"""Records as Markdown, for the artifacts in the Prefect UI."""

import base64
import html
import json
from pathlib import Path
from typing import Any

from askline.errors import ArtifactError
from askline.records import (
    ApiRef,
    DatasetRef,
    EndpointRef,
    Gate,
    ModelRef,
    PackageRef,
    PipelineReport,
    Scores,
    SmokeRef,
)
from askline.store import ArtifactStore
from tasks.qa.predictions import read_predictions
from tasks.report import tables
from tasks.report.curves import Picture, read_training_log, training
from tasks.report.words import percent, size

_MOST_WRONG_ANSWERS = 200


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; bars and line breaks in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def dataset(record: DatasetRef, store: ArtifactStore) -> str:
    """Return the dataset's profile."""
    head, rows = tables.dataset(record)
    facts = [[name, f"`{value}`" if name in ("source", "revision") else value] for name, value in rows]
    found = tables.profile(record, store)
    parts = ["## Dataset", table(head, facts)]
    if record.warnings:
        parts += ["### Worth a look", "\n".join(f"- {warning}" for warning in record.warnings)]
    lengths = tables.lengths(found)
    if lengths is not None:
        parts += ["### Lengths", table(*lengths)]
    parts += ["### Profile", f"```json\n{json.dumps(found, indent=2, ensure_ascii=False)}\n```"]
    return "\n\n".join(parts)


def loss_curve(record: ModelRef, store: ArtifactStore, *, points: int = 12) -> str:
    """Return the training as a picture, and the loss at a few evenly spaced steps."""
    log = read_training_log(record, store)
    losses = [entry for entry in log if "loss" in entry]
    chosen = [losses[round(i * (len(losses) - 1) / max(1, points - 1))] for i in range(min(points, len(losses)))]
    rows = [[f"{entry['step']:,}", f"{entry['loss']:.4f}"] for entry in chosen]
    return "\n\n".join(
        [
            "## Training loss",
            f"{record.base}, {record.parameters:,} parameters, {record.epochs:.1f} epochs, {record.precision}",
            *_shown(training(log)),
            table(["step", "loss"], rows),
        ]
    )


def _shown(picture: Picture | None) -> list[str]:
    """Return a picture as Markdown that needs no file and no server."""
    if picture is None:
        return []
    return [f"![{picture.title}](data:image/png;base64,{base64.b64encode(picture.png()).decode()})"]


def scores(record: Scores) -> str:
    """Return the scores beside the baselines."""
    parts = ["## Unseen questions", table(*tables.scores(record))]
    beyond = tables.out_of_scope(record)
    if beyond is not None:
        parts += ["## Out-of-scope questions", table(*beyond)]
    parts.append(
        f"Training questions: exact match {percent(record.train.exact_match)}. "
        f"In-scope questions wrongly refused: {percent(record.false_abstention)}."
    )
    return "\n\n".join(parts)


def gate(record: Gate) -> str:
    """Return the gate's decision, and champion and challenger side by side."""
    title = "## Good enough to publish" if record.passed else "## Not promoted"
    parts = [title, *[f"- {reason}" for reason in record.reasons]]
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
        parts.append(table(*tables.comparison(found)))
    parts += [f"- {note}" for note in found.notes]
    return "\n\n".join(parts)


def predictions(record: Scores, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the evaluation's predictions, one dict a question."""
    return read_predictions(record, store)


def wrong_answers(record: Scores, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the held-out questions that were answered wrongly, as rows of a table artifact."""
    wrong, _ = tables.wrong_answers(record, store, _MOST_WRONG_ANSWERS)
    return [
        {"question": row["question"], "right answer": row["answer"], "model's answer": row["prediction"]}
        for row in wrong
    ]


def confidence(record: Scores, store: ArtifactStore) -> str:
    """Return what the calibrated confidence is worth, and what abstaining below a threshold does, cross-validated."""
    found = tables.confidence(record, store)
    parts = ["## Confidence", found.said, *_shown(found.picture)]
    return "\n\n".join(parts if found.table is None else [*parts, table(*found.table)])


def package(record: PackageRef) -> str:
    """Return what was packed, how it answered, and what it needs."""
    parts = [
        f"## `model.tar.gz` ({record.engine} {record.quantisation})",
        f"{size(record.size)}, {size(record.unpacked_size)} unpacked, {len(record.members)} files, "
        f"sha256 `{record.archive_sha256}`",
        *(f"- {note}" for note in (*record.passed_over, *record.notes)),
    ]
    agreed, measured = tables.agreement(record), tables.measured(record)
    if agreed is not None:
        parts.append(table(*agreed))
    if measured is not None and record.measured is not None:
        parts += [f"### Measured on {record.measured.processor}", table(*measured)]
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
    head, rows = tables.smoke(smoke)
    parts += ["## Asked", table(head, [[html.escape(cell, quote=False) for cell in row] for row in rows])]
    return "\n\n".join(parts)


def run(report: PipelineReport, store: ArtifactStore, page: Path) -> str:
    """Return a run in short: what stands in full on its page. Steps that were remembered are told of here too."""
    parts = [f"# {report.state}", *[f"- {reason}" for reason in report.gate.reasons]]
    if report.api is not None and report.endpoint is not None and report.smoke is not None:
        question = report.smoke.answers[0].question
        parts += [f"Endpoint `{report.endpoint.name}`, API {report.api.url}"]
        if report.api.auth in ("none", "key"):
            parts.append(f"```sh\n{curl(report.api, report.endpoint.mlkey, question)}\n```")
    parts.append(scores(report.scores))
    try:
        parts += _shown(training(read_training_log(report.model, store)))
    except ArtifactError as error:
        parts.append(f"No curves: {error}")
    if report.gate.comparison is not None:
        parts.append(gate(report.gate))
    parts.append(f"All of it, on the machine that ran it: `{page}`, and as `report.json` beside it.")
    return "\n\n".join(parts)
