"""The end of a run: what it found, kept as ``report.json`` and ``report.html``, and a summary for the terminal."""

import logging
import random
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from askline.config import PipelineConfig
from askline.console import seconds_by_step
from askline.files import write_whole
from askline.records import (
    ApiRef,
    DatasetRef,
    DeployPlan,
    EndpointRef,
    Gate,
    HubRef,
    ModelRef,
    PackageRef,
    PipelineReport,
    Preflight,
    Promotion,
    Record,
    Run,
    RunReport,
    Scores,
    SmokeRef,
    SplitScores,
    Target,
    UploadRef,
)
from askline.store import ArtifactStore
from tasks.report import markdown, plan, preflight
from tasks.report.page import page
from tasks.report.words import percent, size
from tasks.workplace import store_of

R = TypeVar("R", bound=Record)
End = Literal["Promoted", "NotPromoted", "Planned"]

#: What ``make stop`` takes where nobody names another folder.
DEFAULT_STATE_DIR = str(PipelineConfig.model_fields["state_dir"].default)

_log = logging.getLogger("askline.report")

_FIELD = {
    DatasetRef: "dataset",
    ModelRef: "model",
    Scores: "scores",
    Gate: "gate",
    HubRef: "hub",
    PackageRef: "package",
    DeployPlan: "plan",
    Preflight: "preflight",
    UploadRef: "upload",
    EndpointRef: "endpoint",
    ApiRef: "api",
    SmokeRef: "smoke",
    Promotion: "promotion",
}


class Findings:
    """The records of a run, collected as its steps finish."""

    def __init__(self, config: PipelineConfig, run: Run) -> None:
        self.config = config
        self.run = run
        self.started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._records: dict[str, Record] = {}
        _open[run.run_id] = self

    def keep(self, record: R) -> R:
        """Keep a record and hand it back."""
        self._records[_FIELD[type(record)]] = record
        return record

    @property
    def endpoint(self) -> EndpointRef | None:
        """The endpoint, once it is in service."""
        found = self._records.get("endpoint")
        return found if isinstance(found, EndpointRef) else None

    def report(self, state: End, run_name: str) -> PipelineReport:
        """Return the report of what was kept.

        Raises
        ------
        pydantic.ValidationError
            If a record that every report holds was not kept.
        """
        return PipelineReport(state=state, **self._facts(run_name))

    def report_of_failure(self, error: str, run_name: str) -> RunReport:
        """Return the report of a run that came to no end: what was kept until then, and what went wrong."""
        return RunReport(state="Failed", error=error, **self._facts(run_name))

    def _facts(self, run_name: str) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "run_name": run_name,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 2),
            "target": self.run.target,
            "config": self.config.model_dump(mode="json"),
            "steps": {name: round(seconds, 2) for name, seconds in seconds_by_step().items()},
            **self._records,
        }


#: What the runs of this process have found so far, by run id, for the report of one that fails.
_open: dict[str, Findings] = {}


def write_report(found: Findings, state: End) -> PipelineReport:
    """Write ``report.json`` and ``report.html`` and return the report.

    Both go to ``runs/<run id>/`` in the state folder, each whole or not at all.
    """
    from prefect.runtime import flow_run

    report = found.report(state, flow_run.name or found.run.run_id)
    _write(report, found.run)
    _open.pop(found.run.run_id, None)
    if flow_run.id is not None:
        from prefect.artifacts import create_markdown_artifact

        said = markdown.run(report, store_of(found.run), folder_of_run(found.run) / "report.html")
        create_markdown_artifact(said, key="report", description="How the run ended, in short")
    return report


def report_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Write what is known of a flow run that failed: the flow's ``on_failure``, ``on_crashed`` and ``on_cancellation``.

    A run that fails before it is open leaves no report: nothing is known of it yet.
    """
    found = _open.pop(str(flow_run.id), None)
    if found is not None:
        _write(found.report_of_failure(str(state.message or state.name), flow_run.name), found.run)


def folder_of_run(run: Run) -> Path:
    """Return where what is kept of a run lies."""
    return run.state_dir / "runs" / run.run_id


def _write(report: RunReport, run: Run) -> None:
    folder = folder_of_run(run)
    write_whole(folder / "report.json", report.model_dump_json(indent=2))
    try:
        write_whole(folder / "report.html", page(report, store_of(run)))
    except Exception:  # noqa: BLE001 - whatever it was
        # What the run did is done and told by report.json: a page that cannot be drawn does not undo it.
        _log.exception("report.html was not written")


def summary(report: PipelineReport, *, samples: int = 5) -> str:
    """Return what a person wants to know at the end of a run, as plain text."""
    state_dir = report.config["state_dir"]
    store = ArtifactStore(f"{state_dir}/artifacts")
    parts = ["", _scores(report.scores), "", *_samples(report, store, samples), ""]
    if report.dataset.warnings:
        parts += ["Worth a look in the dataset:", *[f"  {warning}" for warning in report.dataset.warnings], ""]
    if report.state == "NotPromoted":
        parts += [
            f"Not promoted; nothing was {'deployed' if report.hub else 'published or deployed'}:",
            *[f"  {reason}" for reason in report.gate.reasons],
        ]
    elif report.plan and report.state == "Planned":
        parts += [plan.text(report.plan)]
        parts += [preflight.text(report.preflight)] if report.preflight else []
    else:
        parts += _deployed(report)
    parts += _links(report, state_dir)
    return "\n".join(parts)


def _scores(scores: Scores) -> str:
    rows = [("this model", scores.test, scores.out_of_scope)]
    rows += [(name, each, scores.out_of_scope_baselines.get(name)) for name, each in scores.baselines.items()]
    width = max(len(name) for name, _, _ in rows) + 2
    lines = [f"  {'':{width}}{'exact match':>12}{'token F1':>10}{'ROUGE-L':>9}{'out of scope':>14}"]
    for name, each, out in rows:
        beyond = percent(out.exact_match) if isinstance(out, SplitScores) else "–"
        shares = f"{percent(each.exact_match):>12}{percent(each.token_f1):>10}{percent(each.rouge_l):>9}{beyond:>14}"
        lines.append(f"  {name:<{width}}{shares}")
    lines.append(
        f"  on {scores.test.questions:,} unseen questions; training questions {percent(scores.train.exact_match)}, "
        f"wrongly refused {percent(scores.false_abstention)}"
    )
    if scores.kinds:
        lines += ["", "  Right, and the 95 % interval:"]
    for kind, share in scores.kinds.items():
        interval = f"{percent(share.low)} to {percent(share.high)}"
        lines.append(f"    {kind:<{width - 2}}{percent(share.right):>12} of {share.questions:,} ({interval})")
    return "\n".join(lines)


def _samples(report: PipelineReport, store: ArtifactStore, count: int) -> list[str]:
    """Return a few unseen questions, drawn by the model's own hash: not chosen, and the same for the same model."""
    unseen = [row for row in markdown.predictions(report.scores, store) if row["split"] != "train"]
    drawn = random.Random(report.scores.sha256).sample(unseen, min(count, len(unseen)))  # noqa: S311 - no secret
    lines = ["Unseen questions, drawn at random:"]
    for row in drawn:
        mark = "✓" if row["exact_match"] else "✗"
        right = "" if row["exact_match"] else f"   (right: {row['answer']})"
        lines += [f"  {row['question']}", f"    {mark} {row['prediction']}{right}"]
    return lines


