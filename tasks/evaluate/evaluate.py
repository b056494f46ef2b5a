"""The step evaluate: how well a model answers, beside what it must beat.

``evaluate_model`` writes a ``scores`` artifact: ``scores.json`` and ``predictions.jsonl``, a line per question.
"""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from askline.config import EvaluationConfig
from askline.errors import DatasetError
from askline.progress import Progress, part, quiet
from askline.records import DatasetRef, ModelRef, Scores, SplitScores
from tasks.qa.answers import KEPT, Known, Trie, answer_id, known_of
from tasks.qa.predictions import write_predictions
from tasks.qa.rows import Row, read_rows
from tasks.qa.same_answer import exact_match, normalise, token_f1
from tasks.t5.decoding import Answered, Precision, answer_known, answer_with_confidence
from tasks.t5.threads import SMALL_PARAMETERS
from tasks.workplace import Workplace

#: More training questions than this are sampled: they show what was learnt, the held-out ones what matters.
TRAIN_SAMPLE = 2000
SAMPLE_SEED = 13
#: Decimals of a confidence in the predictions: rounding in fp32, which differs between machines and batches, stays out.
CONFIDENCE_DECIMALS = 4

#: What the scores depend on, beside the options, the model and the dataset.
ROOMS = ("evaluate", "fine_tune", "t5", "qa", "inference.trie")
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
    held_out = read_rows(data, "test") if "test" in dataset.splits else []
    test = [row for row in held_out if row.in_scope]
    if not test:
        raise DatasetError(
            "the dataset has no in-scope test question, so nothing says how good the model is. Give it a test split, "
            "or a larger --dataset.test-fraction"
        )
    outside = [row for row in held_out if not row.in_scope]
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
    rivals, skipped = _baselines(ask, train, questions, part(progress, 0.5, 0.95))

    progress(0.95, "scoring")
    from tasks.evaluate.scoring import score

    def scores_of(predictions: Sequence[str], rows: Sequence[Row]) -> SplitScores:
        return score(predictions, [row.answer for row in rows])

    unanswerable = normalise(dataset.unanswerable)
    facts: dict[str, Any] = {
        "model_sha256": model.sha256,
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
        _line(split, row, answer, known) | ({"baselines": baselines[split][number]} if split in baselines else {})
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
