"""The artifact store: content-addressed folders, written whole or not at all, verified when read.

An artifact is a folder of files. Its address is the sha256 over the sorted list of its files' names and
hashes, so that the same content has the same address on every machine. It is written under a temporary name
in the same file system and renamed, so that a reader never sees half of one.
"""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from askline.errors import ArtifactError


def sha256_of_file(path: Path) -> str:
    """Return the hex sha256 of one file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """Return the hex sha256 of a folder: over the sorted lines ``<file sha256>  <relative posix path>``."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{sha256_of_file(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


class ArtifactStore:
    """A folder of artifacts, one sub-folder a kind (``dataset``, ``model``, ``scores``, ``package`` …).

    Parameters
    ----------
    root
        The folder; created when the first artifact is written.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).resolve()

    @contextmanager
    def new(self, kind: str) -> Iterator["Draft"]:
        """Give an empty folder to write into; ``draft.commit()`` makes it an artifact, anything else drops it.

        What processes of this machine that were killed have left behind is removed first.

        Raises
        ------
        ArtifactError
            If the disk is full or the folder cannot be written.
        """
        parent = self.root / kind
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _sweep(parent)
            folder = Path(tempfile.mkdtemp(prefix=f"{_own_drafts()}{os.getpid()}-", dir=parent))
        except OSError as error:
            raise ArtifactError(
                f"cannot write to the artifact store {parent}: {error.strerror}. "
                "Free some space or choose another folder with --state-dir."
            ) from error
        try:
            yield Draft(parent, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def path(self, kind: str, sha256: str) -> Path:
        """Return the folder of an artifact without looking whether it is there."""
        return self.root / kind / sha256

    def verify(self, kind: str, sha256: str) -> Path:
        """Return the folder of an artifact after comparing its content with its address.

        Raises
        ------
        ArtifactError
            If it is missing, or its content is not what its address says.
        """
        folder = self.path(kind, sha256)
        if not folder.is_dir():
            raise ArtifactError(
                f"the {kind} artifact {sha256[:12]} is not in {self.root}; run the flow again to remake it"
            )
        found = sha256_of_folder(folder)
        if found != sha256:
            raise ArtifactError(
                f"the {kind} artifact in {folder} is damaged: its content hashes to {found[:12]}, not {sha256[:12]}; "
                "run the flow again to remake it"
            )
        return folder

    def holds(self, kind: str, sha256: str) -> bool:
        """Say whether an artifact is there and whole."""
        try:
            self.verify(kind, sha256)
        except ArtifactError:
            return False
        return True


def _own_drafts() -> str:
    # Several machines may share the folder; only the process ids of this one mean anything here.
    return f".draft-{socket.gethostname()}-"


def _sweep(parent: Path) -> None:
    import psutil

    for folder in parent.glob(f"{_own_drafts()}*-*"):
        process = folder.name.removeprefix(_own_drafts()).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


class Draft:
    """A folder that is being written and is not yet an artifact."""

    def __init__(self, parent: Path, folder: Path) -> None:
        self._parent = parent
        self.folder = folder

    def commit(self) -> str:
        """Rename the folder to its content's address and return that sha256."""
        sha256 = sha256_of_folder(self.folder)
        final = self._parent / sha256
        if final.is_dir():
            if sha256_of_folder(final) == sha256:
                return sha256
            shutil.rmtree(final)
        self.folder.chmod(0o755)
        self.folder.replace(final)
        return sha256
