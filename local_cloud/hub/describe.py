"""Repositories, files and commits in the JSON that the official clients read."""

import hashlib
from typing import Any

from local_cloud.hub.cards import MAX_CARD, card_data, computed_tags
from local_cloud.hub.commits import Commit, FileEntry
from local_cloud.hub.repositories import Repositories, Repository
from local_cloud.hub.storage import lfs_pointer

_ALWAYS = {"id", "_id"}


def card_text(repositories: Repositories, commit: Commit) -> str:
    """Return the card in a commit, or an empty text."""
    entry = commit.files.get("README.md")
    if entry is None or entry.size > MAX_CARD:
        return ""
    return repositories.blobs.path(entry.sha256).read_text("utf-8", errors="replace")


def describe_repository(
    repositories: Repositories,
    repo: Repository,
    commit: Commit,
    *,
    blobs: bool = False,
    siblings: bool = True,
    expand: list[str] | None = None,
) -> dict[str, Any]:
    """Return what ``model_info`` and ``dataset_info`` are made of.

    Parameters
    ----------
    blobs
        Add size and ids to each file.
    siblings
        List the files.
    expand
        Return these properties alone.
    """
    data = card_data(card_text(repositories, commit))
    head = repositories.commit(repo, repositories.resolve(repo, "main"))
    info: dict[str, Any] = {
        "_id": hashlib.sha1(f"{repo.path}{repo.created}".encode(), usedforsecurity=False).hexdigest()[:24],
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.id,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": computed_tags(data),
        "createdAt": repo.created,
        "lastModified": head.date,
        "cardData": data or None,
        "usedStorage": sum(entry.size for entry in commit.files.values()),
    }
    if repo.kind == "models":
        info |= {
            "modelId": repo.id,
            "pipeline_tag": data.get("pipeline_tag"),
            "library_name": data.get("library_name"),
            "model-index": data.get("model-index"),
        }
    if siblings:
        info["siblings"] = [describe_sibling(path, entry, blobs=blobs) for path, entry in commit.files.items()]
    if expand:
        info = {name: value for name, value in info.items() if name in {*expand, *_ALWAYS}}
    return info


def describe_sibling(path: str, entry: FileEntry, *, blobs: bool) -> dict[str, Any]:
    """Return a file as it stands among a repository's siblings."""
    if not blobs:
        return {"rfilename": path}
    sibling: dict[str, Any] = {"rfilename": path, "size": entry.size, "blobId": entry.oid}
    if entry.lfs:
        sibling["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": _pointer_size(entry)}
    return sibling


def describe_file(path: str, entry: FileEntry) -> dict[str, Any]:
    """Return a file as it stands in a tree."""
    item: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.lfs:
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": _pointer_size(entry)}
    return item


def describe_folder(path: str, files: dict[str, FileEntry]) -> dict[str, Any]:
    """Return a folder as it stands in a tree; its id is a hash over what is under it."""
    inside = "".join(f"{entry.oid} {name}\n" for name, entry in sorted(files.items()) if name.startswith(f"{path}/"))
    oid = hashlib.sha1(inside.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def list_tree(files: dict[str, FileEntry], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the folders and files under a folder (``""`` is the root); with ``recursive`` those below too."""
    prefix = f"{folder}/" if folder else ""
    items: dict[str, dict[str, Any]] = {}
    for path, entry in files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            parent = prefix + "/".join(parts[:depth])
            if parent not in items:
                items[parent] = describe_folder(parent, files)
        if recursive or len(parts) == 1:
            items[path] = describe_file(path, entry)
    return [items[path] for path in sorted(items)]


def add_last_commits(repositories: Repositories, repo: Repository, commit: Commit, items: list[dict[str, Any]]) -> None:
    """Add to tree items the commit that last changed each."""
    waiting = {item["path"]: item for item in items}
    history = list(repositories.history(repo, commit.id))
    for newer, older in zip(history, [*history[1:], None], strict=True):
        before = older.files if older else {}
        for path in list(waiting):
            if _part(newer.files, path) != _part(before, path):
                waiting.pop(path)["lastCommit"] = {"id": newer.id, "title": newer.title, "date": newer.date}
        if not waiting:
            return


def _part(files: dict[str, FileEntry], path: str) -> dict[str, FileEntry]:
    if path in files:
        return {path: files[path]}
    return {name: entry for name, entry in files.items() if name.startswith(f"{path}/")}


def describe_commit(commit: Commit) -> dict[str, Any]:
    """Return a commit as it stands in a list of commits."""
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": commit.date,
    }


def _pointer_size(entry: FileEntry) -> int:
    return len(lfs_pointer(entry.sha256, entry.size))
