"""A source that cannot change, and what was read from it."""

from pathlib import Path
from typing import Any, Literal

from askline.records.record import Record


class SourceRef(Record):
    """A dataset's source, resolved to something that cannot change."""

    kind: Literal["hub", "file", "s3", "https"]
    location: str
    """Hub id, absolute path, or URL."""
    revision: str
    """Commit sha of a Hub dataset, else the sha256 (or S3 version/ETag) of the content."""
    subset: str | None = None
    public: bool = False
    """True for a dataset of the public Hub that is used with the embedded cloud."""

    def identity(self) -> dict[str, Any]:
        """Return what identifies the source: of a file its name and content, not the folder in which it lies."""
        said = super().identity()
        return said | {"location": Path(self.location).name} if self.kind == "file" else said


class DatasetRef(Record):
    """A clean, split dataset: ``train.jsonl``, ``test.jsonl`` (and ``validation.jsonl``), ``rejected.jsonl``,
    ``profile.json`` and ``look.json``.

    Each line of a split is ``{"question": str, "answer": str, "group": str | null, "in_scope": bool}``. Where there are
    any, ``"columns": {name: text}`` holds further texts that belong to the answer, and ``"made_by": str`` names the
    rule that made a test question from one of the dataset's.
    """

    sha256: str
    """Address of the ``dataset`` artifact."""
    source: SourceRef
    splits: dict[str, int]
    """Rows by split."""
    rejected: int
    question_column: str
    answer_column: str
    split_by: Literal["existing", "group", "answer", "wording", "made"]
    """How the test questions came about; "made": those of facts with a single wording are made by rule, in other words,
    and no fact is held out."""
    unanswerable: str
    look: str = ""
    """What it is, in two lines; the whole stands in ``look.json``."""
    warnings: tuple[str, ...] = ()
    """Findings that a person should read, such as conflicting answers."""
