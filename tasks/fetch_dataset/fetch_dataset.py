"""fetch-dataset: from a Hub id, a file, a folder, S3 or https to clean, split and profiled questions and answers."""

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from askline.config import DatasetConfig
from askline.errors import ArtifactError, ConfigError, DatasetFormatError, DatasetNotFoundError
from askline.records import DatasetRef, SourceRef, Target
from askline.records.look import Look
from askline.store import ArtifactStore
from tasks.fetch_dataset import hub, layout, s3, sources, web
from tasks.fetch_dataset.cache import changed
from tasks.fetch_dataset.cleaning import Cleaned, Example, check_rejected, clean_split, keep_apart
from tasks.fetch_dataset.columns import Columns
from tasks.fetch_dataset.look import look_at, two_lines
from tasks.fetch_dataset.profile import profile_dataset, profile_tokens
from tasks.fetch_dataset.readers.pairs import read_pairs
from tasks.fetch_dataset.splitting import split_examples, split_with_every_fact_trained
from tasks.fetch_dataset.tables import Table
from tasks.workplace import Workplace

__all__ = ["fetch_dataset", "profile_tokens", "resolve_source"]

SplitMade = Literal["existing", "group", "answer", "wording", "made"]
#: The base that the dataset is looked at for, as long as none is known: Flan-T5.
AUTO = "auto"

#: What the dataset depends on, beside the options and the source.
ROOMS = ("fetch_dataset",)
LIBRARIES = ("datasets",)


def resolve_source(config: DatasetConfig, *, place: Workplace) -> SourceRef:
    """Resolve the source to something that cannot change: a commit, an object's version or a hash.

    Parameters
    ----------
    config
        ``source``, ``revision`` and ``subset`` are used. "sample" is published to the embedded Hub and resolved
        there; with an AWS target it is the project's own folder.
    place
        Where the Hub and S3 are, and the state folder; an https source is downloaded to ``cache`` in it.

    Raises
    ------
    ConfigError
        If a revision or subset is given where there can be none.
    DatasetNotFoundError
        If the source is not there, may not be read, or does not answer (retryable).
    DatasetFormatError
        If it is too large, or a folder without data.
    """
    target = place.target
    found = sources.classify(config.source, target.hub)
    if found.kind == "sample":
        if target.kind == "aws":
            return sources.resolve_local(sources.SAMPLE_FOLDER, config)
        commit = (
            hub.publish_sample(sources.SAMPLE_FOLDER, target=target) if config.revision is None else config.revision
        )
        return hub.resolve_hub(hub.SAMPLE_REPO, commit, config.subset, target=target)
    if found.kind == "hub":
        return hub.resolve_hub(found.location, config.revision or found.revision, config.subset, target=target)
    sources.refuse_revision(config, config.source)
    if found.kind == "s3":
        return s3.resolve_s3(found.location, config.subset, target=target)
    if found.kind == "https":
        if config.subset is not None:
            raise ConfigError(
                f"--dataset.subset {config.subset!r} chooses within a folder; {found.location} is one file"
            )
        with _disk(place.state_dir):
            return web.resolve_https(found.location, cache=place.state_dir / "cache")
    return sources.resolve_local(Path(found.location), config)


def fetch_dataset(
    config: DatasetConfig,
    source: SourceRef,
    *,
    place: Workplace,
    prompt: str = "{question}",
) -> DatasetRef:
    """Download a resolved source, read, clean, split and profile it, and keep the result as a ``dataset`` artifact.

    Parameters
    ----------
    config
        How to read and split it.
    source
        What :func:`resolve_source` returned.
    place
        Where the Hub and S3 are, and where the artifact goes; downloads lie in ``cache``.
    prompt
        The prompt template; only its length enters the profile.

    Raises
    ------
    DatasetNotFoundError
        If the source is gone, has changed since it was resolved, or does not answer (retryable).
    DatasetFormatError
        If a file, a column or too many rows cannot be used; names the file and the row.
    ConfigError
        If an option does not fit the source.
    ArtifactError
        If the result cannot be written.
    """
    prepared = _prepare(config, source, place)
    cleaned, first = prepared.cleaned, prepared.columns
    place.progress(0.8, "writing")
    look = prepared.look(base=AUTO)
    facts = {
        "question_column": first.question,
        "answer_column": first.answer,
        "group_column": first.group,
        "split_by": prepared.split_by,
        "seed": config.seed,
        "unanswerable": config.unanswerable,
        "warnings": prepared.warnings,
    }
    sha256 = _write(place.store, cleaned, profile_dataset(cleaned, prepared.tables, prompt=prompt, facts=facts), look)
    place.progress(1.0, ", ".join(f"{len(examples)} {split}" for split, examples in cleaned.splits.items()))
    return DatasetRef(
        sha256=sha256,
        source=source,
        splits={split: len(examples) for split, examples in cleaned.splits.items()},
        rejected=len(cleaned.lost),
        question_column=first.question,
        answer_column=first.answer,
        split_by=prepared.split_by,
        unanswerable=config.unanswerable,
        warnings=prepared.warnings,
        look=two_lines(look),
    )


