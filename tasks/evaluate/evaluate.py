"""The step evaluate: how well a model answers, beside what it must beat.

``evaluate_model`` writes a ``scores`` artifact: ``scores.json`` and ``predictions.jsonl``, a line per question.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from askline.config import EvaluationConfig
from askline.errors import DatasetError
from askline.progress import Progress, part, quiet
from askline.records import DatasetRef, ModelRef, Scores, SecondOpinionRef, SplitScores
from inference.judgement import Verdict
from inference.trie import DECLINING
from tasks.evaluate.judging import FEW_OUTSIDE, Asked
from tasks.evaluate.together import (
    AS_WRITTEN,
    KINDS,
    Together,
    by_kind,
    held_out,
    judge_together,
    without,
    wordings_of,
)
from tasks.qa.answers import KEPT, Known, Trie, answer_id, known_of
from tasks.qa.predictions import write_predictions
from tasks.qa.rows import Row, read_rows
from tasks.qa.same_answer import exact_match, normalise, strict_match, token_f1
from tasks.second_opinion.everyday import everyday
from tasks.second_opinion.second_opinion import open_second_opinion
from tasks.t5.decoding import Answered, Precision, answer_known, answer_with_confidence
from tasks.t5.threads import SMALL_PARAMETERS
from tasks.workplace import Workplace

#: More training questions than this are sampled: they show what was learnt, the held-out ones what matters.
TRAIN_SAMPLE = 2000
SAMPLE_SEED = 13
#: Decimals of a confidence in the predictions: rounding in fp32, which differs between machines and batches, stays out.
CONFIDENCE_DECIMALS = 4

#: What the scores depend on, beside the options, the model and the dataset.
ROOMS = ("evaluate", "second_opinion", "fine_tune", "package.onnx_graph", "graphs", "t5", "qa", "inference")
LIBRARIES = ("torch", "transformers", "tokenizers", "evaluate", "scikit-learn")

#: Whose answers: the fine-tuned model's, or those of its base as it was before.
Which = Literal["tuned", "untuned base"]


#: Whether the model chooses among the known answers or writes freely.
Answers = Literal["known", "free"]


class Ask(Protocol):
    """Who answers: this process (:func:`load` and :func:`answer`), or others that it hands the questions to."""

    def __call__(
        self, which: Which, questions: Sequence[str], progress: Progress, trie: Trie | None = None
    ) -> list[Answered]:
        """Return the answers in the order of the questions; with a trie, without text and with their posteriors."""


def evaluate_model(
    config: EvaluationConfig,
    model: ModelRef,
    dataset: DatasetRef,
    *,
    place: Workplace,
    ask: Ask | None = None,
    answers: Answers = "free",
    second: SecondOpinionRef | None = None,
) -> Scores:
    """Ask the model all held-out questions and (a sample of) the training questions, and score its answers.

    The untuned base, the nearest training question and logistic regression answer the same held-out questions.
    Answers are those of fp32, as the package serves them.

    Parameters
    ----------
    place
        The one of ``fine_tune``: its ``work`` holds downloaded bases.
    ask
        Who answers the questions; the default is this process.
    answers
        Whether the tuned model chooses among the dataset's known answers or writes freely; its rivals are as they are.
    second
        The encoder that judges beside a model that chooses among known answers. What is scored is then the verdict of
        both, each question's by a fit on other facts; either alone stands among the baselines.

    Raises
    ------
    DatasetError
        If the dataset has no in-scope held-out questions.
    ArtifactError
        If model or dataset is missing or damaged.
    TrainingError, HubError
        If the untuned base is gone.
    """
    started = time.monotonic()
    store, progress = place.store, place.progress
    data = store.verify("dataset", dataset.sha256)
    folder = store.verify("model", model.sha256)
    train = read_rows(data, "train")
    every_held_out = read_rows(data, "test") if "test" in dataset.splits else []
    test = [row for row in every_held_out if row.in_scope]
    if not test:
        raise DatasetError(
            "the dataset has no in-scope test question, so nothing says how good the model is. Give it a test split, "
            "or a larger --dataset.test-fraction"
        )
    outside = [row for row in every_held_out if not row.in_scope]
    asked = train if len(train) <= TRAIN_SAMPLE else random.Random(SAMPLE_SEED).sample(train, TRAIN_SAMPLE)  # noqa: S311
    splits = {"train": asked, "test": test, "out_of_scope": outside}

    known = None
    if answers == "known":
        every = [row for split in dataset.splits for row in read_rows(data, split)]
        known = known_of(
            every,
            train,
            folder / "tokenizer.json",
            max_target_tokens=model.max_target_tokens,
            declining=dataset.unanswerable,
        )

    def ask_here(
        which: Which, questions: Sequence[str], progress: Progress, trie: Trie | None = None
    ) -> list[Answered]:
        loaded = load(which, folder, model, place=place)
        options: dict[str, Any] = {"batch_size": config.batch_size, "trie": trie, "progress": progress}
        return answer(loaded, model, questions, precision=precision_for(config, model.parameters), **options)

    ask = ask or ask_here
    progress(0.0, "loading the model")
    given = ask(
        "tuned",
        [row.question for rows in splits.values() for row in rows],
        part(progress, 0.0, 0.5),
        None if known is None else known.trie,
    )
    tuned = given if known is None else [each._replace(text=known.text(_best(each))) for each in given]
    answered = dict(zip(splits, _cut(tuned, [len(rows) for rows in splits.values()]), strict=True))
    said = {split: [answer.text for answer in given] for split, given in answered.items()}

    questions = [row.question for row in test + outside]
    rivals, skipped = _baselines(ask, train, questions, part(progress, 0.5, 0.9))
    together = None
    if known is not None and second is not None and second.sha256 is not None:
        progress(0.9, "the second opinion")
        together, alone = _second_opinion(config, second, known, test, outside, answered, train, ask, place)
        rivals |= alone
        said["test"] = [known.text(_index(verdict)) for verdict in together.fitted_elsewhere[: len(test)]]
        said["out_of_scope"] = [known.text(_index(verdict)) for verdict in together.fitted_elsewhere[len(test) :]]

    progress(0.95, "scoring")
    from tasks.evaluate.scoring import score

    def scores_of(predictions: Sequence[str], rows: Sequence[Row]) -> SplitScores:
        return score(predictions, [row.answer for row in rows])

    unanswerable = normalise(dataset.unanswerable)
    metric = config.metric if config.metric != "auto" else "strict" if answers == "known" else "squad"
    rows_of = {"train": asked, "test": test, "out_of_scope": outside}
    right = {
        split: [is_right(text, row.answer, metric) for text, row in zip(said[split], rows, strict=True)]
        for split, rows in rows_of.items()
    }
    kinds = by_kind([row for row in asked if row.in_scope], _in_scope(asked, right["train"]), lambda row: AS_WRITTEN)
    kinds |= by_kind(test + outside, right["test"] + right["out_of_scope"], lambda row: KINDS[row.kind])
    facts: dict[str, Any] = {
        "model_sha256": model.sha256,
        "metric": metric,
        "kinds": kinds,
        "second_opinion": second if together is not None else None,
        "judgement": together.parameters if together is not None else None,
        "answers": answers,
        "train": scores_of(said["train"], asked),
        "test": scores_of(said["test"], test),
        "out_of_scope": scores_of(said["out_of_scope"], outside) if outside else None,
        "false_abstention": sum(normalise(answer) == unanswerable for answer in said["test"]) / len(test),
        "baselines": {name: scores_of(given[: len(test)], test) for name, given in rivals.items()},
        "out_of_scope_baselines": {
            name: scores_of(given[len(test) :], outside) for name, given in rivals.items() if outside
        },
    }
    by_question = [{name: given[number] for name, given in rivals.items()} for number in range(len(questions))]
    baselines = {"test": by_question[: len(test)], "out_of_scope": by_question[len(test) :]}
    lines = [
        _line(split, row, answer, known)
        | ({"baselines": baselines[split][number]} if split in baselines else {})
        | _judged_line(split, number, row, together, known, len(test))
        for split, rows in splits.items()
        for number, (row, answer) in enumerate(zip(rows, answered[split], strict=True))
    ]
    with store.new("scores") as draft:
        write_predictions(lines, draft.folder)
        if known is not None:
            known.write(draft.folder)
        summary = json.loads(Scores(sha256="", seconds=0, **facts).model_dump_json(exclude={"sha256", "seconds"}))
        summary["skipped"] = skipped
        text = json.dumps(summary, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (draft.folder / "scores.json").write_text(text, encoding="utf-8")
        sha256 = draft.commit()
    return Scores(sha256=sha256, seconds=time.monotonic() - started, **facts)


def _second_opinion(
    config: EvaluationConfig,
    second: SecondOpinionRef,
    known: Known,
    test: Sequence[Row],
    outside: Sequence[Row],
    answered: Mapping[str, Sequence[Answered]],
    train: Sequence[Row],
    ask: Ask,
    place: Workplace,
) -> tuple[Together, dict[str, list[str]]]:
    """Return the judgement of both opinions on the held-out questions, and what either alone says to them."""
    encoder = open_second_opinion(second, [each.id for each in known.answers], place)
    rows = [*test, *outside]
    given = [*answered["test"], *answered["out_of_scope"]]
    opinions = encoder.opinion([row.question for row in rows])
    texts = [each.text for each in known.answers]
    asked = held_out(rows, texts, [each.posterior for each in given], opinions)
    pool: list[Asked] = []
    if len(outside) < FEW_OUTSIDE:
        questions = everyday(row.question for row in [*train, *test] if row.in_scope).asking
        posteriors = [each.posterior for each in ask("tuned", questions, quiet, known.trie)]
        pool = [
            Asked(question, None, "everyday", posterior, opinion, question)
            for question, posterior, opinion in zip(questions, posteriors, encoder.opinion(questions), strict=True)
        ]
    fit: dict[str, Any] = {
        "max_false_abstention": config.max_false_abstention,
        "wordings": wordings_of(train),
    }
    together = judge_together(asked, pool, **fit)
    alone = {}
    for name, left_out in (("model alone", "opinion"), ("encoder alone", "posterior")):
        own, own_pool = without(asked, left_out), without(pool, left_out)
        judged = judge_together(own, own_pool, **fit)
        alone[name] = [known.text(_index(verdict)) for verdict in judged.fitted_elsewhere]
    alone["encoder's nearest question"] = [known.text(each.nearest_answer) for each in opinions]
    return together, alone


def _index(verdict: Verdict) -> int:
    """Return the trie's number for what a verdict says."""
    return DECLINING if verdict.answer is None else verdict.answer


