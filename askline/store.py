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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from askline.errors import ArtifactError
from askline.shared_artifacts import SharedArtifacts


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
    shared
        A second place, which other machines read too: what is written here is copied there, and what is missing or
        damaged here is fetched from there.
    """

    def __init__(self, root: str | os.PathLike[str], shared: SharedArtifacts | None = None) -> None:
        self.root = Path(root).resolve()
        self.shared = shared

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
            yield Draft(parent, folder, None if self.shared is None else self.shared.put)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def path(self, kind: str, sha256: str) -> Path:
        """Return the folder of an artifact without looking whether it is there."""
        return self.root / kind / sha256

    def verify(self, kind: str, sha256: str) -> Path:
        """Return the folder of an artifact after comparing its content with its address.

        What is missing or damaged here, and whole in the shared place, is fetched from there.

        Raises
        ------
        ArtifactError
            If it is missing, or its content is not what its address says.
        """
        try:
            return self._verify_here(kind, sha256)
        except ArtifactError:
            if self.shared is None or not self._fetch(self.shared, kind, sha256):
                raise
        return self._verify_here(kind, sha256)

    def share(self, kind: str, sha256: str) -> None:
        """Copy an artifact of this folder to the shared place, where there is one and it lacks it.

        Raises
        ------
        ArtifactError
            If the shared place cannot be written.
        """
        if self.shared is not None:
            self.shared.put(kind, sha256, self.path(kind, sha256))

    def _fetch(self, shared: SharedArtifacts, kind: str, sha256: str) -> bool:
        with self.new(kind) as draft:
            if not shared.get(kind, sha256, draft.folder):
                return False
            if sha256_of_folder(draft.folder) != sha256:
                shared.forget(kind, sha256)
                return False
            Draft(draft.folder.parent, draft.folder).commit()
        return True

    def _verify_here(self, kind: str, sha256: str) -> Path:
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

    def __init__(self, parent: Path, folder: Path, share: Callable[[str, str, Path], None] | None = None) -> None:
        self._parent = parent
        self._share = share
        self.folder = folder

    def commit(self) -> str:
        """Rename the folder to its content's address, copy it to the shared place, and return that sha256."""
        sha256 = sha256_of_folder(self.folder)
        final = self._parent / sha256
        if final.is_dir() and sha256_of_folder(final) != sha256:
            shutil.rmtree(final)
        if not final.is_dir():
            self.folder.chmod(0o755)
            self.folder.replace(final)
        if self._share is not None:
            self._share(self._parent.name, sha256, final)
        return sha256
