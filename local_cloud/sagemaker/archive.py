"""Fetches a model archive from S3 and unpacks it safely."""

import contextlib
import gzip
import hashlib
import logging
import os
import re
import shutil
import stat
import tarfile
import zlib
from pathlib import Path
from typing import Any

log = logging.getLogger("local_cloud.sagemaker")

#: Disk of a serverless endpoint, in bytes.
MAX_BYTES = 5 * 1024**3
_CHUNK = 1 << 20


class ArchiveError(Exception):
    """The archive cannot be fetched or unpacked; the message becomes the endpoint's FailureReason."""


def parse_s3_url(url: str) -> tuple[str, str]:
    """Split ``s3://bucket/key``.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    match = re.fullmatch(r"s3://([^/]+)/(.+)", url)
    if match is None:
        raise ValueError(f"{url!r} is not of the form s3://bucket/key")
    return match[1], match[2]


def fetch_and_unpack(s3: Any, url: str, folder: Path, most_bytes: int = MAX_BYTES) -> None:
    """Download the archive at ``url`` and unpack it to ``folder``, which appears only when it is complete.

    The length, and the MD5 where the ETag is one, are compared with what S3 says; botocore compares the object's
    checksum where it has one. Members that would land outside the folder, devices and absolute links are refused
    (PEP 706 "data" filter). What is unpacked is made read-only, as in the service's containers. Neither the archive
    nor what it unpacks to may have more than ``most_bytes``.

    Raises
    ------
    ArchiveError
        If any of that fails; nothing is left at ``folder``.
    """
    work = folder.with_name(folder.name + ".part")
    remove_tree(work)
    work.mkdir(parents=True)
    try:
        archive = work / "model.tar.gz"
        _download(s3, url, archive, most_bytes)
        _unpack(archive, work / "model", url, most_bytes)
        archive.unlink()
        _make_read_only(work / "model")
        remove_tree(folder)
        (work / "model").rename(folder)
        folder.chmod(0o555)  # last: a read-only folder cannot be renamed into another one
    except OSError as error:
        raise ArchiveError(f"Failed to store the model data from {url}: {error}") from error
    finally:
        remove_tree(work)


def _download(s3: Any, url: str, path: Path, most_bytes: int) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = parse_s3_url(url)
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        answer = s3.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        length = answer["ContentLength"]
        if length > most_bytes:
            raise ArchiveError(f"The model data at {url} has {length:,} bytes; at most {most_bytes:,} fit on the disk.")
        with path.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    except (ClientError, BotoCoreError) as error:
        raise ArchiveError(f"Failed to download the model data from {url}: {error}") from error
    if size != length:
        raise ArchiveError(f"The download of {url} ended after {size:,} of {length:,} bytes.")
    etag = answer.get("ETag", "").strip('"')
    if re.fullmatch("[0-9a-f]{32}", etag) and "SSEKMSKeyId" not in answer and etag != digest.hexdigest():
        raise ArchiveError(f"The model data at {url} is damaged: its MD5 is {digest.hexdigest()}, S3 says {etag}.")


def _unpack(archive: Path, folder: Path, url: str, most_bytes: int) -> None:
    problem = f"Failed to extract the model data archive from {url}"
    folder.mkdir()
    unpacked = 0
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    unpacked += max(member.size, 0)
                    if unpacked > most_bytes:
                        raise ArchiveError(f"{problem}: it unpacks to more than the {most_bytes:,} bytes of the disk.")
                    tar.extract(member, folder, filter="data")
            while stream.read(_CHUNK):  # tarfile stops at its end mark; the gzip checksum stands behind it
                pass
    except tarfile.FilterError as error:
        raise ArchiveError(f"{problem}: it holds an unsafe member ({error}).") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ArchiveError(f"{problem}: it is not a valid tar.gz file ({error}).") from error


def _make_read_only(folder: Path) -> None:
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222 | 0o444 | (0o111 if path.is_dir() else 0))


def remove_tree(folder: Path) -> None:
    """Delete a folder, read-only parts included; nothing happens if it is not there."""
    for root, _folders, _files in os.walk(folder):
        with contextlib.suppress(OSError):  # somebody else may be deleting there; what stays is told below
            Path(root).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("%s could not be removed completely", folder)
