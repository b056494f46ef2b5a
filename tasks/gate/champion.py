"""The deployed model, the champion, beside a new one, the challenger, on the same held-out questions.

The challenger's answers are the evaluation's. The champion's are asked of its endpoint, so that what is compared with
is what callers get now, whatever made it and wherever. An asynchronous endpoint would write each answer to S3 for its
callers to find; there the package that it serves is asked, on this machine.

::

    comparison = challenge(config, "biography", model, scores, dataset, place=place)
    comparison.verdict, comparison.reason
"""

import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from askline.clients import aws_client
from askline.config import EvaluationConfig
from askline.errors import ArtifactError, CloudError, PackageError
from askline.records import ChampionRef, Comparison, DatasetRef, ModelRef, Paired, Scores, Target
from askline.store import ArtifactStore
from tasks.ask.answer import Answer
from tasks.ask.endpoint import COLD_SECONDS, Caller
from tasks.ask.package import PackagedEngine
from tasks.aws.errors import explained, is_missing
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.served_package import find_deployed, unpacked
from tasks.gate.paired import Pair, compare
from tasks.gate.verdict import verdict
from tasks.qa.held_out import HeldOut, read_held_out, spread
from tasks.qa.rows import read_rows
from tasks.qa.same_answer import normalise, token_f1
from tasks.workplace import Workplace

ANSWERS = "answers.jsonl"
SEED = 17
#: States of an endpoint in which nothing answers any more.
_DEAD = frozenset({"Failed", "OutOfService", "Deleting"})

_log = logging.getLogger("askline.champion")


class _Answered(NamedTuple):
    row: HeldOut
    champion: Answer
    fact: str


def challenge(
    config: EvaluationConfig,
    mlkey: str,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    *,
    place: Workplace,
    cold_seconds: float = COLD_SECONDS,
) -> Comparison | None:
    """Compare a model with what answers for ``mlkey`` now; None where nothing does, or ``config.champion`` is "off".

    A champion that is the same model is not asked. One that refuses to answer gives the verdict "unproven".

    Parameters
    ----------
    place
        The package of an asynchronous champion is unpacked in its ``work``.

    Raises
    ------
    CloudError
        If the registry or the endpoint cannot be reached (then ``retryable``), or the registry's entry is damaged.
    ArtifactError
        If the dataset or the evaluation's predictions are missing or damaged.
    """
    target, store, progress = place.target, place.store, place.progress
    champion = None if config.champion == "off" else find_champion(mlkey, target=target)
    if champion is None:
        return None
    if model.sha256.startswith(champion.model_version):
        return Comparison(
            champion=champion,
            verdict="same model",
            reason=f"the model {champion.model_version} is the one that {champion.endpoint} serves already",
        )
    rows, left_out, notes = _questions(config, champion, scores, store)
    if not rows:
        return Comparison(
            champion=champion,
            verdict="unproven",
            reason=f"the champion {champion.model_version} was trained on all {left_out} held-out questions, so none "
            "is left to compare on. Bring a test split that stays held out",
            left_out=left_out,
        )
    try:
        questions = [row.question for row in rows]
        if champion.answers_later:
            folder = unpacked(find_deployed(mlkey, target), place=place)
            with PackagedEngine(folder) as engine:
                given = engine.ask(questions, progress=progress)
        else:
            caller = Caller(
                champion.endpoint,
                target=target,
                target_model=champion.target_model,
                patience=cold_seconds,
                progress=progress,
            )
            given = caller.ask_all(questions)
    except (CloudError, PackageError, ArtifactError) as error:
        if error.retryable:
            raise
        return Comparison(
            champion=champion,
            verdict="unproven",
            reason=f"the champion {champion.model_version} could not be compared with: {error}",
            left_out=left_out,
        )
    if {answer.model_version for answer in given} == {model.sha256[:12]}:
        # A run that ended between deploying and promoting left it so; to go on is what mends it.
        return Comparison(
            champion=champion,
            verdict="same model",
            reason=f"{champion.endpoint} serves this model already, though the registry still says "
            f"{champion.model_version}",
        )
    facts = _facts(dataset, store)
    answered = [
        _Answered(row, answer, facts.get(row.question, f"question {number}"))
        for number, (row, answer) in enumerate(zip(rows, given, strict=True))
    ]
    return _judged(config, champion, answered, left_out, (*notes, *_notes_on(champion, given)), store)


def standing(config: EvaluationConfig, mlkey: str, *, target: Target) -> int | None:
    """Return the number of the newest promotion of ``mlkey``: 0 where there is none, None where champions are "off".

    Raises
    ------
    CloudError
        If Parameter Store refuses, or the entry is not one of ours.
    """
    if config.champion == "off":
        return None
    entry = registry.resolve(mlkey, target)
    return 0 if entry is None else entry.version


