"""A sealed checkpoint of a few hundred bytes."""

import os
from pathlib import Path

from tasks.fine_tune.checkpoints import MARKER, WRITING, publish, seal


def write_checkpoint(folder: Path, step: int) -> Path:
    written = folder / WRITING / f"checkpoint-{step}"
    (written / "deeper").mkdir(parents=True)
    for name in (MARKER, "rng_state.pth", "deeper/weights"):
        (written / name).write_bytes(os.urandom(200))
    seal(written)
    return publish(written, folder)