def look_at_source(config: DatasetConfig, *, base: str, place: Workplace) -> Look:
    """Say what is understood of a source, and how it would be tested, without keeping anything of it.

    Raises
    ------
    DatasetNotFoundError, DatasetFormatError, ConfigError
        As :func:`fetch_dataset`.
    """
    source = resolve_source(config, place=place)
    # Here too many rejected rows are told beside the rest; the pipeline stops at them.
    prepared = _prepare(config.model_copy(update={"max_rejected": 1.0}), source, place)
    read = sum(len(table.rows) for held in prepared.tables.values() for table in held)
    try:
        check_rejected(prepared.cleaned, read, config.max_rejected)
    except DatasetFormatError as error:
        prepared = replace(prepared, warnings=(f"the pipeline would stop here: {error}", *prepared.warnings))
    return prepared.look(base=base)


@dataclass(frozen=True)
class _Prepared:
    """A source, read, cleaned and split."""

    cleaned: Cleaned
    tables: dict[str, list[Table]]
    columns: Columns
    """Those of the first file."""
    split_by: SplitMade
    warnings: tuple[str, ...]

    def look(self, *, base: str) -> Look:
        return look_at(
            self.cleaned, self.tables, self.columns, split_by=self.split_by, warnings=self.warnings, base=base
        )


def _prepare(config: DatasetConfig, source: SourceRef, place: Workplace) -> _Prepared:
    progress = place.progress
    progress(0.0, "downloading")
    with _disk(place.state_dir):
        files, notes = _bring(config, source, target=place.target, cache=place.state_dir / "cache")
    progress(0.2, "reading")
    tables, columns = _read(config, files)
    first = next(iter(columns.values()))
    if first.group is not None and not first.group_was_named and layout.ALL in tables:
        notes.append(
            f"the column {first.group!r} says which rows ask for one fact, by its name; see --dataset.group-column"
        )
    notes += [note for read in tables.values() for table in read for note in (*table.notes, *table.left_out)]
    progress(0.5, "cleaning")
    cleaned = Cleaned()
    for split, read in tables.items():
        rows = ((row, columns[table.file]) for table in read for row in table.rows)
        clean_split(cleaned, split, rows, config.unanswerable, config.answer_columns)
    rows_read = sum(len(table.rows) for read in tables.values() for table in read)
    check_rejected(cleaned, rows_read, config.max_rejected)
    by = _split(cleaned, config, first, notes)
    check_rejected(cleaned, rows_read, config.max_rejected)
    _check_splits(cleaned)
    return _Prepared(cleaned, tables, first, by, (*_findings(cleaned), *dict.fromkeys(notes)))


def _bring(
    config: DatasetConfig, source: SourceRef, *, target: Target, cache: Path
) -> tuple[dict[str, list[tuple[str, Path]]], list[str]]:
    """Bring the source to this machine; return its files, each with its name for people, by split, and notes."""
    name = None
    if source.kind == "hub":
        root = hub.download_hub(source, target=target, cache=cache / "hub")
    elif source.kind == "s3":
        root = s3.download_s3(source, target=target, cache=cache)
    elif source.kind == "https":
        root, name = web.download_https(source, cache=cache), web.name_of(source.location)
    else:
        root = Path(source.location)
        if not root.exists() or sources.content_sha256(root) != source.revision:
            raise changed(source.location)
    if root.is_file():
        return {layout.ALL: [(name or root.name, root)]}, []
    splits, notes = layout.find_splits(root, source.subset, cache=cache / "datasets")
    return {
        split: [(path.relative_to(root).as_posix() if path != root else root.name, path) for path in paths]
        for split, paths in splits.items()
    }, notes


def _read(
    config: DatasetConfig, files: dict[str, list[tuple[str, Path]]]
) -> tuple[dict[str, list[Table]], dict[str, Columns]]:
    tables: dict[str, list[Table]] = {}
    columns: dict[str, Columns] = {}
    for split, named in files.items():
        for name, path in named:
            with _disk(path):
                table, columns[table.file] = read_pairs(path, name, config)
            _check_answer_columns(config, table)
            tables.setdefault(split, []).append(table)
    return tables, columns


def _check_answer_columns(config: DatasetConfig, table: Table) -> None:
    for name in config.answer_columns:
        if name not in table.columns:
            raise DatasetFormatError(
                f"{table.file}: --dataset.answer-columns names {name!r}, which is not there. The columns are: "
                + ", ".join(map(repr, table.columns[:30]))
            )


