"""The embedded SageMaker's memory: one JSON file for each resource, and for each call that waits."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from local_cloud.sagemaker.errors import StateError

Kind = Literal[
    "model",
    "endpoint-config",
    "endpoint",
    "async-call",
    "scalable-target",
    "scaling-policy",
    "scaling-activity",
    "training-job",
]
#: The member that holds a record's name, by kind. What is listed here is read at the start, and kept in a folder.
NAME_MEMBER: dict[Kind, str] = {
    "model": "ModelName",
    "endpoint-config": "EndpointConfigName",
    "endpoint": "EndpointName",
    "async-call": "CallId",
    "scalable-target": "TargetId",
    "scaling-policy": "PolicyId",
    "scaling-activity": "ActivityId",
    "training-job": "TrainingJobName",
}

Record = dict[str, Any]


class State:
    """Records by kind and name, in memory and on disk.

    A record is on disk, complete and flushed, before :meth:`put` returns, so that what was acknowledged survives
    ``kill -9`` and a power cut. Names are compared without regard to case, because file systems may do so.

    Raises
    ------
    StateError
        If a file cannot be read as the record that it should be; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: dict[Kind, dict[str, Record]] = {kind: {} for kind in NAME_MEMBER}
        for kind in NAME_MEMBER:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for path in sorted((folder / kind).glob("*.json")):
                self._records[kind][path.stem] = self._read(kind, path)

    def _read(self, kind: Kind, path: Path) -> Record:
        remedy = "restore it from a backup, or delete it to forget this resource"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            name = record[NAME_MEMBER[kind]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path} is damaged and cannot be read as a {kind} ({error!r}): {remedy}") from error
        if not isinstance(name, str) or name.lower() != path.stem:
            raise StateError(f"{path} holds the {kind} {name!r}, which belongs in another file: {remedy}")
        return record  # type: ignore[no-any-return]

    def get(self, kind: Kind, name: str) -> Record | None:
        """Return the record of that name, or None."""
        record = self._records[kind].get(name.lower())
        return record if record is not None and record[NAME_MEMBER[kind]] == name else None

    def taken(self, kind: Kind, name: str) -> bool:
        """Say whether the name, in any case, is in use."""
        return name.lower() in self._records[kind]

    def all(self, kind: Kind) -> list[Record]:
        """Return every record of a kind, in no particular order."""
        return list(self._records[kind].values())

    def put(self, kind: Kind, record: Record) -> None:
        """Keep a record: on disk first, under a temporary name that is then renamed."""
        key = record[NAME_MEMBER[kind]].lower()
        folder = self._folder / kind
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f"{key}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(record, file, indent=1, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(folder / f"{key}.json")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _flush_folder(folder)
        self._records[kind][key] = record

    def delete(self, kind: Kind, name: str) -> None:
        """Forget a record."""
        folder = self._folder / kind
        (folder / f"{name.lower()}.json").unlink(missing_ok=True)
        _flush_folder(folder)
        self._records[kind].pop(name.lower(), None)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