def _in_scope(rows: Sequence[Row], values: Sequence[bool]) -> list[bool]:
    return [value for row, value in zip(rows, values, strict=True) if row.in_scope]


def is_right(prediction: str, answer: str, metric: str) -> bool:
    """Say whether a prediction is right by "strict" or "squad"."""
    return (strict_match if metric == "strict" else exact_match)(prediction, answer) == 1


def _judged_line(
    split: str, number: int, row: Row, together: Together | None, known: Known | None, tests: int
) -> dict[str, Any]:
    """Return what a line says of a held-out question that was judged by both: what the package says to it."""
    if together is None or known is None or split == "train":
        return {}
    place = number if split == "test" else tests + number
    verdict, elsewhere = together.served[place], together.fitted_elsewhere[place]
    text = known.text(_index(verdict))
    return {
        "prediction": text,
        "answer_id": known.id(_index(verdict)),
        "confidence": verdict.confidence,
        "scope": verdict.scope,
        "exact_match": exact_match(text, row.answer),
        "strict_match": strict_match(text, row.answer),
        "token_f1": token_f1(text, row.answer),
        "cross_fitted": known.text(_index(elsewhere)),
        "kind": row.kind,
    }


def _best(answer: Answered) -> int:
    assert answer.posterior is not None, "a model that chooses among known answers gives its posterior"
    return int(answer.posterior.indices[0])