def _split(cleaned: Cleaned, config: DatasetConfig, columns: Columns, notes: list[str]) -> SplitMade:
    """Keep the splits that are there, else make them; in both cases training and test stay apart."""
    if layout.ALL not in cleaned.splits:
        if config.split_by != "auto":
            notes.append(f"the dataset's own splits are kept; --dataset.split-by {config.split_by} is not used")
        keep_apart(cleaned, nearly=False)
        return "existing"
    examples = cleaned.splits.pop(layout.ALL)
    if config.split_by == "auto":
        return _train_every_fact(cleaned, examples, config)
    by = config.split_by
    if by == "group" and not any(example.group is not None for example in examples):
        what = f"{columns.group!r} is empty" if columns.group else "there is none"
        raise ConfigError(
            f"--dataset.split-by group needs a group column, and {what}. Name it with --dataset.group-column, or "
            "leave --dataset.split-by out"
        )
    train, test = split_examples(examples, by=by, test_fraction=config.test_fraction, seed=config.seed)
    cleaned.splits = {"train": train, "test": test}
    keep_apart(cleaned, nearly=True)
    held = len(test) / len(examples)
    if abs(held - config.test_fraction) > max(0.05, config.test_fraction / 2):
        why = "at least one wording of every fact" if by == "wording" else f"each {by} stays whole"
        notes.append(f"{held:.0%} of the rows are held out, not {config.test_fraction:.0%}: {why}")
    if by != "wording":
        notes.append(
            f"split by {by}: the held-out facts are not in training, so the scores tell how the model answers about "
            "what it was never told; without --dataset.split-by every fact is trained and asked for in new words"
        )
    return by


def _train_every_fact(
    cleaned: Cleaned, examples: Sequence[Example], config: DatasetConfig
) -> Literal["wording", "made"]:
    train, test = split_with_every_fact_trained(examples, test_fraction=config.test_fraction, seed=config.seed)
    cleaned.splits = {"train": train, "test": test}
    return "wording" if all(example.made_by is None for example in test) else "made"


def _check_splits(cleaned: Cleaned) -> None:
    for split in ("train", "test"):
        if not any(example.in_scope for example in cleaned.splits.get(split, [])):
            taken = split == "train" and "question held out" in cleaned.reasons
            why = ": its questions are held out too" if taken else ""
            raise DatasetFormatError(f"no row with an answer is left in the {split} split{why}")


def _findings(cleaned: Cleaned) -> Iterator[str]:
    """Yield what a person should read about the rejected rows."""
    lost = len(cleaned.lost)
    if lost:
        counts = cleaned.reasons.items()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts if reason != "duplicate")
        yield f"{lost} rows were rejected ({reasons}); rejected.jsonl lists each"
    if repeated := len(cleaned.rejected) - lost:
        yield f"{repeated} rows only repeat another one; nothing is lost by that"
    conflicts = [item for item in cleaned.rejected if item.reason == "conflicting answer"]
    for item in conflicts[:3]:
        yield f"conflicting answers: {item.source.place} against the earlier row, which was kept ({item.detail})"
    malformed = [item for item in cleaned.rejected if item.reason in ("malformed row", "unreadable cell")]
    for item in malformed[:3]:
        yield f"{item.source.place}: {item.reason}: {item.detail}"


def _write(store: ArtifactStore, cleaned: Cleaned, profile: Mapping[str, Any], look: Look) -> str:
    """Write the artifact: the same content gives the same bytes."""
    with store.new("dataset") as draft, _disk(store.root):
        for split, examples in cleaned.splits.items():
            _write_lines(draft.folder / f"{split}.jsonl", [_row(example) for example in examples])
        rejected = [
            {
                "file": item.source.file,
                "row": item.source.row,
                "line": item.source.line,
                "split": None if item.split == layout.ALL else item.split,
                "reason": item.reason,
                "detail": item.detail,
                "content": item.source.values,
            }
            for item in sorted(cleaned.rejected, key=lambda item: (item.source.file, item.source.row))
        ]
        _write_lines(draft.folder / "rejected.jsonl", rejected)
        text = json.dumps(profile, ensure_ascii=False, indent=2, sort_keys=True)
        (draft.folder / "profile.json").write_bytes(f"{text}\n".encode())
        (draft.folder / "look.json").write_bytes(f"{look.model_dump_json(indent=2)}\n".encode())
        return draft.commit()


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {
        "question": example.question,
        "answer": example.answer,
        "group": example.group,
        "in_scope": example.in_scope,
    }
    if example.columns:
        row["columns"] = dict(example.columns)
    if example.made_by is not None:
        row["made_by"] = example.made_by
    return row


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
    # Half a surrogate pair, which only a rejected row can hold, is written as JSON's own escape.
    path.write_bytes("".join(lines).encode(errors="backslashreplace"))


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn trouble with the disk into a clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise ArtifactError(
                f"cannot write to {error.filename or path}: {error.strerror}. "
                "Free some space or choose another folder with --state-dir."
            ) from error
        raise DatasetNotFoundError(f"cannot access {error.filename or path}: {error.strerror or error}") from error
