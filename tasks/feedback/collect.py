"""From the API's question log to rows for the next training, and to questions that wait for a person.

The log is what ``lambda_handler`` writes: JSON Lines under ``<place>/asked/`` and ``<place>/feedback/``, by MLKey and
date, joined by ``request_id``.
"""

import csv
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from askline.clients import aws_client
from askline.errors import ConfigError
from askline.progress import Progress, quiet
from askline.records import Target
from tasks.aws.errors import explained, is_missing
from tasks.deploy_api.cloudformation import describe
from tasks.fetch_dataset.text import comparable, tidy

#: Objects read at the same time; each holds one call, a few hundred bytes.
_READERS = 16
_PLACE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")


class _Line(BaseModel):
    """A line of the log; members that are not read here may come and go."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: str
    """UTC, ISO 8601 with milliseconds: the order of the texts is the order of the times."""
    request_id: str
    replaced: int = 0
    """Places that redaction replaced."""


class Asked(_Line):
    """A question and what the model answered; both None where the log keeps no text."""

    question: str | None
    answer: str | None
    model_version: str | None = None
    confidence: float | None = None
    abstained: bool = False
    withheld: str | None = None
    """What the model would have said, had it not abstained."""
    index: int = 0
    """Its place among the questions of its call."""


class Verdict(_Line):
    """What somebody thought of an answer, and perhaps what it should have been."""

    verdict: Literal["up", "down"]
    index: int | None = None
    """Which question of the call is meant; None where the call had but one, or nobody knows."""
    answer: str | None = None
    comment: str | None = None


_L = TypeVar("_L", Asked, Verdict)


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found, and what came of it."""

    asked: int
    """Questions in the log."""
    without_text: int
    """Those of which the log kept no text."""
    verdicts: int
    unmatched: int
    """Verdicts on no question of the log, or on one of several asked in one call that do not say which."""
    unreadable: int
    """Lines that are not what the log promises."""
    rows: Mapping[str, int]
    """Rows for training by ``source``: ``confirmed`` or ``corrected``."""
    review: Mapping[str, int]
    """Questions that wait for a person, by ``reason``: ``thumbs-down``, ``abstained`` or ``redacted``."""
    rows_file: Path
    review_file: Path


def find_log(target: Target, *, stack_name: str) -> str:
    """Return the place (``s3://bucket/prefix``) where a stack's API keeps its questions.

    Raises
    ------
    ConfigError
        If there is no such stack, or it keeps none.
    CloudError
        If CloudFormation refuses.
    """
    with explained(f"look for the question log of the stack {stack_name}"):
        stack = describe(aws_client(target, "cloudformation"), stack_name)
    if stack is None:
        raise ConfigError(f"there is no stack {stack_name!r}; deploy the API, or name the log with --log s3://…")
    for output in stack.get("Outputs", ()):
        if output["OutputKey"] == "QuestionLogLocation":
            return str(output["OutputValue"])
    raise ConfigError(
        f"the API of the stack {stack_name!r} keeps no questions; deploy it with --api.question-log.enabled true, or "
        "name another log with --log s3://…"
    )