def _line(split: str, row: Row, answer: Answered, known: Known | None) -> dict[str, Any]:
    ids = {}
    if known is not None:
        ids = {"answer_id": known.id(_best(answer)), "expected_id": answer_id(row.answer) if row.in_scope else None}
    return ids | {
        "split": split,
        "question": row.question,
        "answer": row.answer,
        "prediction": answer.text,
        "confidence": round(answer.confidence, CONFIDENCE_DECIMALS),
        "exact_match": exact_match(answer.text, row.answer),
        "strict_match": strict_match(answer.text, row.answer),
        "token_f1": token_f1(answer.text, row.answer),
        "in_scope": row.in_scope,
    }


def load(which: Which, folder: Path, model: ModelRef, *, place: Workplace) -> tuple[Any, Any]:
    """Return the network, in fp32 and on the GPU where there is one, and its tokenizer.

    Parameters
    ----------
    folder
        The model's artifact, verified.

    Raises
    ------
    TrainingError, HubError
        If the untuned base is gone.
    """
    import torch

    if which == "untuned base":
        from tasks.t5.base import untuned_base

        network, tokenizer = untuned_base(folder, model, place=place)
    else:
        from transformers import T5ForConditionalGeneration

        network = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tokenizer = load_tokenizer(folder)
    return network.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def precision_for(config: EvaluationConfig, parameters: int) -> Precision:
    """Return the arithmetic in which this machine answers with a model of so many parameters."""
    if config.precision != "auto":
        return config.precision
    from tasks.fine_tune.machine import choose_precision

    large = parameters >= SMALL_PARAMETERS
    return "bf16" if large and choose_precision("auto")[0] == "bf16" else "fp32"


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model's artifact, which is also its base's."""
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(folder)


def answer(
    loaded: tuple[Any, Any],
    model: ModelRef,
    questions: Sequence[str],
    *,
    batch_size: int,
    precision: Precision = "fp32",
    trie: Trie | None = None,
    progress: Progress = quiet,
) -> list[Answered]:
    """Return the answers of what :func:`load` gave, in the order of the questions.

    Parameters
    ----------
    trie
        Of the known answers that the model is to choose from; an answer then has a posterior, and no text.
    """
    network, tokenizer = loaded
    options: dict[str, Any] = {
        "prompt": model.prompt,
        "max_source_tokens": model.max_source_tokens,
        "batch_size": batch_size,
        "precision": precision,
        "progress": progress,
    }
    if trie is not None:
        found = answer_known(network, tokenizer, questions, trie, k=KEPT, **options)
        return [Answered("", each.token_probability, each) for each in found]
    return answer_with_confidence(network, tokenizer, questions, max_target_tokens=model.max_target_tokens, **options)


def _baselines(
    ask: Ask, train: Sequence[Row], questions: Sequence[str], progress: Progress
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the answers of every baseline, by its name, and why one was left out."""
    from tasks.evaluate.baselines import logistic_regression, nearest_question, why_no_classifier

    untuned = ask("untuned base", questions, part(progress, 0.0, 0.6))
    found = {"untuned base": [answer.text for answer in untuned]}
    progress(0.6, "nearest question")
    found["nearest question"] = nearest_question(train, questions)
    reason = why_no_classifier(train)
    if reason is not None:
        return found, [reason]
    progress(0.7, "logistic regression")
    found["logistic regression"] = logistic_regression(train, questions)
    return found, []


def _cut(values: Sequence[Answered], lengths: Sequence[int]) -> list[list[Answered]]:
    parts, start = [], 0
    for length in lengths:
        parts.append(list(values[start : start + length]))
        start += length
    return parts
