"""Checkpoints of a run that may be killed at any moment: which one is whole, and what a run's folder depends on."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

#: The trainer writes this file last, so that a folder with it was finished unless the machine itself went down.
MARKER = "trainer_state.json"
_ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
_WEIGHTS = "model.safetensors"


def run_key(**depends_on: Any) -> str:
    """Return a short name for the run with these inputs: other inputs, another folder, so nothing stale is resumed.

    The training code counts as an input.
    """
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint in ``folder`` that can be resumed from, or None."""
    found = [(int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*[0-9]") if path.is_dir()]
    return next((path for _, path in sorted(found, reverse=True) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        for name in _ARCHIVES:
            with zipfile.ZipFile(checkpoint / name) as archive:
                if archive.testzip() is not None:
                    return False
        return _safetensors_is_whole(checkpoint / _WEIGHTS)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _safetensors_is_whole(path: Path) -> bool:
    """Compare the file's length with what its header promises (8 bytes of length, JSON, then the tensors)."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    end = max(values["data_offsets"][1] for name, values in header.items() if name != "__metadata__")
    return path.stat().st_size == 8 + size + int(end)
