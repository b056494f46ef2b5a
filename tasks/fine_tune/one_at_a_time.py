"""One training of a key at a time in a state folder: a second run waits, and takes the first one's model.

Checkpoints lie in a folder that is named after all that the training depends on, so two runs with the same dataset and
options, for two MLKeys perhaps, would write and remove each other's. The lock is a file beside that folder, held by the
kernel: it is free as soon as its holder ends, however it ends, and a run that was killed is gone on with.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from askline.errors import ArtifactError, TrainingError
from askline.records import ModelRef
from askline.store import ArtifactStore
from tasks.workplace import Workplace

_LOOK_SECONDS = 0.5


class Turn:
    """The right to train under a key, for as long as the block lasts."""

    def __init__(self, folder: Path, *, waited: bool) -> None:
        self._record = folder.with_name(f"{folder.name}.json")
        self._waited = waited

    def others(self, store: ArtifactStore) -> ModelRef | None:
        """Return the model of the run that was waited for, if it ended with one that is still there."""
        if not self._waited:
            return None
        try:
            model = ModelRef.model_validate_json(self._record.read_bytes())
            store.verify("model", model.sha256)
        except (OSError, ValidationError, ArtifactError):
            return None
        return model

    def end_with(self, model: ModelRef) -> None:
        """Leave the model to whoever waits."""
        draft = self._record.with_suffix(".part")
        draft.write_text(model.model_dump_json(), encoding="utf-8")
        draft.replace(self._record)


@contextlib.contextmanager
def turn(folder: Path, *, place: Workplace) -> Iterator[Turn]:
    """Hold the lock of a checkpoint folder; wait, and say so, while another process does.

    Raises
    ------
    TrainingError
        If the folder cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot write to {folder}: {error.strerror}. Choose another folder with --state-dir"
        ) from error
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    waited, began = False, time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            waited = True
            place.progress(
                0.0, f"another run trains the same model here: waiting for it, {time.monotonic() - began:.0f} s"
            )
            time.sleep(_LOOK_SECONDS)
    try:
        yield Turn(folder, waited=waited)
    finally:
        lock.release()