def collect_feedback(
    *, log: str, mlkey: str, out: Path, target: Target, since: date | None = None, progress: Progress = quiet
) -> Collected:
    """Read the log of an MLKey and write two files: rows for training, and questions for a person.

    ``out`` gets one row for each question that somebody confirmed or corrected; the newest word on a question counts.
    Beside it, ``<name>.review.<suffix>`` gets the questions that were answered wrongly or not at all, with an empty
    ``answer`` to fill in, and the rows that redaction has changed. Nothing is half-written, and the same log gives the
    same files.

    Parameters
    ----------
    log
        ``s3://bucket/prefix``.
    out
        A ``.jsonl`` or a ``.csv`` file.
    since
        First day (UTC) whose questions and verdicts are read.

    Raises
    ------
    ConfigError
        If ``out`` is of another kind, ``log`` is no such place or knows no such MLKey, or the files cannot be written.
    CloudError
        If S3 refuses.
    """
    if out.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"{str(out)!r} must end in .jsonl or .csv: that is what can be written")
    found = _PLACE.fullmatch(log)
    if found is None:
        raise ConfigError(f"{log!r} is no place in S3; expected s3://bucket/prefix")
    place = _Place(target, bucket=found[1], prefix=(found[2] or "").strip("/"))
    asked, bad_asked = place.read(Asked, "asked", mlkey, since, lambda share: progress(0.6 * share, "questions"))
    verdicts, bad_verdicts = place.read(
        Verdict, "feedback", mlkey, since, lambda share: progress(0.6 + 0.3 * share, "feedback")
    )
    if not asked and since is None and mlkey not in (known := place.mlkeys()):
        raise ConfigError(f"{log} holds no questions to {mlkey!r}; it holds those to {', '.join(known) or 'nobody'}")
    stories, unmatched = _join(asked, verdicts)
    rows = [row for story in stories if (row := story.row()) is not None]
    review = [row for story in stories if (row := story.open_question()) is not None]
    review_file = out.with_name(f"{out.stem}.review{out.suffix}")
    _write({out: rows, review_file: review})
    progress(1.0, f"{len(rows)} rows, {len(review)} for review")
    return Collected(
        asked=len(asked),
        without_text=sum(one.question is None or one.answer is None for one in asked),
        verdicts=len(verdicts),
        unmatched=unmatched,
        unreadable=bad_asked + bad_verdicts,
        rows=Counter(str(row["source"]) for row in rows),
        review=Counter(str(row["reason"]) for row in review),
        rows_file=out,
        review_file=review_file,
    )


@dataclass
class _Story:
    """One question, however often and in whatever spelling it was asked, and the newest word on its answer."""

    question: str = ""
    answer: str | None = None
    """The right one, as far as anybody said."""
    source: str = ""
    disputed: bool = False
    redacted: bool = False
    last: Asked | None = None
    comments: list[str] = field(default_factory=list)

    def was_asked(self, asked: Asked) -> None:
        self.last = asked
        self.question = self.question or tidy(asked.question or "")

    def was_judged(self, asked: Asked, verdict: Verdict) -> None:
        if verdict.comment:
            self.comments.append(verdict.comment)
        if verdict.answer:
            self._settle(asked, verdict.answer, "corrected", redacted=bool(asked.replaced or verdict.replaced))
        elif verdict.verdict == "up":
            self._settle(asked, asked.answer or "", "confirmed", redacted=bool(asked.replaced))
        elif self.answer is None or comparable(self.answer) == comparable(asked.answer or ""):
            # A correction stays what it is when the old wrong answer is called wrong once more.
            self.answer, self.disputed, self.redacted = None, True, bool(asked.replaced)

    def _settle(self, asked: Asked, answer: str, source: str, *, redacted: bool) -> None:
        self.question, self.answer, self.source = tidy(asked.question or ""), tidy(answer), source
        self.disputed, self.redacted = False, redacted

    def row(self) -> dict[str, object] | None:
        """Return what the next training learns from it, if anything."""
        if self.answer is None or self.redacted or self.last is None:
            return None
        return {"question": self.question, "answer": self.answer, "source": self.source, **self._origin(self.last)}

    def open_question(self) -> dict[str, object] | None:
        """Return what a person should answer, if anything."""
        if self.last is None:
            return None
        if self.answer is not None and self.redacted:
            reason = "redacted"
        elif self.disputed:
            reason = "thumbs-down"
        elif self.answer is None and self.last.abstained:
            reason = "abstained"
        else:
            return None
        return {
            "question": self.question,
            "answer": None,
            "reason": reason,
            "model_answer": self.last.answer,
            "withheld": self.last.withheld,
            "suggested": self.answer,
            "comments": self.comments,
            "confidence": self.last.confidence,
            **self._origin(self.last),
        }

    @staticmethod
    def _origin(asked: Asked) -> dict[str, object]:
        return {"model_version": asked.model_version, "request_id": asked.request_id, "asked_at": asked.at}


