"""One question to see whether an endpoint answers, and as the version that it should be."""

import time
from typing import NamedTuple

from askline.errors import DeployError
from tasks.ask.endpoint import Caller
from tasks.qa.held_out import same_answer


class Question(NamedTuple):
    """What an endpoint is asked once it serves, and what its answer must be like."""

    text: str
    expected: str | None = None
    """The answer that this version gave before, where it is known."""
    model_version: str | None = None
    """What the container must say that it is; a bare answer says nothing of it."""
    cold_seconds: float | None = None
    """How long it is asked again while the endpoint is not ready; the default is the caller's."""


class Asked(NamedTuple):
    """A question and what came back."""

    question: str
    answer: str
    seconds: float


def ask(caller: Caller, question: Question) -> Asked:
    """Ask until the endpoint is warm, and check the answer.

    Raises
    ------
    DeployError
        If it does not answer, answers otherwise than before, or is another version.
    """
    started = time.monotonic()
    answer = caller.ask(question.text)
    if None not in (answer.model_version, question.model_version) and answer.model_version != question.model_version:
        raise DeployError(
            f"the endpoint {caller.name} answers as version {answer.model_version}, not {question.model_version}"
        )
    if question.expected is not None and not same_answer(answer.text, question.expected):
        raise DeployError(
            f"the endpoint {caller.name} answered {answer.text!r} to {question.text!r}, and {question.expected!r} "
            "before"
        )
    return Asked(question.text, answer.text, time.monotonic() - started)
