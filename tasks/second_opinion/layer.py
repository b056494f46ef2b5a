"""The linear layer over the known answers, and the texts that stand for each: ``second_opinion.safetensors``.

Logistic regression on the embeddings of the training questions, with one class more for "none of these", learnt from
the data's own out-of-scope questions and from half of the everyday ones. Where a fact has few wordings, the answer's
own sentences stand beside its questions.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inference.second_opinion import LAYER, spread_out
from tasks.qa.rows import Row

#: Inverse strength of the penalty on the weights.
PENALTY_C = 10.0
#: How far the whitening goes: the variance that is added in every direction, in units of the mean one.
SHRINKAGE = 3.0
#: With more answers than this a classifier over all of them takes minutes and gigabytes; see :func:`_by_means`.
MAX_CLASSES = 2000
#: What one step of cosine is worth in the logits where the classes' means stand in for a fitted layer.
MEANS_SCALE = 20.0
#: So many texts are kept to find the nearest one in, those of every answer in turn: 30 MB in the container.
MAX_TEXTS = 20_000
#: An answer's sentences stand beside its questions where there are at most so many of them: for the nearest text, and
#: for the linear layer, which learns more from questions than from statements.
FEW_FOR_NEAREST, FEW_FOR_LAYER = 5, 2
#: A sentence of fewer words says too little to be likened to a question ("7 November 1867").
SENTENCE_WORDS = 4
MAX_SENTENCES = 12
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+|\n+|(?<=[。！？])")

Embed = Callable[[Sequence[str]], Any]
"""From texts to embeddings (texts, width), each of length 1."""


class Text(NamedTuple):
    """A text that stands for a known answer."""

    text: str
    answer: int
    is_question: bool


class Layer(NamedTuple):
    """What is fitted; the arrays of :data:`LAYER`."""

    answer_ids: list[str]
    weights: Any
    """(classes, width): a row an answer, and the last one none of them."""
    bias: Any
    """(classes,)"""
    texts: list[Text]
    embeddings: Any
    """(texts, width), spread out."""
    mean: Any
    """(width,); see :func:`inference.second_opinion.spread_out`."""
    turn: Any
    """(width, width)"""


def sentences(answer: str) -> list[str]:
    """Return the answer's sentences that say enough to be likened to a question."""
    found = (part.strip() for part in _SENTENCE_END.split(answer))
    long = [part for part in found if len(part.split()) >= SENTENCE_WORDS or (len(part) >= 8 and not part.isascii())]
    return long[:MAX_SENTENCES]


def texts_for(train: Sequence[Row], answers: Sequence[str], few: int) -> list[Text]:
    """Return the training questions by their answers, and the sentences of answers with at most ``few`` questions."""
    place = {answer: index for index, answer in enumerate(answers)}
    questions = dict.fromkeys((row.question, place[row.answer]) for row in train if row.in_scope)
    count = Counter(answer for _, answer in questions)
    found = [Text(question, answer, True) for question, answer in questions]
    for answer, text in enumerate(answers):
        if 0 < count[answer] <= few:
            found += [Text(sentence, answer, False) for sentence in sentences(text)]
    return found


def _with_answers(learnt: Sequence[Text], answers: Sequence[str]) -> list[Text]:
    """Return the questions of answers with at most :data:`FEW_FOR_LAYER` of them, each with its answer after it.

    What the answer says often tells a question in other words from another fact's.
    """
    count = Counter(text.answer for text in learnt if text.is_question)
    few = (text for text in learnt if text.is_question and count[text.answer] <= FEW_FOR_LAYER)
    return [Text(f"{text.text} {answers[text.answer]}", text.answer, False) for text in few]


def fit_layer(
    train: Sequence[Row], answer_ids: Sequence[str], answers: Sequence[str], none: Sequence[str], embed: Embed
) -> Layer:
    """Fit the layer on the training questions.

    Parameters
    ----------
    train
        Training rows; those in scope are of the known answers.
    answer_ids, answers
        The known answers, in one order.
    none
        Questions that none of them answers, beside the training rows that are out of scope.
    """
    nearest = _spread(texts_for(train, answers, FEW_FOR_NEAREST), MAX_TEXTS)
    learnt = texts_for(train, answers, FEW_FOR_LAYER)
    learnt += _with_answers(learnt, answers)
    outside = list(dict.fromkeys([*(row.question for row in train if not row.in_scope), *none]))
    unique = list(dict.fromkeys([*(text.text for text in nearest + learnt), *outside]))
    plain = embed(unique)
    mean, turn = _spreading(plain)
    rows = dict(zip(unique, spread_out(plain, mean, turn), strict=True))
    inputs = np.stack([rows[text] for text in [*(text.text for text in learnt), *outside]])
    classes = np.array([text.answer for text in learnt] + [len(answers)] * len(outside))
    fit = _logistic if len(answers) <= MAX_CLASSES else _by_means
    weights, bias = fit(inputs, classes, len(answers) + 1)
    embeddings = np.stack([rows[text.text] for text in nearest])
    return Layer(list(answer_ids), weights, bias, nearest, embeddings, mean, turn)


