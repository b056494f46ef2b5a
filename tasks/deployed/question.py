"""What a version is asked to see whether it answers: a question whose answer is known, where there is one."""

import json
from pathlib import Path

from askline.records import SmokeAnswer
from tasks.ask.question import Question
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deployed.versions import origin

#: Asked where the report of the version's run is not at hand: any answer of the right version will do.
ANY = "Who are you?"


def question_for(
    wanted: RegistryEntry,
    promotions: tuple[RegistryEntry, ...],
    state_dir: Path,
    *,
    text: str | None = None,
    cold_seconds: float | None = None,
) -> Question:
    """Return a question that the version's run asked after deploying, with the answer it got; else a plain question.

    Parameters
    ----------
    promotions
        All of the MLKey's, the newest first.
    state_dir
        Where the reports of runs lie.
    text
        What to ask instead.
    """
    plain = Question(text or ANY, model_version=wanted.model_version, cold_seconds=cold_seconds)
    if text is not None:
        return plain
    run_id = next((entry.run_id for entry in promotions if entry.version == origin(wanted)), wanted.run_id)
    try:
        report = json.loads((state_dir / "runs" / run_id / "report.json").read_bytes())
        # This part alone: the rest of a report may be of another version of the pipeline.
        answers = [SmokeAnswer.model_validate(each) for each in report["smoke"]["answers"]]
    except (OSError, ValueError, KeyError, TypeError):
        answers = []
    agreed = [answer for answer in answers if answer.answered == answer.evaluated]
    return plain._replace(text=agreed[0].question, expected=agreed[0].answered) if agreed else plain