def find_champion(mlkey: str, *, target: Target) -> ChampionRef | None:
    """Return what answers for ``mlkey`` now; None if it is not registered, or its endpoint is gone or has failed.

    Raises
    ------
    CloudError
        If Parameter Store or SageMaker refuses, or the entry is not one of ours.
    """
    from botocore.exceptions import ClientError

    entry = registry.resolve(mlkey, target)
    if entry is None:
        return None
    described: Any
    with explained(f"look up the endpoint {entry.endpoint} (sagemaker:DescribeEndpoint)"):
        try:
            described = aws_client(target, "sagemaker").describe_endpoint(EndpointName=entry.endpoint)
            status = described["EndpointStatus"]
        except ClientError as error:
            if not is_missing(error):
                raise
            described, status = {}, "gone"
    if status == "gone" or status in _DEAD:
        _log.warning("%s is registered for %s, but is %s: there is no champion", entry.endpoint, mlkey, status)
        return None
    return ChampionRef(
        mlkey=mlkey,
        endpoint=entry.endpoint,
        target_model=entry.target_model,
        answers_later="AsyncInferenceConfig" in described,
        model_version=entry.model_version,
        archive_sha256=entry.archive_sha256,
        dataset=entry.dataset,
        dataset_sha256=entry.dataset_sha256,
        promoted_at=entry.promoted_at,
        run_id=entry.run_id,
    )


def _questions(
    config: EvaluationConfig, champion: ChampionRef, scores: Scores, store: ArtifactStore
) -> tuple[list[HeldOut], int, tuple[str, ...]]:
    """Return the questions that are held out for both, how many were left out, and what is to be said of it."""
    rows = read_held_out(scores, store)
    known = champion.dataset_sha256
    if known is None or not store.holds("dataset", known):
        notes = [
            "what the champion was trained on is not known here: it may have seen some of these questions, which can "
            "only make it look better"
        ]
        kept = rows
    else:
        seen = {normalise(row.question) for row in read_rows(store.verify("dataset", known), "train")}
        kept = [row for row in rows if normalise(row.question) not in seen]
        left_out = len(rows) - len(kept)
        notes = [f"{left_out} held-out questions were left out: the champion was trained on them"] if left_out else []
    chosen = spread(kept, config.champion_questions, seed=SEED)
    if len(chosen) < len(kept):
        notes.append(f"{len(chosen):,} of {len(kept):,} questions were asked (--evaluation.champion-questions)")
    return chosen, len(rows) - len(kept), tuple(notes)


def _facts(dataset: DatasetRef, store: ArtifactStore) -> dict[str, str]:
    """Return the fact that an in-scope held-out question asks for, where the dataset has groups."""
    rows = read_rows(store.verify("dataset", dataset.sha256), "test")
    return {row.question: f"group {row.group}" for row in rows if row.in_scope and row.group is not None}


def _notes_on(champion: ChampionRef, given: Sequence[Answer]) -> list[str]:
    notes = []
    withheld = sum(answer.withheld is not None for answer in given)
    if withheld:
        notes.append(
            f"{withheld} answers that the champion withholds for want of confidence count as what it would have said: "
            "the models are compared, not the thresholds"
        )
    versions = {answer.model_version for answer in given} - {None}
    if not versions:
        notes.append("the champion gives bare answers, so an answer withheld for want of confidence counts as given")
    elif versions != {champion.model_version}:
        found = ", ".join(sorted(map(str, versions)))
        notes.append(f"the endpoint answers as {found}, and the registry says {champion.model_version}")
    return notes


def _judged(
    config: EvaluationConfig,
    champion: ChampionRef,
    answered: Sequence[_Answered],
    left_out: int,
    notes: tuple[str, ...],
    store: ArtifactStore,
) -> Comparison:
    def paired(*, in_scope: bool | None) -> Paired | None:
        chosen = [each for each in answered if in_scope is None or each.row.in_scope == in_scope]
        return compare([_pair(each) for each in chosen], alpha=config.alpha)

    overall, inside, outside = paired(in_scope=None), paired(in_scope=True), paired(in_scope=False)
    said, reason = verdict(config, overall, inside, outside)
    asked = [each for each in answered if each.row.in_scope]

    def mean_f1(texts: Sequence[str]) -> float | None:
        pairs = zip(texts, asked, strict=True)
        return sum(token_f1(text, each.row.answer) for text, each in pairs) / len(asked) if asked else None

    return Comparison(
        champion=champion,
        verdict=said,
        reason=reason,
        overall=overall,
        in_scope=inside,
        out_of_scope=outside,
        champion_token_f1=mean_f1([each.champion.own for each in asked]),
        challenger_token_f1=mean_f1([each.row.prediction for each in asked]),
        left_out=left_out,
        sha256=_keep(answered, store),
        notes=notes,
    )


def _pair(each: _Answered) -> Pair:
    return Pair(champion=each.row.is_right(each.champion.own), challenger=each.row.right, fact=each.fact)


def _keep(answered: Sequence[_Answered], store: ArtifactStore) -> str:
    with store.new("comparison") as draft:
        with (draft.folder / ANSWERS).open("w", encoding="utf-8") as stream:
            for each in answered:
                pair = _pair(each)
                line = {
                    "question": each.row.question,
                    "answer": each.row.answer,
                    "in_scope": each.row.in_scope,
                    "champion": each.champion.own,
                    "challenger": each.row.prediction,
                    "champion_right": pair.champion,
                    "challenger_right": pair.challenger,
                }
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        return draft.commit()