def _deployed(report: PipelineReport) -> list[str]:
    lines = []
    if report.package and report.upload:
        lines += [
            f"Package   {report.upload.uri}",
            f"          {size(report.package.size)}, sha256 {report.package.archive_sha256}",
            f"          {report.package.engine} {report.package.quantisation}{_needs(report.package)}",
            *(f"          {note}" for note in (*report.package.passed_over, *report.package.notes)),
        ]
    if report.hub:
        lines.append(f"Model     {report.hub.url or 'not pushed: ' + str(report.hub.skipped)}")
    if report.endpoint:
        lines.append(f"Endpoint  {report.endpoint.name} ({report.endpoint.runs_on}, {report.endpoint.target})")
    if report.plan and report.plan.costs.api:
        lines.append(f"Price     on AWS {plan.api_price(report.plan.costs.api)}")
    if report.api and report.smoke and report.endpoint:
        lines.append(f"API       {report.api.url}")
        if report.api.auth in ("none", "key"):
            question = next(
                (a.question for a in report.smoke.answers if a.answered == a.expected), report.smoke.answers[0].question
            )
            lines += ["", "Ask it:", f"  {markdown.curl(report.api, report.endpoint.mlkey, question)}"]
            if report.api.api_key_id:
                lines += ["", "Show the key:", f"  {_show_key(report.api.api_key_id, report.target)}"]
        elif report.api.auth == "cognito":
            lines.append("          callers send a token of the user pool; see docs/api-deployment.md")
        else:
            lines.append("          callers sign their requests (IAM); see docs/api.md")
    return lines


def _needs(package: PackageRef) -> str:
    if package.measured is None:
        return ""
    return (
        f": loads in {package.measured.load_seconds:.1f} s, answers in "
        f"{package.measured.answer_seconds * 1000:.0f} ms, {package.measured.peak_mb:.0f} MB of memory"
    )


def _state_dir_option(target: Target) -> str:
    """Return the option that names the embedded cloud's state folder, where it is not the default one here."""
    folder = Path(target.keys_file or ".askline/cloud/keys.json").parents[1]
    return "" if folder.resolve() == Path(".askline").resolve() else f" --state-dir {shlex.quote(str(folder))}"


def _show_key(key_id: str, target: Target) -> str:
    """Return the command that prints the API key; the key itself is in no report."""
    aws = f"aws --region {target.region}"
    if target.kind == "local":
        # Whoever pastes it has run `make run`, so that no environment is active in that shell.
        python = shlex.quote(sys.executable)
        aws = f'eval "$({python} -m local_cloud env{_state_dir_option(target)})"; {aws}'
    return f"{aws} apigateway get-api-key --include-value --query value --output text --api-key {key_id}"


def _stays_up(report: PipelineReport) -> str:
    """Say what the embedded cloud stays up for; there is no API to try where nothing was deployed."""
    why = " so that you can try the API" if report.api is not None else ""
    return f"The embedded cloud stays up{why}. Stop it:"


def _stop(state_dir: str) -> str:
    """Return the command that stops the embedded cloud whose state lies in the folder that the run used."""
    return "make stop" if state_dir == DEFAULT_STATE_DIR else f"make stop STATE={shlex.quote(state_dir)}"


def _links(report: PipelineReport, state_dir: str) -> list[str]:
    lines = [""]
    if report.target.prefect_ui:
        lines.append(f"Run       {report.target.prefect_ui}/runs/flow-run/{report.run_id}")
    lines.append(f"Report    {state_dir}/runs/{report.run_id}/report.html, and the same as report.json")
    if report.state == "Planned":
        lines += ["", "Carry it out:  the same command without --plan"]
    elif report.target.kind == "local":
        lines += [
            "",
            f"{_stays_up(report)}  {_stop(state_dir)}",
            "Next, your own data:         make run ARGS='--dataset.source FILE_OR_HUB_ID --deploy.mlkey NAME'",
            "Next, your own AWS account:  make run ARGS='--config configs/aws.toml'",
        ]
    return lines
