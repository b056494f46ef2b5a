"""One question to an endpoint that was just changed, to see whether it answers as the version that was meant."""

import time
from pathlib import Path

from askline.errors import DeployError
from askline.progress import Progress, quiet
from askline.records import EndpointRef, PipelineReport, Record, Target
from tasks.ask.endpoint import Caller
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deployed.versions import origin
from tasks.qa.held_out import same_answer

#: Asked where the report of the version's run is not at hand: any answer of the right version will do.
QUESTION = "Who are you?"


class Asked(Record):
    """A question and what came back."""

    question: str
    answer: str
    expected: str | None
    """What was known to be this version's answer, where anything was."""
    seconds: float


def ask_endpoint(
    endpoint: EndpointRef,
    question: str,
    *,
    expected: str | None = None,
    model_version: str | None,
    target: Target,
    cold_seconds: float | None = None,
    progress: Progress = quiet,
) -> Asked:
    """Ask until the endpoint is warm, and check the answer.

    Parameters
    ----------
    expected
        The answer that this version gave before.
    model_version
        What the container must say that it is; a bare answer says nothing of it. None where that is not known.
    cold_seconds
        How long to go on while the endpoint is not ready or throttles; the default is the pipeline's smoke test's.

    Raises
    ------
    DeployError
        If it does not answer, answers otherwise than before, or is another version.
    """
    started = time.monotonic()
    caller = Caller.of(endpoint, target=target, patience=cold_seconds, progress=progress)
    answer = caller.ask(question)
    version = answer.model_version
    if version is not None and model_version is not None and version != model_version:
        raise DeployError(f"the endpoint {endpoint.name} answers as version {version}, not {model_version}")
    if expected is not None and not same_answer(answer.text, expected):
        raise DeployError(
            f"the endpoint {endpoint.name} answered {answer.text!r} to {question!r}, and {expected!r} before"
        )
    return Asked(question=question, answer=answer.text, expected=expected, seconds=time.monotonic() - started)


def known_answer(
    wanted: RegistryEntry, promotions: tuple[RegistryEntry, ...], state_dir: Path
) -> tuple[str, str | None]:
    """Return a question that the version's run asked after deploying and the answer it got; else a plain question.

    Parameters
    ----------
    promotions
        All of the MLKey's, the newest first.
    state_dir
        Where the reports of runs lie.
    """
    run_id = next((entry.run_id for entry in promotions if entry.version == origin(wanted)), wanted.run_id)
    file = state_dir / "runs" / run_id / "report.json"
    try:
        report = PipelineReport.model_validate_json(file.read_text("utf-8"))
    except (OSError, ValueError):
        return QUESTION, None
    answers = report.smoke.answers if report.smoke else ()
    agreed = [answer for answer in answers if answer.answered == answer.evaluated]
    return (agreed[0].question, agreed[0].answered) if agreed else (QUESTION, None)
