"""Ask the deployed endpoint, and the API in front of it, what the evaluation asked, and compare the answers.

"InService" does not mean that the model is loaded: only an answered question does.
"""

import time
from collections.abc import Collection

from askline.config import SmokeConfig
from askline.errors import DeployError
from askline.records import ApiRef, EndpointRef, Scores, SmokeAnswer, SmokeRef, Target
from tasks.ask.endpoint import COLD_SECONDS, RETRY_SECONDS, Caller
from tasks.deploy_api.call import call_api
from tasks.qa.held_out import read_held_out, same_answer, spread
from tasks.workplace import Workplace

SEED = 7
#: Disagreements that an error message shows.
SHOWN = 3


def smoke_invoke(
    config: SmokeConfig,
    endpoint: EndpointRef,
    scores: Scores,
    *,
    differing: Collection[str] = (),
    place: Workplace,
    cold_seconds: float | None = None,
) -> SmokeRef:
    """Ask ``config.questions`` held-out questions and, where the dataset has some, one that is out of scope.

    Parameters
    ----------
    differing
        Questions that the package is known to answer otherwise than the evaluation; they are not asked.
    cold_seconds
        How long a question is asked again while the endpoint is not ready or throttles, or waits in an async
        endpoint's queue; the default depends on the kind of endpoint.

    Raises
    ------
    DeployError
        If fewer than ``config.min_agreement`` of the answers are the evaluation's, the endpoint does not answer.
    ArtifactError
        If the predictions are missing or damaged.
    """
    target, progress = place.target, place.progress
    # What packing changed within its tolerance is known, and is not asked again.
    held_out = [row for row in read_held_out(scores, place.store) if row.question not in set(differing)]
    chosen = spread([row for row in held_out if row.in_scope], config.questions, seed=SEED)
    chosen += spread([row for row in held_out if not row.in_scope], 1, seed=SEED)
    caller = Caller.of(endpoint, target=target, patience=cold_seconds, progress=progress)

    answers = []
    cold_start = 0.0
    for number, row in enumerate(chosen):
        started = time.monotonic()
        answer = caller.ask(row.question)
        seconds = time.monotonic() - started
        cold_start = cold_start or seconds
        answers.append(
            SmokeAnswer(
                question=row.question,
                expected=row.answer,
                evaluated=row.prediction,
                answered=answer.text,
                withheld=answer.withheld,
                seconds=seconds,
            )
        )
        progress((number + 1) / len(chosen), f"{number + 1}/{len(chosen)} questions")
    agreed = sum(_agrees(answer) for answer in answers)
    smoke = SmokeRef(asked=len(answers), agreed=agreed, answers=tuple(answers), cold_start_seconds=cold_start)
    _check_agreement(config, endpoint, smoke)
    return smoke


def smoke_api(api: ApiRef, smoke: SmokeRef, *, mlkey: str, target: Target) -> None:
    """Ask the API the first question that the endpoint was asked, and compare the answer.

    Raises
    ------
    DeployError
        If the API cannot be reached, refuses, or answers otherwise than the endpoint did.
    """
    import httpx

    asked = smoke.answers[0]
    query = {"MLKey": mlkey, "question": asked.question}
    give_up = time.monotonic() + COLD_SECONDS
    while True:
        try:
            answer = call_api(api, query=query, target=target)
        except httpx.HTTPError as error:
            raise DeployError(f"the API {api.url} cannot be reached: {error!r}; try again", retryable=True) from error
        if answer.status_code not in (429, 503) or time.monotonic() > give_up:
            break
        time.sleep(RETRY_SECONDS)
    if answer.status_code != 200:
        raise DeployError(
            f"the API {api.url} answered {answer.status_code} to {asked.question!r}: {answer.text[:300]}",
            retryable=answer.status_code >= 500,
        )
    try:
        answered = answer.json()["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(f"the API {api.url} gave no JSON object with an answer: {answer.text[:300]}") from error
    if not isinstance(answered, str) or not same_answer(answered, asked.answered):
        raise DeployError(
            f"the API {api.url} answered {answered!r} to {asked.question!r}, and the endpoint {asked.answered!r}; "
            f"look which endpoint the registry holds for {mlkey}"
        )


def _agrees(answer: SmokeAnswer) -> bool:
    return same_answer(answer.evaluated, answer.answered if answer.withheld is None else answer.withheld)


def _check_agreement(config: SmokeConfig, endpoint: EndpointRef, smoke: SmokeRef) -> None:
    if smoke.agreed >= config.min_agreement * smoke.asked:
        return
    different = [answer for answer in smoke.answers if not _agrees(answer)]
    shown = "; ".join(
        f"{answer.question!r} gave {answer.answered!r}, in the evaluation {answer.evaluated!r}"
        for answer in different[:SHOWN]
    )
    raise DeployError(
        f"the endpoint {endpoint.name} gave the evaluation's answer to {smoke.agreed} of {smoke.asked} questions, and "
        f"smoke.min_agreement asks for {config.min_agreement:.0%}: {shown}"
    )
