"""``predictions.jsonl`` of a ``scores`` artifact: a line for every question that the evaluation asked."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from askline.errors import ArtifactError
from askline.records import Scores
from askline.store import ArtifactStore

FILE = "predictions.jsonl"


def write_predictions(rows: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write the rows into the folder of a new ``scores`` artifact."""
    with (folder / FILE).open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_predictions(scores: Scores, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the rows, in the order in which they were written; :class:`Scores` says what a row holds.

    Raises
    ------
    ArtifactError
        If the scores artifact is missing or damaged, or the file is not a list of rows.
    """
    path = store.verify("scores", scores.sha256) / FILE
    try:
        # Not splitlines(): a question may hold a line separator, which JSON leaves as it is.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a list of predictions ({error!r}); evaluate again") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ArtifactError(f"line {number} of {path} is not a prediction; evaluate again")
    return rows
