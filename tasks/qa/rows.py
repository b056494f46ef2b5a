"""Reading the rows of a dataset artifact."""

import json
from pathlib import Path
from typing import NamedTuple

from askline.errors import ArtifactError


class Row(NamedTuple):
    """One question with its right answer."""

    question: str
    answer: str
    group: str | None
    """Which fact it asks for; None where the dataset does not say."""
    in_scope: bool
    """False where the right answer is the dataset's unanswerable text."""


def read_rows(folder: Path, split: str) -> list[Row]:
    """Read ``<split>.jsonl`` of a dataset artifact, in order.

    Raises
    ------
    ArtifactError
        If the file is missing or a line is not what the artifact promises.
    """
    path = folder / f"{split}.jsonl"
    try:
        # Not splitlines(): a question may hold a Unicode line separator, which JSON leaves as it is.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise ArtifactError(
            f"the dataset artifact {folder.name[:12]} has no {path.name}; run the flow again"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            values = json.loads(line)
            rows.append(Row(values["question"], values["answer"], values.get("group"), values["in_scope"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"line {number} of {path} is not a row: {error!r}; run the flow again") from error
    return rows
