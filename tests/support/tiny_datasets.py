"""Small dataset artifacts for the tests of training and evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from askline.records import DatasetRef, SourceRef, Target
from askline.store import ArtifactStore

UNANSWERABLE = "I don't know"
#: Nothing listens there: a test that calls the Hub by mistake fails at once.
NOWHERE = Target(kind="local", region="us-east-1", hub="http://127.0.0.1:9")

Row = tuple[str, str, str | None]
"""Question, answer, group."""

_FACTS = {
    "born": ("born", "Warsaw"),
    "lab": ("working", "Paris"),
    "metal": ("finding polonium", "1898"),
    "prize": ("winning a prize", "Stockholm"),
    "car": ("driving", "the front line"),
}
_FRAMES = ("Where was she {}?", "Tell me about her {}.", "Do you know of {}?", "She was {}, wasn't she?")


def small_rows() -> list[Row]:
    """Twenty in-scope questions for five facts, and four that are out of scope."""
    rows: list[Row] = [
        (frame.format(what), answer, fact) for fact, (what, answer) in _FACTS.items() for frame in _FRAMES
    ]
    return rows + [
        (f"How much is {number} times two?", UNANSWERABLE, None) for number in ("six", "nine", "ten", "four")
    ]


def write_dataset(
    store: ArtifactStore,
    train: Sequence[Row],
    test: Sequence[Row] = (),
    *,
    split_by: Literal["existing", "group", "answer", "wording"] = "wording",
    location: str = "/somewhere/questions.csv",
) -> DatasetRef:
    """Store rows as a ``dataset`` artifact."""
    splits = {"train": train, "test": test}
    with store.new("dataset") as draft:
        for name, rows in splits.items():
            _write(draft.folder / f"{name}.jsonl", rows)
        sha256 = draft.commit()
    return DatasetRef(
        sha256=sha256,
        source=SourceRef(kind="file", location=location, revision="0" * 64),
        splits={name: len(rows) for name, rows in splits.items()},
        rejected=0,
        question_column="question",
        answer_column="answer",
        split_by=split_by,
        unanswerable=UNANSWERABLE,
    )


def _write(path: Path, rows: Sequence[Row]) -> None:
    lines: list[dict[str, Any]] = [
        {"question": question, "answer": answer, "group": group, "in_scope": answer != UNANSWERABLE}
        for question, answer, group in rows
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
