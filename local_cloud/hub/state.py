"""Opening the state folder: made if it is new, locked against a second server, and checked file by file."""

import fcntl
import json
import re
from pathlib import Path
from typing import IO

from askline.errors import LocalCloudError
from local_cloud.hub.commits import Commit
from local_cloud.hub.repositories import FORMAT, KINDS, Kind, Repositories, Repository
from local_cloud.hub.storage import empty_folder, make_folder, write_whole

_ADVICE = "Restore it from a copy, or delete the state folder to start with an empty Hub."
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


def open_state(root: Path) -> tuple[Repositories, IO[str]]:
    """Return the repositories of a state folder, and the lock to hold while they are served.

    Everything is read once: settings, refs, every commit against its id, and the presence and size of every blob.

    Raises
    ------
    LocalCloudError
        If the folder cannot be written, is in use, is something else's, or a file in it is damaged; the message
        names the file.
    """
    root = root.resolve()
    try:
        make_folder(root)
        lock = (root / "lock").open("w")
    except OSError as error:
        raise LocalCloudError(
            f"the Hub's state folder {root} cannot be used: {error.strerror}. Choose a folder that can be written."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise LocalCloudError(
            f"another Hub is using the state folder {root}. Stop it, or choose another folder."
        ) from error
    try:
        repositories = _prepare(root)
        check_state(repositories)
    except BaseException:
        lock.close()
        raise
    return repositories, lock


def _prepare(root: Path) -> Repositories:
    marker = root / "hub.json"
    for name in ("scratch", "blobs", *(f"repos/{kind}" for kind in KINDS)):
        if (root / name).exists() and not (root / name).is_dir():
            raise LocalCloudError(f"{root / name} must be a folder of the Hub's state, but is a file. {_ADVICE}")
    if marker.exists():
        try:
            found = json.loads(marker.read_bytes())["format"]
        except (ValueError, KeyError, TypeError, OSError):
            raise _damaged(marker, "it is not the marker that the Hub writes") from None
        if found != FORMAT:
            raise LocalCloudError(
                f"{marker} says format {found!r}; this version of askline reads format {FORMAT}. {_ADVICE}"
            )
    elif any(path.name not in {"lock", "scratch"} for path in root.iterdir()):
        raise LocalCloudError(
            f"{root} is not empty and has no hub.json, so it is not the state of an embedded Hub. "
            "Choose another folder with --state, or an empty one."
        )
    for name in ("scratch", "blobs", *(f"repos/{kind}" for kind in KINDS)):
        make_folder(root / name)
    empty_folder(root / "scratch")
    if not marker.exists():
        write_whole(marker, json.dumps({"format": FORMAT}).encode(), root / "scratch")
    return Repositories(root)


def check_state(repositories: Repositories) -> None:
    """Read every repository and raise at the first damaged file.

    Raises
    ------
    LocalCloudError
        Naming the file and what is wrong with it.
    """
    for kind in KINDS:
        for folder in sorted((repositories.root / "repos" / kind).glob("*/*")):
            _check_repository(repositories, kind, folder)


def _check_repository(repositories: Repositories, kind: Kind, folder: Path) -> None:
    settings = folder / "repo.json"
    try:
        values = json.loads(settings.read_bytes())
        repo = Repository(kind, f"{folder.parent.name}/{folder.name}", values["private"], values["created"], folder)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(settings, f"it does not hold a repository's settings ({type(error).__name__})") from None
    commits = {path.stem: _read_commit(path) for path in sorted((folder / "commits").glob("*.json"))}
    for identifier, commit in commits.items():
        path = folder / "commits" / f"{identifier}.json"
        if commit.parent is not None and commit.parent not in commits:
            raise _damaged(
                folder / "commits" / f"{commit.parent}.json", f"it is missing, but {path.name} comes after it"
            )
        for name, entry in commit.files.items():
            blob = repositories.blobs.path(entry.sha256)
            if (size := repositories.blobs.size(entry.sha256)) != entry.size:
                what = "it is missing" if size is None else f"it has {size} bytes instead of {entry.size}"
                raise _damaged(blob, f"{what} ({name} in {repo.id})")
    for group in ("heads", "tags"):
        for path in sorted((folder / "refs" / group).glob("*")):
            target = path.read_text(errors="replace").strip()
            if not _COMMIT_ID.fullmatch(target) or target not in commits:
                raise _damaged(path, "it does not name a commit of its repository")
    if not (folder / "refs" / "heads" / "main").exists():
        raise _damaged(folder / "refs" / "heads" / "main", "it is missing")


def _read_commit(path: Path) -> Commit:
    try:
        commit = Commit.from_json(path.read_bytes())
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise _damaged(path, f"it is not a whole commit ({reason})") from None
    if commit.id != path.stem:
        raise _damaged(path, f"it holds the commit {commit.id}")
    return commit


def _damaged(path: Path, reason: str) -> LocalCloudError:
    return LocalCloudError(f"the Hub's state is damaged at {path}: {reason}. {_ADVICE}")
