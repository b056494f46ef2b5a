"""Datasets on the Hugging Face Hub: pin a revision, download it, and publish the sample to the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from askline.clients import hub_client, public_hub
from askline.errors import DatasetError, DatasetNotFoundError
from askline.records import SourceRef, Target
from tasks.fetch_dataset.readers.suffixes import FORMAT_BY_SUFFIX
from tasks.fetch_dataset.sources import data_files

SAMPLE_REPO = "askline/biography"

_TIMEOUT = 15.0


def resolve_hub(repo_id: str, revision: str | None, subset: str | None, *, target: Target) -> SourceRef:
    """Resolve a Hub id and a branch, tag or commit to the commit.

    Raises
    ------
    DatasetNotFoundError
        If the repository or the revision is not there or may not be read, or the Hub does not answer (retryable).
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    public = False
    with _explained(repo_id, revision, target):
        try:
            info = hub_client(target).dataset_info(repo_id, revision=revision, timeout=_TIMEOUT)
        except RepositoryNotFoundError:
            if target.kind != "local":
                raise
            public = True
    if public:
        elsewhere = public_hub(target)
        with _explained(repo_id, revision, elsewhere, before="the embedded Hub does not hold it, "):
            info = hub_client(elsewhere).dataset_info(repo_id, revision=revision, timeout=_TIMEOUT)
    return SourceRef(kind="hub", location=repo_id, revision=info.sha, subset=subset, public=public)


def download_hub(source: SourceRef, *, target: Target, cache: Path) -> Path:
    """Download the data files and the card of a Hub dataset at its commit; returns the folder.

    Raises
    ------
    DatasetNotFoundError
        As :func:`resolve_hub`.
    """
    target = public_hub(target) if source.public else target
    suffixes = sorted({variant for suffix in FORMAT_BY_SUFFIX for variant in (suffix, suffix.upper())})
    with _explained(source.location, source.revision, target):
        folder = hub_client(target).snapshot_download(
            source.location,
            repo_type="dataset",
            revision=source.revision,
            cache_dir=cache,
            allow_patterns=[f"*{suffix}" for suffix in suffixes] + ["README.md"],
        )
    return Path(folder)


def publish_sample(folder: Path, *, target: Target) -> str:
    """Bring the sample's card and data to the embedded Hub, unless its newest commit holds them; returns the commit.

    Raises
    ------
    DatasetNotFoundError
        If the folder is not there, or the Hub does not answer.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    files = {path.relative_to(folder).as_posix(): path for path in [folder / "README.md", *data_files(folder)]}
    if len(files) == 1 or not all(path.is_file() for path in files.values()):
        raise DatasetNotFoundError(
            f'the sample dataset is not in {folder}: "sample" needs a checkout of the project. '
            "Give your own data with --dataset.source."
        )
    hub = hub_client(target)
    with _explained(SAMPLE_REPO, None, target):
        try:
            info = hub.dataset_info(SAMPLE_REPO, files_metadata=True, timeout=_TIMEOUT)
        except RepositoryNotFoundError:
            hub.create_repo(SAMPLE_REPO, repo_type="dataset", private=False, exist_ok=True)
            info = None
        if info is not None and _holds(info.siblings or [], files):
            return str(info.sha)
        commit = hub.upload_folder(
            repo_id=SAMPLE_REPO,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(files),
            delete_patterns="*",
            commit_message="Publish the sample biography",
        )
    return str(commit.oid)


def _holds(siblings: list[Any], files: dict[str, Path]) -> bool:
    """Compare by the hashes that git and LFS keep, so that nothing is downloaded."""
    from huggingface_hub.utils.sha import git_hash

    from askline.store import sha256_of_file

    there = {item.rfilename: item for item in siblings if item.rfilename != ".gitattributes"}
    if set(there) != set(files):
        return False
    for name, path in files.items():
        item = there[name]
        same = item.lfs.sha256 == sha256_of_file(path) if item.lfs else item.blob_id == git_hash(path.read_bytes())
        if not same:
            return False
    return True


@contextmanager
def _explained(repo_id: str, revision: str | None, target: Target, *, before: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises into one clear error each."""
    from huggingface_hub import errors

    transport_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the client that it is built on
    at = before + ("the embedded Hub" if target.kind == "local" else "the Hub")
    try:
        yield
    except DatasetError:
        raise
    except errors.HFValidationError:
        raise DatasetNotFoundError(
            f"{repo_id!r} is not a Hub dataset id: expected owner/name with letters, digits, '-', '_' and '.'"
        ) from None
    except errors.GatedRepoError:
        raise DatasetNotFoundError(
            f"the Hub dataset {repo_id} is gated: ask for access at {target.hub}/datasets/{repo_id}, then set HF_TOKEN "
            "to a token of that account"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DatasetNotFoundError(
            f"there is no dataset {repo_id}: {at} has none of that name, or it is private. "
            f"Check the spelling at {target.hub}/datasets; for a private one set HF_TOKEN to a token that may read it."
        ) from None
    except errors.RevisionNotFoundError:
        raise DatasetNotFoundError(
            f"the Hub dataset {repo_id} has no revision {revision!r}: --dataset.revision takes a branch, a tag or a "
            "commit; leave it out for the newest commit"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise DatasetNotFoundError(
            f"cannot fetch the dataset {repo_id}: {at} is not asked while HF_HUB_OFFLINE is set. "
            "Unset it, or give a local file or folder with --dataset.source."
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise DatasetNotFoundError(
            f"cannot fetch the dataset {repo_id}: {at} answered {status}: {error.server_message or _first_line(error)}"
            + (" Check HF_TOKEN." if status in (401, 403) else ""),
            retryable=status >= 500 or status in (408, 429),
        ) from error
    except (transport_error, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise DatasetNotFoundError(
            f"cannot fetch the dataset {repo_id}: {at} ({target.hub}) cannot be reached: {_first_line(error)}. "
            "Check the network, or give a local file or folder with --dataset.source.",
            retryable=True,
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
