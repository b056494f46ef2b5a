"""Checkpoints of a run that may be killed at any moment: written aside, renamed whole, verified, and thinned out."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

#: The trainer's own state: the step, the loss curve and what else it counts.
MARKER = "trainer_state.json"
#: Written last: size and sha256 of every other file, so that a file cut off or changed since is found.
MANIFEST = "manifest.json"
#: Folder of the weights in the checkpoint of a model that is divided over processes, as accelerate names it.
SHARDS = "pytorch_model_fsdp_0"
#: Where a checkpoint is written before it is renamed.
WRITING = ".writing"
#: Whole checkpoints that are kept: where the newest is damaged, the one before is there.
KEPT = 2
_NAME = re.compile(r"checkpoint-(\d+)")


def run_key(**depends_on: Any) -> str:
    """Return a short name for the run with these inputs: other inputs, another folder, so nothing stale is resumed."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:16]


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, whole or not, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def newest_whole(folder: Path, *, processes: int = 1, sharded: bool = False) -> Path | None:
    """Return the newest checkpoint in ``folder`` that so many processes can resume from, or None.

    Each process keeps the state of its own random numbers there.

    Parameters
    ----------
    sharded
        Whether they divide the model. Its checkpoints are of another kind; any number of processes, two or more, can
        resume from them, those that there were not before with new random numbers.
    """
    found = checkpoints_in(folder)
    return next((path for path in found if is_whole(path, processes=processes, sharded=sharded)), None)


def is_whole(checkpoint: Path, *, processes: int = 1, sharded: bool = False) -> bool:
    """Say whether every file of a checkpoint is there as it was written, and whether it is of the right kind."""
    random_states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    if sharded:
        random_states = random_states[:1]
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        if not {MARKER, *random_states} <= set(files):
            return False
        if any(name.startswith(f"{SHARDS}/") for name in files) != sharded:
            return False
        paths = {checkpoint / name: about for name, about in files.items()}
        if any(path.stat().st_size != about["size"] for path, about in paths.items()):
            return False
        return all(_sha256(path) == about["sha256"] for path, about in paths.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def seal(written: Path) -> None:
    """Write the manifest of a finished checkpoint.

    Nothing waits for the disk: a file that a power cut left incomplete does not match, and the checkpoint before
    counts.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    about = {
        path.relative_to(written).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }
    (written / MANIFEST).write_text(json.dumps({"files": about}, indent=1), encoding="utf-8")


def publish(written: Path, folder: Path) -> Path:
    """Rename a sealed checkpoint into ``folder`` in one go, and return where it is."""
    final = folder / written.name
    if final.exists():  # damaged, or it would have been resumed from
        shutil.rmtree(final)
    written.rename(final)
    return final


def thin_out(folder: Path, *, kept: int = KEPT, spare: Path | None = None, up_to: int | None = None) -> None:
    """Remove all but the newest checkpoints, and what a killed process left half-written.

    Parameters
    ----------
    up_to
        The step that was reached: later ones are of a run in other processes, which this one could not go on from.
        They are not counted, and stay until they are passed.
    """
    found = [path for path in checkpoints_in(folder) if up_to is None or step_of(path) <= up_to]
    for path in found[kept:]:
        if path != spare:
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder / WRITING, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