def _join(asked: Iterable[Asked], verdicts: Iterable[Verdict]) -> tuple[list[_Story], int]:
    """Return what became of each question, in the order in which they were first asked, and the unmatched verdicts."""
    by_request: dict[str, list[Asked]] = defaultdict(list)
    stories: dict[str, _Story] = defaultdict(_Story)
    for one in sorted(asked, key=lambda one: (one.at, one.request_id)):
        by_request[one.request_id].append(one)
        if one.question is not None and one.answer is not None:
            stories[comparable(one.question)].was_asked(one)
    unmatched = 0
    for verdict in sorted(verdicts, key=lambda verdict: (verdict.at, verdict.request_id)):
        about = [one for one in by_request.get(verdict.request_id, ()) if verdict.index in (None, one.index)]
        if len(about) != 1:
            unmatched += 1
        elif about[0].question is not None and about[0].answer is not None:
            stories[comparable(about[0].question)].was_judged(about[0], verdict)
    return list(stories.values()), unmatched


class _Place:
    """The log in S3, read-only."""

    def __init__(self, target: Target, *, bucket: str, prefix: str) -> None:
        self._s3 = aws_client(target, "s3", max_pool_connections=_READERS)
        self._bucket = bucket
        self._prefix = prefix

    def read(
        self, kind: type[_L], folder: str, mlkey: str, since: date | None, heard: Callable[[float], None]
    ) -> tuple[list[_L], int]:
        """Return the lines of one kind, and how many could not be read."""
        where = "/".join(filter(None, [self._prefix, folder, f"mlkey={mlkey}"])) + "/"
        lines: list[_L] = []
        unreadable = 0
        with explained(f"read the question log s3://{self._bucket}/{where}"):
            keys = list(self._keys(where, since))
            with ThreadPoolExecutor(_READERS) as readers:
                for number, content in enumerate(readers.map(self._content, keys), start=1):
                    # Not splitlines(): a question may hold a Unicode line separator, which JSON leaves as it is.
                    for line in filter(None, content.split(b"\n")):
                        try:
                            lines.append(kind.model_validate_json(line))
                        except ValidationError:
                            unreadable += 1
                    heard(number / len(keys))
        return lines, unreadable

    def mlkeys(self) -> list[str]:
        """Return the MLKeys whose questions the log holds."""
        where = "/".join(filter(None, [self._prefix, "asked", "mlkey="]))
        with explained(f"read the question log s3://{self._bucket}/{where}"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=where, Delimiter="/")
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
        return [prefix.removeprefix(where).rstrip("/") for prefix in found]

    def _keys(self, where: str, since: date | None) -> Iterator[str]:
        # Keys sort by date, and "date=2026-05-01/…" comes after "date=2026-05-01".
        start = {"StartAfter": f"{where}date={since.isoformat()}"} if since else {}
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=where, **start):
            yield from (item["Key"] for item in page.get("Contents", ()) if item["Key"].endswith(".jsonl"))

    def _content(self, key: str) -> bytes:
        from botocore.exceptions import ClientError

        try:
            content: bytes = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if is_missing(error):
                return b""  # it was deleted since it was listed: expired, or somebody asked for it
            raise
        return content


def _write_lines(stream: TextIO, rows: Iterable[Mapping[str, Any]]) -> None:
    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(stream: TextIO, rows: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(stream, fieldnames=rows[0].keys() if rows else ("question", "answer"), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "\n".join(value) if isinstance(value, list) else value for name, value in row.items()})


def _write(files: Mapping[Path, Sequence[Mapping[str, Any]]]) -> None:
    """Write every file under a temporary name, then rename them all."""
    drafts: dict[Path, Path] = {}
    try:
        for path, rows in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
            drafts[path] = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                (_write_csv if path.suffix == ".csv" else _write_lines)(stream, rows)
        for path, draft in drafts.items():
            draft.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {', '.join(map(str, files))}: {error.strerror}") from error
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
