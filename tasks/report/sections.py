"""What the page of a run says, section by section, as text and tables; how it looks is the template's."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from askline.config import PipelineConfig
from askline.errors import ArtifactError
from askline.records import Comparison, RunReport, SplitScores
from askline.store import ArtifactStore
from tasks.report import curves, plan, tables
from tasks.report.markdown import curl
from tasks.report.tables import Table
from tasks.report.words import dollars, percent, size

#: More wrong answers than this make a page that a phone cannot hold.
MOST_WRONG_ANSWERS = 1000
#: Questions on which champion and challenger differ, each way.
MOST_DIFFERING = 100


class Block(NamedTuple):
    """One piece of a section. ``kind`` says how it is shown: text, list, facts, table, picture, code or bars."""

    kind: str
    content: Any
    title: str | None = None
    """What it stands under; a folded block shows this alone."""
    folded: bool = False


class Section(NamedTuple):
    """One section of the page."""

    anchor: str
    title: str
    blocks: list[Block]


def headline(report: RunReport) -> str:
    """Return how the run ended, in a sentence."""
    said = {
        "Promoted": "The model is deployed and answers.",
        "NotPromoted": "The model was not promoted; nothing was published or deployed.",
        "Planned": "Nothing was created: this is the plan.",
        "Failed": "The run failed. What is finished is kept; the same run goes on from there.",
    }
    return said[report.state]


def reasons(report: RunReport) -> list[str]:
    """Return why the run ended as it did, where that needs saying."""
    return [report.error] if report.error else list(report.gate.reasons if report.gate else ())


def figures(report: RunReport) -> list[tuple[str, str]]:
    """Return the few figures that a person looks for first, with what they are."""
    found = []
    if report.scores:
        found.append((percent(report.scores.test.exact_match), f"of {report.scores.test.questions:,} unseen questions"))
        if report.scores.out_of_scope:
            found.append((percent(report.scores.out_of_scope.exact_match), "of out-of-scope questions recognised"))
    if report.gate and report.gate.comparison and report.gate.comparison.overall:
        points = 100 * report.gate.comparison.overall.difference
        found.append((f"{points:+.1f}", "points beside the champion"))
    if report.package:
        found.append((size(report.package.size), f"{report.package.engine} {report.package.quantisation}"))
    if report.plan and report.plan.costs.api is not None:
        found.append((dollars(report.plan.costs.api.usd_per_1000), "for 1,000 questions through the API on AWS"))
    elif report.plan and report.plan.costs.usd_per_1000_calls is not None:
        found.append((dollars(report.plan.costs.usd_per_1000_calls), "for 1,000 calls of the endpoint on AWS"))
    return found


def sections(report: RunReport, store: ArtifactStore) -> list[Section]:
    """Return the sections that have something to say, in the order in which they are read."""
    makers: Sequence[tuple[str, str, Callable[[RunReport, ArtifactStore], list[Block]]]] = (
        ("api", "Ask it", _api),
        ("scores", "Scores", _scores),
        ("champion", "Champion and challenger", _champion),
        ("wrong-answers", "Wrong answers", _wrong_answers),
        ("training", "Training", _training),
        ("confidence", "Confidence", _confidence),
        ("dataset", "Dataset", _dataset),
        ("package", "Package", _package),
        ("plan", "Plan and costs", _plan),
        ("preflight", "Checked before the deployment", _preflight),
        ("endpoint", "Endpoint", _endpoint),
        ("choices", "What was chosen, and why", _choices),
        ("steps", "Steps", _steps),
        ("links", "Where things are", _links),
        ("configuration", "Configuration", _configuration),
    )
    found = []
    for anchor, title, make in makers:
        try:
            blocks = make(report, store)
        except ArtifactError as error:
            blocks = [Block("text", f"Not shown: {error}")]
        if blocks:
            found.append(Section(anchor, title, blocks))
    return found


def _api(report: RunReport, store: ArtifactStore) -> list[Block]:
    if not (report.api and report.endpoint and report.smoke):
        return []
    answers = report.smoke.answers
    asked = next((answer for answer in answers if answer.answered == answer.expected), answers[0])
    if report.api.auth in ("none", "key"):
        return [
            Block("code", curl(report.api, report.endpoint.mlkey, asked.question)),
            Block("text", f"It answers: {asked.answered}"),
        ]
    return [Block("text", f"{report.api.url} takes signed requests or tokens only (auth {report.api.auth}).")]


def _scores(report: RunReport, store: ArtifactStore) -> list[Block]:
    scores = report.scores
    if scores is None:
        return []
    blocks = [Block("table", tables.scores(scores), "Unseen questions")]
    beyond = tables.out_of_scope(scores)
    if beyond is not None:
        blocks.append(Block("table", beyond, "Out-of-scope questions: right is to say that it does not know"))
    blocks.append(
        Block(
            "text",
            f"Training questions answered exactly: {percent(scores.train.exact_match)}. In-scope questions wrongly "
            f"refused: {percent(scores.false_abstention)}. One standard error of exact match on the unseen questions "
            f"is {100 * _standard_error(scores.test):.1f} points.",
        )
    )
    return blocks


def _standard_error(each: SplitScores) -> float:
    return float((each.exact_match * (1 - each.exact_match) / max(1, each.questions)) ** 0.5)


def _champion(report: RunReport, store: ArtifactStore) -> list[Block]:
    gate = report.gate
    if gate is None:
        return []
    blocks = []
    if gate.approval is not None:
        said = "approved" if gate.approval.approved else "not approved"
        blocks.append(Block("text", f"By a person: {said}. {gate.approval.note}".strip()))
    found = gate.comparison
    if found is None:
        return [*blocks, Block("text", "There was no deployed model to compare with, or it was not looked at.")]
    champion = found.champion
    facts = [
        ["verdict", found.verdict],
        ["champion", f"model {champion.model_version} behind {champion.endpoint}"],
        ["trained on", champion.dataset],
        ["promoted", champion.promoted_at],
    ]
    if found.champion_token_f1 is not None and found.challenger_token_f1 is not None:
        f1 = f"{percent(found.challenger_token_f1)}, the champion's {percent(found.champion_token_f1)}"
        facts.append(["token F1 in scope", f1])
    blocks += [Block("facts", facts), Block("text", f"{found.reason[0].upper()}{found.reason[1:]}.")]
    if found.overall is not None:
        blocks.append(Block("table", tables.comparison(found)))
    if found.notes:
        blocks.append(Block("list", list(found.notes)))
    return blocks + _differing(found, store)


def _differing(found: Comparison, store: ArtifactStore) -> list[Block]:
    if found.sha256 is None:
        return []
    text = (store.verify("comparison", found.sha256) / "answers.jsonl").read_text(encoding="utf-8")
    answers = [json.loads(line) for line in text.split("\n") if line]
    head = ["question", "right answer", "champion", "challenger"]
    blocks = []
    for title, right, wrong in (
        ("Only the challenger is right", "challenger_right", "champion_right"),
        ("Only the champion is right", "champion_right", "challenger_right"),
    ):
        rows = [
            [each["question"], each["answer"], each["champion"], each["challenger"]]
            for each in answers
            if each[right] and not each[wrong]
        ]
        if rows:
            shown = Table(head, rows[:MOST_DIFFERING])
            blocks.append(Block("table", shown, f"{title} ({len(rows):,})", folded=True))
    return blocks


def _wrong_answers(report: RunReport, store: ArtifactStore) -> list[Block]:
    if report.scores is None:
        return []
    wrong, count = tables.wrong_answers(report.scores, store, MOST_WRONG_ANSWERS)
    asked = report.scores.test.questions + (report.scores.out_of_scope.questions if report.scores.out_of_scope else 0)
    if not wrong:
        return [Block("text", f"None of the {asked:,} held-out questions was answered wrongly.")]
    rows = [
        [
            row["question"],
            row["answer"],
            row["prediction"],
            row.get("baselines", {}).get("nearest question", "–"),
            f"{row['confidence']:.2f}" if "confidence" in row else "–",
            "yes" if row.get("in_scope", True) else "no",
        ]
        for row in wrong
    ]
    head = ["question", "right answer", "model's answer", "nearest question's answer", "raw confidence", "in scope"]
    said = f"{count:,} of {asked:,} held-out questions" + (
        f", the first {len(wrong):,} of them" if count > len(wrong) else ""
    )
    return [Block("text", f"{said}. A click on a heading sorts."), Block("long table", Table(head, rows))]


def _training(report: RunReport, store: ArtifactStore) -> list[Block]:
    if report.model is None:
        return []
    picture = curves.training(curves.read_training_log(report.model, store))
    blocks = [Block("facts", tables.model(report.model).rows)]
    return blocks if picture is None else [Block("picture", picture), *blocks]


def _confidence(report: RunReport, store: ArtifactStore) -> list[Block]:
    if report.scores is None:
        return []
    found = tables.confidence(report.scores, store)
    blocks = [Block("text", found.said)]
    if found.picture is not None:
        blocks.append(Block("picture", found.picture))
    if found.table is not None:
        blocks.append(Block("table", found.table))
    return blocks


def _dataset(report: RunReport, store: ArtifactStore) -> list[Block]:
    if report.dataset is None:
        return []
    blocks = [Block("facts", tables.dataset(report.dataset).rows)]
    if report.dataset.warnings:
        blocks.append(Block("list", list(report.dataset.warnings), "Worth a look"))
    profile = tables.profile(report.dataset, store)
    lengths = tables.lengths(profile)
    if lengths is not None:
        blocks.append(Block("table", lengths, "Lengths"))
    text = json.dumps(profile, indent=2, ensure_ascii=False)
    return [*blocks, Block("code", text, "The whole profile", folded=True)]


def _package(report: RunReport, store: ArtifactStore) -> list[Block]:
    package = report.package
    if package is None:
        return []
    facts = [
        [
            "engine",
            f"{package.engine} {package.quantisation}" + (f", Python {package.python}" if package.python else ""),
        ],
        ["size", f"{size(package.size)}, {size(package.unpacked_size)} unpacked, {len(package.members)} files"],
        ["sha256", package.archive_sha256],
    ]
    blocks = [Block("facts", facts)]
    if package.passed_over or package.notes:
        blocks.append(Block("list", [*package.passed_over, *package.notes]))
    agreed, measured = tables.agreement(package), tables.measured(package)
    if agreed is not None:
        blocks.append(Block("table", agreed, "Proved: unpacked in a clean process, and asked"))
    if measured is not None and package.measured is not None:
        blocks.append(Block("facts", measured.rows, f"Measured on {package.measured.processor}"))
    if package.differing:
        blocks.append(Block("list", list(package.differing), "Answered otherwise than by the evaluation", folded=True))
    return blocks


def _plan(report: RunReport, store: ArtifactStore) -> list[Block]:
    if report.plan is None:
        return []
    blocks = [Block("facts", [list(row) for row in plan.rows(report.plan)])]
    return [*blocks, Block("list", list(report.plan.notes))] if report.plan.notes else blocks


def _preflight(report: RunReport, store: ArtifactStore) -> list[Block]:
    if report.preflight is None:
        return []
    mark = {True: "✓", False: "✗", None: "–"}
    rows = [[mark[each.passed], each.name, each.found, each.remedy or ""] for each in report.preflight.checks]
    return [Block("table", Table(["", "check", "found", "remedy"], rows))]


def _endpoint(report: RunReport, store: ArtifactStore) -> list[Block]:
    blocks = []
    if report.endpoint is not None:
        endpoint = report.endpoint
        facts = [["endpoint", f"{endpoint.name}, {endpoint.action}"], ["model", endpoint.model_name]]
        facts += [["configuration", endpoint.config_name], ["image", endpoint.image]]
        if report.api is not None:
            facts.append(["API", f"{report.api.url}, {report.api.action}, auth {report.api.auth}"])
        blocks.append(Block("facts", facts))
    if report.smoke is not None:
        said = f"{report.smoke.agreed} of {report.smoke.asked} answers are the evaluation's"
        blocks.append(Block("table", tables.smoke(report.smoke), f"Smoke test: {said}"))
    return blocks


def _choices(report: RunReport, store: ArtifactStore) -> list[Block]:
    rows = []
    if report.model is not None:
        rows += [["training", reason] for reason in report.model.choices or (report.model.precision,)]
    if report.dataset is not None:
        rows.append(["dataset.split_by", report.dataset.split_by])
        columns = f"{report.dataset.question_column} → {report.dataset.answer_column}"
        rows.append(["dataset columns", columns])
    if report.package is not None:
        engine = f"{report.package.engine} {report.package.quantisation}"
        rows.append(["package.engine, quantisation", "; ".join((engine, *report.package.passed_over))])
    if report.plan is not None:
        said = dict(plan.rows(report.plan))
        rows += [
            [f"deploy: {name}", said[name]] for name in ("image", "memory", "instances", "workers") if name in said
        ]
    if report.api is not None:
        rows.append(["api.auth", report.api.auth])
    return [Block("facts", rows)] if rows else []


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _steps(report: RunReport, store: ArtifactStore) -> list[Block]:
    longest = max(report.steps.values(), default=0)
    bars = [
        (name, f"{seconds:.1f} s", 100 * seconds / longest if longest else 0) for name, seconds in report.steps.items()
    ]
    return [Block("bars", bars)] if bars else []


def _links(report: RunReport, store: ArtifactStore) -> list[Block]:
    facts = []
    if report.target.prefect_ui:
        facts.append(["run", f"{report.target.prefect_ui}/runs/flow-run/{report.run_id}"])
    if report.hub is not None:
        facts.append(["model on the Hub", report.hub.url or f"not pushed: {report.hub.skipped}"])
    if report.upload is not None:
        facts.append(["archive", report.upload.uri])
    for name, record in (("dataset", report.dataset), ("model", report.model), ("scores", report.scores)):
        if record is not None:
            facts.append([f"{name} artifact", str(store.path(name, record.sha256))])
    return [Block("facts", [*facts, ["run id", report.run_id]])]


def _configuration(report: RunReport, store: ArtifactStore) -> list[Block]:
    default = PipelineConfig().model_dump(mode="json")
    given = _differences(report.config, default)
    blocks = [Block("facts", given, "Other than the defaults")] if given else []
    text = json.dumps(report.config, indent=2, ensure_ascii=False)
    return [*blocks, Block("code", text, "The whole configuration", folded=True)]


def _differences(given: dict[str, Any], default: dict[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for name, value in given.items():
        standard = default.get(name)
        if isinstance(value, dict) and isinstance(standard, dict) and standard:
            rows += _differences(value, standard, f"{prefix}{name}.")
        elif value != standard:
            rows.append([f"{prefix}{name}", _said(value)])
    return rows