def _spreading(embeddings: Any) -> tuple[Any, Any]:
    """Return the mean (width,) and the matrix (width, width) that take out what all texts of the data share.

    In a file about one subject every text names it, and the embeddings differ by little else. Their covariance, with
    :data:`SHRINKAGE` of its mean variance added, is whitened (zero-phase, Kessy, Lewin and Strimmer 2018): what only a
    few texts say counts for more.
    """
    mean = embeddings.mean(axis=0)
    width = embeddings.shape[1]
    covariance = np.atleast_2d(np.cov(embeddings.T.astype(np.float64))) if len(embeddings) > 1 else np.eye(width)
    variance = max(float(np.trace(covariance)) / width, 1e-9)
    values, vectors = np.linalg.eigh(covariance / variance + SHRINKAGE * np.eye(width))
    turn = (vectors / np.sqrt(values)) @ vectors.T
    # As they are kept, so that the layer is fitted on what the container computes.
    return mean.astype(np.float32), turn.astype(np.float16).astype(np.float32)


def _logistic(inputs: Any, classes: Any, count: int) -> tuple[Any, Any]:
    """Return weights (count, width) and bias (count,) of a multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((count, inputs.shape[1])), np.full(count, -30.0)
    there = np.unique(classes)
    if len(there) == 1:
        bias[there] = 0.0
        return weights, bias
    model = LogisticRegression(C=PENALTY_C, max_iter=1000, tol=1e-6).fit(inputs, classes)
    if len(there) == 2:  # one row for two classes
        half = model.coef_[0] / 2, model.intercept_[0] / 2
        weights[there], bias[there] = np.stack([-half[0], half[0]]), np.array([-half[1], half[1]])
    else:
        weights[there], bias[there] = model.coef_, model.intercept_
    return weights, bias


def _by_means(inputs: Any, classes: Any, count: int) -> tuple[Any, Any]:
    """Return the classes' mean directions, scaled: what many classes of few questions each allow in seconds."""
    weights, bias = np.zeros((count, inputs.shape[1])), np.full(count, -30.0)
    np.add.at(weights, classes, inputs)
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    bias[length[:, 0] > 0] = 0.0
    return MEANS_SCALE * weights / np.maximum(length, 1e-9), bias


def _spread(texts: list[Text], most: int) -> list[Text]:
    """Return at most so many texts, of every answer as many as of the others where that can be."""
    if len(texts) <= most:
        return texts
    seen: Counter[int] = Counter()
    turns = []
    for number, text in enumerate(texts):
        turns.append((seen[text.answer], number))
        seen[text.answer] += 1
    return [texts[number] for _, number in sorted(sorted(turns)[:most], key=lambda turn: turn[1])]


def write_layer(layer: Layer, folder: Path, *, prefix: str, max_tokens: int) -> None:
    """Write ``second_opinion.safetensors``; the same layer gives the same bytes.

    Embeddings are kept in bytes with a scale each, weights in half precision: a logit moves by a hundredth.
    """
    from safetensors.numpy import save_file

    largest = np.maximum(np.abs(layer.embeddings).max(axis=1, keepdims=True), 1e-12)
    scales = (largest / 127).astype(np.float32)
    questions = [text.text for text in layer.texts if text.is_question]
    numbers, asked = [], 0
    for text in layer.texts:
        numbers.append(asked if text.is_question else -1)
        asked += text.is_question
    arrays = {
        "weights": layer.weights.astype(np.float16),
        "bias": layer.bias.astype(np.float32),
        "embeddings": np.rint(layer.embeddings / scales).astype(np.int8),
        "scales": scales,
        "mean": layer.mean.astype(np.float32),
        "turn": layer.turn.astype(np.float16),
        "text_answer": np.array([text.answer for text in layer.texts], np.int32),
        "text_question": np.array(numbers, np.int32),
    }
    about = {
        "answer_ids": layer.answer_ids,
        "questions": questions,
        "prefix": prefix,
        "max_tokens": max_tokens,
    }
    # One text: the library writes several in an order of chance.
    save_file(arrays, folder / LAYER, metadata={"about": json.dumps(about, ensure_ascii=False)})
