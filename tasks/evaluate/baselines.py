"""What a model must beat: answers found by the likeness of questions, without any language model."""

from collections.abc import Sequence
from typing import Any

from tasks.qa.rows import Row

#: With more answers than this, one classifier over all of them takes minutes and gigabytes.
MAX_CLASSES = 3000


def nearest_question(train: Sequence[Row], questions: Sequence[str]) -> list[str]:
    """Answer with the answer of the most similar training question (cosine of character TF-IDF)."""
    import numpy as np

    known, asked = _features(train, questions)
    # A thousand rows at a time: the full matrix of similarities may not fit into memory.
    parts = [
        np.asarray((asked[start : start + 1000] @ known.T).argmax(axis=1)).ravel()
        for start in range(0, asked.shape[0], 1000)
    ]
    return [train[index].answer for index in np.concatenate(parts)]


def logistic_regression(train: Sequence[Row], questions: Sequence[str]) -> list[str]:
    """Answer with the class that logistic regression on character TF-IDF gives; every distinct answer is a class."""
    from sklearn.linear_model import LogisticRegression

    known, asked = _features(train, questions)
    model = LogisticRegression(C=10.0, max_iter=300)
    model.fit(known, [row.answer for row in train])
    return [str(answer) for answer in model.predict(asked)]


def why_no_classifier(train: Sequence[Row]) -> str | None:
    """Say why logistic regression cannot be run on these rows, or return None where it can."""
    classes = len({row.answer for row in train})
    if classes < 2:
        return "logistic regression skipped: the training split has one answer only"
    if classes > MAX_CLASSES:
        return f"logistic regression skipped: {classes} distinct answers are more than {MAX_CLASSES}"
    return None


def _features(train: Sequence[Row], questions: Sequence[str]) -> tuple[Any, Any]:
    """Return sparse matrices (train, n-grams) and (questions, n-grams), rows of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    return vectorizer.fit_transform([row.question for row in train]), vectorizer.transform(questions)
