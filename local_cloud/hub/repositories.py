"""Repositories on disk: their settings, commits, branches and tags.

The state folder holds::

    hub.json                              format of the folder
    blobs/ab/abcd…                        contents, by sha256
    repos/models/<owner>/<name>/repo.json settings (repos/datasets/… for datasets)
                              /commits/<id>.json
                              /refs/heads/<branch>, refs/tags/<tag>: a commit id each
    scratch/                              what is being written; emptied at start

Commits and blobs never change. A ref is one small file that is replaced whole, last: a commit that was answered is
there after a crash, one that was not has left nothing but unused blobs.
"""

import contextlib
import datetime
import json
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from local_cloud.hub.commits import Change, Commit, FileEntry, apply_change, commit_id
from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.storage import BlobStore, make_folder, sync_folder, write_whole

Kind = Literal["models", "datasets"]
KINDS: tuple[Kind, ...] = ("models", "datasets")
USER = "askline"
DEFAULT_BRANCH = "main"
FORMAT = 1
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_FULL_ID = re.compile(r"[0-9a-f]{40}")
_SHORT_ID = re.compile(r"[0-9a-f]{7,40}")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)")
#: Owners that would hide a route of the Hub, and names that would hide one of its verbs.
_RESERVED_OWNERS = {"api", "datasets", "models", "spaces", "_askline", "_lfs"}
_RESERVED_NAMES = {"refs", "settings", "auth-check"}


