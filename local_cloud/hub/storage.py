"""Files that survive ``kill -9``: written under a temporary name, synced, renamed, and the folder synced too.

Blobs are stored by their sha256, shared by all repositories, and never changed once they are there.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from local_cloud.hub.refusal import RefusedError


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_whole(path: Path, content: bytes, scratch: Path) -> None:
    """Write a file so that a reader, or a restart, sees all of it or none of it.

    Parameters
    ----------
    scratch
        Folder in the same file system for the temporary file.
    """
    make_folder(path.parent)
    descriptor, name = tempfile.mkstemp(dir=scratch)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def git_oid(content: bytes) -> str:
    """Return the id that git gives to a file of this content (sha1 over a header and the bytes)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the text that git keeps in place of a large file (git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Upload:
    """A blob on its way in: its bytes go to a temporary file and through sha256 at once."""

    def __init__(self, stream: BinaryIO, path: Path, blobs: "BlobStore") -> None:
        self._stream = stream
        self._path = path
        self._blobs = blobs
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._stream.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self, sha256: str | None = None, size: int | None = None) -> str:
        """Keep the blob and return its sha256.

        Raises
        ------
        RefusedError
            400 if the bytes are not the ones that were announced; nothing is kept then.
        """
        found = self._digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise RefusedError(400, f"the uploaded bytes hash to sha256 {found}, not to the announced {sha256}")
        if size is not None and self.size != size:
            raise RefusedError(400, f"{self.size} bytes were uploaded, {size} were announced")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        final = self._blobs.path(found)
        make_folder(final.parent)
        self._path.replace(final)
        sync_folder(final.parent)
        return found


class BlobStore:
    """A folder of blobs, two levels deep: ``ab/abcd…``.

    Parameters
    ----------
    root
        Folder of the blobs.
    scratch
        Folder in the same file system for uploads under way.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.scratch = scratch

    def path(self, sha256: str) -> Path:
        """Return where a blob is, or would be."""
        return self.root / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """Return a blob's size in bytes, or None where there is no such blob."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def receive(self) -> Iterator[Upload]:
        """Open an upload; what is not finished inside the ``with`` is dropped."""
        descriptor, name = tempfile.mkstemp(dir=self.scratch)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield Upload(stream, path, self)
        finally:
            path.unlink(missing_ok=True)

    def add(self, content: bytes) -> str:
        """Keep some bytes and return their sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        if self.size(sha256) == len(content):
            return sha256
        with self.receive() as upload:
            upload.write(content)
            return upload.finish(sha256)


def empty_folder(folder: Path) -> None:
    """Remove everything in a folder, but not the folder."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
