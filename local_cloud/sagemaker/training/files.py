"""A training container's files: channels from S3, checkpoints to and from S3, the model back to S3."""

import hashlib
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from local_cloud.sagemaker.training.checks import split


class TrainingFilesError(Exception):
    """Files cannot be fetched or stored; the message becomes the job's FailureReason."""


def fetch(s3: Any, url: str, folder: Path) -> int:
    """Download what lies under ``url`` (an object, or all under a prefix) into ``folder``; return how many files.

    Raises
    ------
    TrainingFilesError
        If S3 fails, or a key leads out of the folder.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = split(url)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                key = found["Key"]
                inside = key[len(prefix) :].lstrip("/") if key != prefix else PurePosixPath(key).name
                if not inside or key.endswith("/"):
                    continue
                if ".." in PurePosixPath(inside).parts:
                    raise TrainingFilesError(f"The key {key} leads out of its folder.")
                path = folder / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, key, str(path))
                count += 1
    except (ClientError, BotoCoreError, OSError) as error:
        raise TrainingFilesError(f"ClientError: Data download failed from {url}: {error}") from error
    return count


class Checkpoints:
    """Copies a folder to S3 as it changes, and back."""

    def __init__(self, s3: Any, url: str, folder: Path) -> None:
        self._s3 = s3
        self._url = url
        self._folder = folder
        self._known: dict[str, tuple[int, int]] = {}

    def restore(self) -> None:
        """Bring back what an earlier container of this job, or of another with the same place, had saved."""
        fetch(self._s3, self._url, self._folder)
        self._known = self._seen()

    def save(self) -> None:
        """Upload what is new or has changed, and delete what is gone. What changes meanwhile is left to the next call.

        Raises
        ------
        TrainingFilesError
            If S3 fails.
        """
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, prefix = split(self._url)
        seen = self._seen()
        try:
            for name in sorted(name for name, facts in seen.items() if self._known.get(name) != facts):
                try:
                    self._s3.upload_file(str(self._folder / name), bucket, _key(prefix, name))
                    self._known[name] = seen[name]
                except FileNotFoundError:
                    continue
                except (S3UploadFailedError, BotoCoreError):
                    if self._seen().get(name) == seen[name]:  # else it was written to while it was read
                        raise
            for name in [name for name in self._known if name not in seen]:
                self._s3.delete_object(Bucket=bucket, Key=_key(prefix, name))
                del self._known[name]
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            raise TrainingFilesError(f"Checkpoints could not be written to {self._url}: {error}") from error

    def _seen(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink():
                    facts = path.stat()
                    found[path.relative_to(self._folder).as_posix()] = (facts.st_size, facts.st_mtime_ns)
            except OSError:  # removed while we looked
                continue
        return found


def store_archive(s3: Any, folder: Path, url: str) -> bool:
    """Pack a folder and upload it; return False where it is empty. Links are packed as links, as in the service.

    Raises
    ------
    TrainingFilesError
        If the disk is full or S3 fails.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError

    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    archive = folder.with_name(folder.name + ".tar.gz")
    bucket, key = split(url)
    try:
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        s3.upload_file(str(archive), bucket, key, ExtraArgs={"Metadata": {"sha256": digest}})
    except (OSError, ClientError, BotoCoreError, S3UploadFailedError) as error:
        raise TrainingFilesError(f"The output could not be written to {url}: {error}") from error
    finally:
        archive.unlink(missing_ok=True)
    return True


def _key(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