def now() -> str:
    """Return the time as the Hub writes it, in UTC with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Repository:
    """A repository and its settings."""

    kind: Kind
    id: str
    private: bool
    created: str
    folder: Path

    @property
    def path(self) -> str:
        """Where its pages and files are served, without the leading slash."""
        return self.id if self.kind == "models" else f"datasets/{self.id}"


def split_id(repo_id: str) -> tuple[str, str]:
    """Return owner and name; an id without an owner belongs to the local user.

    Raises
    ------
    RefusedError
        400 if it is not ``name`` or ``owner/name`` in the Hub's characters.
    """
    owner, _, name = repo_id.rpartition("/")
    owner = owner or USER
    if not _NAME.fullmatch(owner) or not _NAME.fullmatch(name) or name.endswith(".git"):
        raise RefusedError(
            400,
            f"{repo_id!r} is not a repository id: owner/name of letters, digits, - _ and . (at most 96 each, "
            "no -- or .., not beginning or ending with - or ., not ending with .git)",
        )
    if owner in _RESERVED_OWNERS or name in _RESERVED_NAMES:
        raise RefusedError(400, f"{repo_id!r} uses a name that the Hub keeps for itself")
    return owner, name


def check_ref_name(name: str) -> str:
    """Return a branch or tag name if git would take it.

    Raises
    ------
    RefusedError
        400 if git would not, or if it looks like a commit id.
    """
    bad = _BAD_IN_REF.search(name) or name.startswith(("/", ".", "-", "refs/")) or name.endswith(("/", "."))
    if not name or bad or name in {"@", "HEAD"} or _FULL_ID.fullmatch(name) or len(quote(name, safe="")) > 200:
        raise RefusedError(400, f"{name!r} is not a valid name for a branch or tag")
    return name


class Repositories:
    """Every repository of a state folder; safe to use from several threads of one process.

    Parameters
    ----------
    root
        The state folder, prepared by :func:`local_cloud.hub.state.open_state`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "scratch"
        self.blobs = BlobStore(root / "blobs", self.scratch)
        self._guard = threading.Lock()
        self._locks: defaultdict[Path, threading.RLock] = defaultdict(threading.RLock)
        self._commits: dict[Path, Commit] = {}

    # -- repositories ------------------------------------------------------------------------------------------------

    def all(self, kind: Kind) -> Iterator[Repository]:
        """Yield the repositories of one kind, by id."""
        for settings in sorted((self.root / "repos" / kind).glob("*/*/repo.json")):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                yield self._read(kind, settings.parent)

    def find(self, kind: Kind, repo_id: str) -> Repository | None:
        """Return a repository, or None where there is none."""
        try:
            owner, name = split_id(repo_id)
            return self._read(kind, self.root / "repos" / kind / owner / name)
        except (RefusedError, FileNotFoundError):
            return None

    def _read(self, kind: Kind, folder: Path) -> Repository:
        settings = json.loads((folder / "repo.json").read_bytes())
        return Repository(
            kind=kind,
            id=f"{folder.parent.name}/{folder.name}",
            private=settings["private"],
            created=settings["created"],
            folder=folder,
        )

    def create(self, kind: Kind, repo_id: str, *, private: bool) -> tuple[Repository, bool]:
        """Make a repository with one empty commit; say too whether it is new.

        The whole folder is prepared aside and renamed, so that there is never half a repository.
        """
        owner, name = split_id(repo_id)
        final = self.root / "repos" / kind / owner / name
        with self.lock(final):
            if (final / "repo.json").exists():
                return self._read(kind, final), False
            draft = self.scratch / f"new-{kind}-{owner}-{name}"
            shutil.rmtree(draft, ignore_errors=True)
            first = self._commit(None, "initial commit", "", {})
            self._save_commit(draft, first)
            self._write_ref(draft, "heads", DEFAULT_BRANCH, first.id)
            self._save_settings(draft, private=private, created=now())
            make_folder(final.parent)
            draft.replace(final)
            sync_folder(final.parent)
            return self._read(kind, final), True

    def set_private(self, repo: Repository, private: bool) -> None:
        """Change who may read a repository."""
        with self.writing(repo):
            self._save_settings(repo.folder, private=private, created=repo.created)

    def delete(self, repo: Repository) -> None:
        """Remove a repository. Its blobs stay, others may use them."""
        with self.writing(repo):
            grave = self.scratch / f"deleted-{os.urandom(8).hex()}"
            repo.folder.replace(grave)
            sync_folder(repo.folder.parent)
            for path in list(self._commits):
                if path.is_relative_to(repo.folder):
                    self._commits.pop(path, None)
        shutil.rmtree(grave, ignore_errors=True)

    def move(self, repo: Repository, new_id: str) -> Repository:
        """Give a repository another id.

        Raises
        ------
        RefusedError
            409 if that id is taken.
        """
        owner, name = split_id(new_id)
        final = self.root / "repos" / repo.kind / owner / name
        first, second = sorted([repo.folder, final])
        with self.lock(first), self.lock(second):
            if not repo.folder.exists():
                raise RefusedError(404, f"{repo.id} has been deleted", "RepoNotFound")
            if final.exists():
                raise RefusedError(409, f"{new_id} exists already")
            make_folder(final.parent)
            repo.folder.replace(final)
            sync_folder(final.parent)
            sync_folder(repo.folder.parent)
        return self._read(repo.kind, final)

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Hold a repository's folder, there or not, against other writers."""
        with self._guard:
            lock = self._locks[folder]
        with lock:
            yield

    @contextlib.contextmanager
    def writing(self, repo: Repository) -> Iterator[None]:
        """Hold a repository for writing; one that was deleted meanwhile is not written into again."""
        with self.lock(repo.folder):
            if not (repo.folder / "repo.json").exists():
                raise RefusedError(404, f"{repo.id} has been deleted", "RepoNotFound")
            yield

    def _save_settings(self, folder: Path, *, private: bool, created: str) -> None:
        content = json.dumps({"private": private, "created": created}).encode()
        write_whole(folder / "repo.json", content, self.scratch)

    # -- commits -----------------------------------------------------------------------------------------------------

    def commit(self, repo: Repository, commit_id: str) -> Commit:
        """Return a commit that is known to be there."""
        path = repo.folder / "commits" / f"{commit_id}.json"
        if path not in self._commits:
            self._commits[path] = Commit.from_json(path.read_bytes())
        return self._commits[path]

    def history(self, repo: Repository, commit_id: str) -> Iterator[Commit]:
        """Yield a commit and its ancestors, newest first."""
        current: str | None = commit_id
        while current is not None:
            commit = self.commit(repo, current)
            yield commit
            current = commit.parent

    def apply(self, repo: Repository, branch: str, change: Change) -> Commit:
        """Put a commit on a branch.

        Raises
        ------
        RefusedError
            404 for an unknown branch, 412 if the branch has moved on from the parent that the client named, and
            what :func:`local_cloud.hub.commits.apply_change` raises.
        """
        with self.writing(repo):
            head = self.refs(repo, "heads").get(branch.removeprefix("refs/heads/"))
            if head is None:
                raise RefusedError(404, f"{branch!r} is not a branch of {repo.id}", "RevisionNotFound")
            if change.parent is not None and not _same_commit(head, change.parent):
                raise RefusedError(412, f"A commit has happened since. Please refresh and try again. (head is {head})")
            files = apply_change(change, self.commit(repo, head).files, self.blobs)
            commit = self._commit(head, change.title, change.message, files)
            self._save_commit(repo.folder, commit)
            self._write_ref(repo.folder, "heads", branch.removeprefix("refs/heads/"), commit.id)
            return commit

    def squash(self, repo: Repository, branch: str, message: str) -> Commit:
        """Replace a branch's history with one commit of its files."""
        with self.writing(repo):
            head = self.refs(repo, "heads").get(branch)
            if head is None:
                raise RefusedError(404, f"{branch!r} is not a branch of {repo.id}", "RevisionNotFound")
            commit = self._commit(None, message, "", self.commit(repo, head).files)
            self._save_commit(repo.folder, commit)
            self._write_ref(repo.folder, "heads", branch, commit.id)
            return commit

    def _commit(self, parent: str | None, title: str, message: str, files: dict[str, FileEntry]) -> Commit:
        identifier = commit_id(parent, title, message, USER, files)
        return Commit(identifier, parent, title, message, USER, now(), files)

    def _save_commit(self, folder: Path, commit: Commit) -> None:
        path = folder / "commits" / f"{commit.id}.json"
        if not path.exists():
            write_whole(path, commit.to_json(), self.scratch)

    # -- branches and tags -------------------------------------------------------------------------------------------

    def refs(self, repo: Repository, group: Literal["heads", "tags"]) -> dict[str, str]:
        """Return commit ids by branch or tag name."""
        found: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in sorted((repo.folder / "refs" / group).iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    found[unquote(path.name)] = path.read_text().strip()
        return found

    def _write_ref(self, folder: Path, group: str, name: str, commit: str) -> None:
        write_whole(folder / "refs" / group / quote(name, safe=""), f"{commit}\n".encode(), self.scratch)

    def add_ref(self, repo: Repository, group: Literal["heads", "tags"], name: str, commit: str) -> None:
        """Create a branch or tag.

        Raises
        ------
        RefusedError
            409 if it exists.
        """
        check_ref_name(name)
        with self.writing(repo):
            if name in self.refs(repo, group):
                word = "branch" if group == "heads" else "tag"
                raise RefusedError(409, f"the {word} {name!r} exists already in {repo.id}")
            self._write_ref(repo.folder, group, name, commit)

    def remove_ref(self, repo: Repository, group: Literal["heads", "tags"], name: str) -> None:
        """Delete a branch or tag; the commits stay.

        Raises
        ------
        RefusedError
            403 for the default branch, 404 for one that is not there.
        """
        if group == "heads" and name == DEFAULT_BRANCH:
            raise RefusedError(403, f"{DEFAULT_BRANCH} cannot be deleted")
        with self.writing(repo):
            try:
                (repo.folder / "refs" / group / quote(name, safe="")).unlink()
            except FileNotFoundError:
                word = "branch" if group == "heads" else "tag"
                raise RefusedError(404, f"{repo.id} has no {word} {name!r}", "RevisionNotFound") from None
            sync_folder(repo.folder / "refs" / group)

    def resolve(self, repo: Repository, revision: str) -> str:
        """Return the commit id that a branch, tag, full or shortened commit id means.

        Raises
        ------
        RefusedError
            404 with the code RevisionNotFound.
        """
        heads, tags = self.refs(repo, "heads"), self.refs(repo, "tags")
        for names, prefix in ((heads, "refs/heads/"), (tags, "refs/tags/")):
            if (name := revision.removeprefix(prefix)) in names:
                return names[name]
        if _SHORT_ID.fullmatch(revision):
            found = [path.stem for path in (repo.folder / "commits").glob(f"{revision}*.json")]
            if len(found) == 1:
                return found[0]
        raise RefusedError(404, f"{repo.id} has no branch, tag or commit {revision!r}", "RevisionNotFound")


def _same_commit(head: str, named: object) -> bool:
    return isinstance(named, str) and bool(_SHORT_ID.fullmatch(named)) and head.startswith(named)
