"""A dataset in S3: pin an object or a prefix, and bring it to this machine."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from askline.clients import aws_client
from askline.errors import DatasetError, DatasetFormatError, DatasetNotFoundError
from askline.records import SourceRef, Target
from tasks.fetch_dataset.cache import MAX_DOWNLOAD_BYTES, changed, temporary
from tasks.fetch_dataset.readers.suffixes import FORMAT_BY_SUFFIX


def resolve_s3(uri: str, subset: str | None, *, target: Target, client: Any = None) -> SourceRef:
    """Resolve an object to its version or ETag, or everything under a prefix to a hash over keys and ETags.

    Parameters
    ----------
    uri
        ``s3://bucket/key`` or ``s3://bucket/prefix/``.
    subset
        A sub-folder of the prefix.
    target
        Where S3 is.
    client
        An S3 client; default one for the target.

    Raises
    ------
    DatasetNotFoundError
        If the bucket or the object is not there, may not be read, or S3 does not answer (retryable).
    """
    bucket, key = _split_uri(uri)
    s3 = client or aws_client(target, "s3")
    with _explained_s3(uri):
        head = None if not key or key.endswith("/") else _head(s3, bucket, key)
        if head is not None:
            version = head.get("VersionId")
            revision = version if version and version != "null" else head["ETag"].strip('"')
        else:
            revision = _listing_sha256(_list(s3, bucket, key, uri))
    return SourceRef(kind="s3", location=uri, revision=revision, subset=subset)


def download_s3(source: SourceRef, *, target: Target, cache: Path, client: Any = None) -> Path:
    """Return a local copy of a resolved object, or the folder with everything under a resolved prefix.

    Raises
    ------
    DatasetNotFoundError
        As :func:`resolve_s3`; also if the content has changed since (retryable).
    """
    bucket, key = _split_uri(source.location)
    s3 = client or aws_client(target, "s3")
    place = cache / "s3" / hashlib.sha256(f"{source.location}\n{source.revision}".encode()).hexdigest()
    with _explained_s3(source.location):
        head = None if not key or key.endswith("/") else _head(s3, bucket, key)
        if head is not None:
            version = head.get("VersionId")
            if version and version != "null":
                pin = {"VersionId": source.revision}
            elif head["ETag"].strip('"') != source.revision:
                raise changed(source.location)
            else:
                pin = {"IfMatch": head["ETag"]}
            path = place / PurePosixPath(key).name
            if not path.is_file():
                _fetch_object(s3, bucket, key, path, pin)
            return path
        objects = _list(s3, bucket, key, source.location)
        if _listing_sha256(objects) != source.revision:
            raise changed(source.location)
        prefix = key if not key or key.endswith("/") else key + "/"
        for item in objects:
            path = place / _inside(item["Key"].removeprefix(prefix), source.location)
            if not path.is_file() or path.stat().st_size != item["Size"]:
                _fetch_object(s3, bucket, item["Key"], path, {"IfMatch": item["ETag"]})
    return place


def _split_uri(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise DatasetNotFoundError(f"{uri} names no bucket: expected s3://bucket/key")
    return bucket, key


def _head(s3: Any, bucket: str, key: str) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    try:
        head: dict[str, Any] = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    return head


def _list(s3: Any, bucket: str, key: str, uri: str) -> list[dict[str, Any]]:
    prefix = key if not key or key.endswith("/") else key + "/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [item for page in pages for item in page.get("Contents", [])]
    wanted = [
        item
        for item in objects
        if PurePosixPath(item["Key"]).suffix.lower() in FORMAT_BY_SUFFIX or item["Key"] == f"{prefix}README.md"
    ]
    if not wanted:
        there = f"{len(objects)} objects under it, none of them a data file" if objects else "nothing there"
        raise DatasetNotFoundError(f"{uri}: {there}. Check the bucket, the key and the region.")
    size = sum(item["Size"] for item in wanted)
    if size > MAX_DOWNLOAD_BYTES:
        raise DatasetFormatError(f"{uri} holds {size:,} bytes; askline downloads at most {MAX_DOWNLOAD_BYTES:,}")
    return sorted(wanted, key=lambda item: str(item["Key"]))


def _listing_sha256(objects: list[dict[str, Any]]) -> str:
    lines = "".join(f"{item['Key']}  {item['ETag']}\n" for item in objects)
    return hashlib.sha256(lines.encode()).hexdigest()


def _inside(relative: str, uri: str) -> Path:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetFormatError(f"{uri}: the key {relative!r} would leave the folder it is downloaded to")
    return Path(*path.parts)


def _fetch_object(s3: Any, bucket: str, key: str, path: Path, pin: dict[str, str]) -> None:
    answer = s3.get_object(Bucket=bucket, Key=key, **pin)
    if answer["ContentLength"] > MAX_DOWNLOAD_BYTES:
        raise DatasetFormatError(
            f"s3://{bucket}/{key} has {answer['ContentLength']:,} bytes; at most {MAX_DOWNLOAD_BYTES:,} are downloaded"
        )
    with temporary(path.parent) as (stream, name):
        for block in answer["Body"].iter_chunks(1 << 20):
            stream.write(block)
        stream.close()
        name.replace(path)


@contextmanager
def _explained_s3(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

    try:
        yield
    except DatasetError:
        raise
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("412", "PreconditionFailed"):
            raise changed(uri) from error
        if code == "NoSuchBucket":
            raise DatasetNotFoundError(f"{uri}: there is no such bucket") from error
        if status == 403 or code in ("403", "AccessDenied", "Forbidden"):
            raise DatasetNotFoundError(
                f"{uri} may not be read with these credentials, which need s3:GetObject and s3:ListBucket"
            ) from error
        busy = status >= 500 or status == 429 or code in ("SlowDown", "Throttling")
        raise DatasetNotFoundError(f"{uri}: S3 answered {code}: {error}", retryable=busy) from error
    except NoCredentialsError as error:
        raise DatasetNotFoundError(f"{uri}: no AWS credentials; run `aws configure` or set AWS_PROFILE") from error
    except (ConnectionError, HTTPClientError) as error:
        raise DatasetNotFoundError(f"cannot reach S3 for {uri}: {error}", retryable=True) from error
    except BotoCoreError as error:
        raise DatasetNotFoundError(f"{uri}: {error}") from error
