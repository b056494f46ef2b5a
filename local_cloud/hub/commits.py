"""Commits: an immutable list of files with a parent, and the changes that lead from one to the next."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.storage import BlobStore, git_oid, lfs_pointer

SHA256 = re.compile(r"[0-9a-f]{64}")
FORBIDDEN_NAMES = {"", ".", "..", ".git"}


@dataclass(frozen=True)
class FileEntry:
    """A file in a commit; ``oid`` is git's id of it (of its pointer, if it is an LFS file)."""

    oid: str
    size: int
    sha256: str
    lfs: bool

    @property
    def etag(self) -> str:
        """The id by which clients cache the file: sha256 of an LFS file, git's id of another."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of a repository's files."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, FileEntry]

    def to_json(self) -> bytes:
        """Return the commit as it is kept on disk."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Commit":
        """Read a commit from disk; anything that is not one raises ValueError, KeyError or TypeError."""
        values = json.loads(content)
        files = {path: FileEntry(**entry) for path, entry in values.pop("files").items()}
        commit = cls(**values, files=files)
        if commit.id != commit_id(commit.parent, commit.title, commit.message, commit.author, files):
            raise ValueError("its content does not belong to its id")
        return commit


def commit_id(parent: str | None, title: str, message: str, author: str, files: dict[str, FileEntry]) -> str:
    """Return 40 hex digits derived from a commit's content and its parent.

    The date is left out on purpose: the same push onto the same parent has the same id on every machine.
    """
    content = [parent, title, message, author, {path: asdict(entry) for path, entry in files.items()}]
    canonical = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha1(canonical.encode(), usedforsecurity=False).hexdigest()


def check_path(path: object) -> str:
    """Return a path inside a repository if it is a sane relative one.

    Raises
    ------
    RefusedError
        400 for an absolute path, ``..``, an empty part, ``.git`` or a control character.
    """
    if not isinstance(path, str) or any(part in FORBIDDEN_NAMES for part in path.split("/")):
        raise RefusedError(400, f"{path!r} is not a path that a repository can hold")
    if any(ord(character) < 32 or ord(character) == 127 for character in path) or len(path.encode()) > 1000:
        raise RefusedError(400, f"{path!r} holds a control character or is longer than 1000 bytes")
    return path


@dataclass(frozen=True)
class Change:
    """A commit as a client asks for it: a header and a list of operations."""

    title: str
    message: str
    parent: str | None
    operations: list[tuple[str, dict[str, Any]]]


def parse_change(body: bytes) -> Change:
    """Read the newline-delimited JSON that clients post.

    Raises
    ------
    RefusedError
        400 if it is not that.
    """
    header: dict[str, Any] | None = None
    operations: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(body.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if not isinstance(key, str) or not isinstance(value, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise RefusedError(400, f"line {number} of the commit is not JSON with a key and a value") from None
        if key == "header":
            header = value
        else:
            operations.append((key, value))
    if header is None or not str(header.get("summary", "")).strip():
        raise RefusedError(400, "the commit has no header with a summary")
    return Change(
        title=str(header["summary"]),
        message=str(header.get("description") or ""),
        parent=header.get("parentCommit"),
        operations=operations,
    )


def apply_change(change: Change, files: dict[str, FileEntry], blobs: BlobStore) -> dict[str, FileEntry]:
    """Return the files after a change, with the small files' bytes already kept in ``blobs``.

    Raises
    ------
    RefusedError
        400 or 404 if an operation makes no sense; the repository is untouched then.
    """
    result = dict(files)
    for key, value in change.operations:
        path = check_path(value["path"].rstrip("/") if isinstance(value.get("path"), str) else value.get("path"))
        if key == "file":
            result[path] = _small_file(path, value, blobs)
        elif key == "lfsFile":
            result[path] = _large_file(path, value, blobs)
        elif key == "deletedFile":
            if path not in result:
                raise RefusedError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del result[path]
        elif key == "deletedFolder":
            inside = [name for name in result if name.startswith(f"{path}/")]
            if not inside:
                raise RefusedError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
            for name in inside:
                del result[name]
        else:
            raise RefusedError(400, f"the operation {key!r} is not one of file, lfsFile, deletedFile, deletedFolder")
    _refuse_a_file_that_is_also_a_folder(result)
    return dict(sorted(result.items()))


def _small_file(path: str, value: dict[str, Any], blobs: BlobStore) -> FileEntry:
    content = value.get("content")
    if not isinstance(content, str):
        raise RefusedError(400, f"{path}: the file has no content")
    if value.get("encoding", "utf-8") == "base64":
        try:
            data = base64.b64decode(content, validate=True)
        except binascii.Error:
            raise RefusedError(400, f"{path}: the content is not base64") from None
    else:
        data = content.encode()
    return FileEntry(oid=git_oid(data), size=len(data), sha256=blobs.add(data), lfs=False)


def _large_file(path: str, value: dict[str, Any], blobs: BlobStore) -> FileEntry:
    sha256 = value.get("oid")
    if value.get("algo", "sha256") != "sha256" or not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise RefusedError(400, f"{path}: an LFS file is named by its sha256")
    size = blobs.size(sha256)
    if size is None:
        raise RefusedError(400, f"{path}: its content (sha256 {sha256}) was not uploaded before the commit")
    if value.get("size") not in (None, size):
        raise RefusedError(400, f"{path}: its size is {size} bytes, not {value['size']}")
    return FileEntry(oid=git_oid(lfs_pointer(sha256, size)), size=size, sha256=sha256, lfs=True)


def _refuse_a_file_that_is_also_a_folder(paths: Iterable[str]) -> None:
    names = set(paths)
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in names:
                raise RefusedError(400, f"{'/'.join(parts[:depth])} cannot be a file and a folder at once")
