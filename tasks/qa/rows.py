"""Reading the rows of a dataset artifact."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from askline.errors import ArtifactError


class Row(NamedTuple):
    """One question with its right answer."""

    question: str
    answer: str
    group: str | None
    """Which fact it asks for; None where the dataset does not say."""
    in_scope: bool
    """False where the right answer is the dataset's unanswerable text."""
    columns: Mapping[str, str] = MappingProxyType({})
    """Further texts that belong to the answer, such as a link, by the name of their column."""
    made_by: str | None = None
    """The rule that made the question from one of the dataset's; None where it stands in the dataset."""

    @property
    def kind(self) -> Literal["wording", "made", "out_of_scope"]:
        """What a held-out row is: a real wording, one that was made by rule, or a question without an answer."""
        if not self.in_scope:
            return "out_of_scope"
        return "wording" if self.made_by is None else "made"


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
            columns = values.get("columns") or {}
            rows.append(
                Row(
                    values["question"],
                    values["answer"],
                    values.get("group"),
                    values["in_scope"],
                    columns,
                    values.get("made_by"),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"line {number} of {path} is not a row: {error!r}; run the flow again") from error
    return rows
