"""Which bytes an archive in S3 holds: by the checksum that S3 itself verified, else by reading it.

Metadata and tags are labels that whoever writes the object sets. They are never taken for its content.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from askline.clients import aws_client
from askline.errors import DeployError
from askline.records import PackageRef, Target
from tasks.aws.errors import explained, or_none
from tasks.package.multipart import part_checksums

_CHUNK = 1 << 20


def require_archive(uri: str, archive_sha256: str, *, target: Target) -> None:
    """Return if the archive lies there, byte by byte.

    Raises
    ------
    DeployError
        If it is gone, is another one, or S3 refuses.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    named = {"Bucket": bucket, "Key": key}
    s3 = aws_client(target, "s3")
    with explained(f"look at the archive {uri} (s3:GetObject)", error_type=DeployError):
        found = or_none(s3.head_object, **named, ChecksumMode="ENABLED")
        held = None if found is None else sha256_in_s3(s3, named, found)
    if held is None:
        raise DeployError(f"the archive {uri} is gone; upload it again with python -m flows.full_pipeline")
    if held != archive_sha256:
        raise DeployError(
            f"{uri} holds another archive ({held[:12]}) than it should ({archive_sha256[:12]}): its bytes were changed "
            "after it was uploaded. Look who may write there, and upload it again with python -m flows.full_pipeline"
        )


def sha256_in_s3(s3: Any, named: Mapping[str, str], found: Mapping[str, Any]) -> str:
    """Return the sha256 of an object.

    Parameters
    ----------
    named
        Bucket and key, as every call takes them.
    found
        What HeadObject answered with ``ChecksumMode="ENABLED"``. Of an object that was sent in parts, or by somebody
        who asked for no sha256, S3 holds no checksum of the whole: it is read.
    """
    checksum = str(found.get("ChecksumSHA256") or "")
    if checksum and "-" not in checksum and found.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        return base64.b64decode(checksum).hex()
    digest = hashlib.sha256()
    for chunk in s3.get_object(**named)["Body"].iter_chunks(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def is_archive(
    s3: Any, named: Mapping[str, str], found: Mapping[str, Any] | None, package: PackageRef, file: Path
) -> bool:
    """Say whether an object is this archive, which lies here as ``file`` too."""
    if found is None or found["ContentLength"] != package.size:
        return False
    checksum = str(found.get("ChecksumSHA256") or "")
    if "-" in checksum:
        digests = b"".join(base64.b64decode(part) for part in part_checksums(file))
        # S3's own of an object in parts: over the checksums of the parts.
        return checksum.partition("-")[0] == base64.b64encode(hashlib.sha256(digests).digest()).decode()
    return sha256_in_s3(s3, named, found) == package.archive_sha256
