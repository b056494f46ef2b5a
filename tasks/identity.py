"""What a step's result depends on beside its inputs: the code of some rooms, and some libraries.

A room that makes something which is remembered says beside its core what that takes::

    ROOMS = ("evaluate", "fine_tune", "t5", "qa", "inference.trie")
    LIBRARIES = ("torch", "transformers")

and one :func:`code_of` serves whatever asks whether an earlier result still holds: the key under which Prefect
remembers a step, the key of a training's checkpoints, and the comparison of a worker's code with this machine's.

``tests/running/test_identity.py`` follows the imports from each core, and fails where one leads into a room that its
list does not name.
"""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

#: The folder that holds ``tasks`` and ``inference``.
ROOT = Path(__file__).parents[1]
#: What decides where work is done and not what comes of it. An edit here changes no key: a training job that is
#: running is found again by its key, and paid for once.
SHAPES_NOTHING = frozenset({"tasks.fine_tune.launch", "tasks.identity", "tasks.workplace"})


@cache
def code_of(*rooms: str, libraries: Sequence[str] = (), root: Path = ROOT) -> str:
    """Return a hash over the source of rooms and the versions of libraries.

    Parameters
    ----------
    rooms
        Folders or modules of ``tasks`` (``"fine_tune"``, ``"qa.rows"``) or of the project (``"inference"``). What of
        them is in :data:`SHAPES_NOTHING` does not count.
    libraries
        Names of installed distributions. A build of torch for CUDA counts as another version.
    root
        Where the project lies.

    Raises
    ------
    ModuleNotFoundError
        If there is no such room: a name that was mistyped would be a hole in the key.
    """
    digest = hashlib.sha256()
    for room in sorted(rooms):
        for file in _files(room, root):
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    for library in sorted(libraries):
        digest.update(f"{library}=={importlib.metadata.version(library)}\n".encode())
    return digest.hexdigest()


def _files(room: str, root: Path) -> list[Path]:
    inner = Path(*room.split("."))
    for place in (root / "tasks" / inner, root / inner):
        if place.is_dir():
            return sorted(path for path in place.rglob("*.py") if _counts(path, root))
        if place.with_suffix(".py").is_file():
            return [place.with_suffix(".py")]
    raise ModuleNotFoundError(f"there is no room {room!r} in {root / 'tasks'} or {root}")


def _counts(path: Path, root: Path) -> bool:
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    return not any(f"{module}.".startswith(f"{name}.") for name in SHAPES_NOTHING)
