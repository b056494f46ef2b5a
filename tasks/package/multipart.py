"""A large file to S3 in parts that S3 verifies; an upload that was cut goes on from the parts that S3 holds.

Whatever ended the last attempt (a lost connection, ``kill -9``), S3 keeps the finished parts. They are found again by
the key, compared by number, size and sha256 with the file, and not sent a second time.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from tasks.aws.errors import code_of

#: Bytes of a part, the last one aside. S3 wants 5 MiB to 5 GiB, and at most 10,000 parts: 80 GB here.
PART_BYTES = 8 * 2**20
#: Parts that are under way together; each is held in memory.
TOGETHER = 4


class S3Object(NamedTuple):
    """Where the file goes."""

    bucket: str
    key: str
    account: str
    """The account that must own the bucket."""

    def named(self) -> dict[str, str]:
        """Return the arguments that every call takes."""
        return {"Bucket": self.bucket, "Key": self.key, "ExpectedBucketOwner": self.account}


def part_checksums(path: Path) -> list[str]:
    """Return the sha256 of each part, base64 as S3 has it."""
    count = -(-path.stat().st_size // PART_BYTES)
    return [_checksum(_read(path, number)) for number in range(1, count + 1)]


def send_in_parts(
    s3: Any,
    path: Path,
    at: S3Object,
    *,
    facts: Mapping[str, Any],
    condition: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Send what S3 does not hold yet, and have it put together.

    Parameters
    ----------
    facts
        Content type, metadata and tags of the object, for a new upload.
    condition
        ``IfNoneMatch`` or ``IfMatch``: what must hold for the object to be written.
    progress
        Called with the bytes that S3 holds, from this thread.

    Raises
    ------
    ClientError
        ``PreconditionFailed`` where the condition does not hold, ``NoSuchUpload`` where another process completed or
        aborted this upload meanwhile, ``BadDigest`` where bytes changed on the way.
    """
    checksums = part_checksums(path)
    upload, tags = _resume(s3, path, at, checksums)
    if upload is None:
        upload = s3.create_multipart_upload(**at.named(), **facts, ChecksumAlgorithm="SHA256")["UploadId"]
    held = sum(_size(path, number) for number in tags)
    progress(held)
    missing = [number for number in range(1, len(checksums) + 1) if number not in tags]

    def send(number: int) -> str:
        content = _read(path, number)
        answer = s3.upload_part(
            **at.named(),
            UploadId=upload,
            PartNumber=number,
            Body=content,
            ChecksumSHA256=checksums[number - 1],
        )
        return str(answer["ETag"])

    with ThreadPoolExecutor(TOGETHER, thread_name_prefix="askline-upload") as pool:
        under_way = {pool.submit(send, number): number for number in missing}
        try:
            for done in as_completed(under_way):
                number = under_way[done]
                tags[number] = done.result()
                held += _size(path, number)
                progress(held)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    parts = [
        {"PartNumber": number, "ETag": tags[number], "ChecksumSHA256": checksum}
        for number, checksum in enumerate(checksums, start=1)
    ]
    s3.complete_multipart_upload(**at.named(), UploadId=upload, MultipartUpload={"Parts": parts}, **condition)


def abort_leftovers(s3: Any, at: S3Object) -> None:
    """Abort every upload of the key that was begun and not finished: its parts are stored, and paid for."""
    for upload in _uploads(s3, at):
        _abort(s3, at, upload["UploadId"])


def _resume(s3: Any, path: Path, at: S3Object, checksums: list[str]) -> tuple[str | None, dict[int, str]]:
    """Return the upload that has most of this file, with the tags of its good parts by number; abort the others."""
    best: tuple[str | None, dict[int, str]] = (None, {})
    for upload in _uploads(s3, at):
        name = upload["UploadId"]
        good = {
            part["PartNumber"]: part["ETag"]
            for part in _parts(s3, at, name)
            if part["PartNumber"] <= len(checksums)
            and part["Size"] == _size(path, part["PartNumber"])
            and part.get("ChecksumSHA256") == checksums[part["PartNumber"] - 1]
        }
        # An upload without a good part can be a run beside this one that has only just begun; but parts with a
        # sha256 are refused unless it was begun for them.
        usable = bool(good) or upload.get("ChecksumAlgorithm") == "SHA256"
        if usable and (best[0] is None or len(good) > len(best[1])):
            name, best = best[0], (name, good)
        if name is not None:
            _abort(s3, at, name)
    return best


def _uploads(s3: Any, at: S3Object) -> Iterator[dict[str, Any]]:
    from botocore.exceptions import ClientError

    pages = s3.get_paginator("list_multipart_uploads").paginate(
        Bucket=at.bucket, Prefix=at.key, ExpectedBucketOwner=at.account
    )
    try:
        found = [upload for page in pages for upload in page.get("Uploads", [])]
    except ClientError as error:
        if code_of(error) != "AccessDenied":  # s3:ListBucketMultipartUploads saves time, no more
            raise
        found = []
    yield from (upload for upload in found if upload["Key"] == at.key)


def _parts(s3: Any, at: S3Object, upload: str) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError

    try:
        pages = s3.get_paginator("list_parts").paginate(**at.named(), UploadId=upload)
        return [part for page in pages for part in page.get("Parts", [])]
    except ClientError as error:
        if code_of(error) not in ("AccessDenied", "NoSuchUpload"):
            raise
        return []


def _abort(s3: Any, at: S3Object, upload: str) -> None:
    from botocore.exceptions import ClientError

    try:
        s3.abort_multipart_upload(**at.named(), UploadId=upload)
    except ClientError as error:
        if code_of(error) not in ("AccessDenied", "NoSuchUpload"):
            raise


def _size(path: Path, number: int) -> int:
    return min(PART_BYTES, path.stat().st_size - (number - 1) * PART_BYTES)


def _read(path: Path, number: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek((number - 1) * PART_BYTES)
        return stream.read(PART_BYTES)


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
