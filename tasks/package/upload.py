"""Bring ``model.tar.gz`` to S3, under a key made of its own hash, once."""

import base64
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from askline.clients import aws_client
from askline.config import PackageConfig
from askline.errors import CloudError, ConfigError
from askline.progress import Progress
from askline.records import PackageRef, UploadRef
from tasks.aws.bucket import ensure_bucket, legal_bucket_name
from tasks.aws.errors import code_of, explained, is_missing
from tasks.aws.names import MANAGED
from tasks.package.in_s3 import is_archive
from tasks.package.multipart import PART_BYTES, S3Object, abort_leftovers, send_in_parts
from tasks.package.package import ARCHIVE
from tasks.workplace import Workplace

#: Up to here the archive goes in one request, with its whole sha256 for S3 to verify; beyond, in parts that S3
#: verifies one by one, and that are not sent again after an upload was cut.
ONE_REQUEST_BYTES = PART_BYTES
# What S3 says when the object is there already, is being written, or the upload was completed by another run.
_BESIDE_US = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload")


def upload_package(
    config: PackageConfig,
    package: PackageRef,
    *,
    mlkey: str,
    place: Workplace,
    tags: dict[str, str],
) -> UploadRef:
    """Upload the archive to ``<prefix>/<mlkey>/<first 12 of its sha256>/model.tar.gz``, unless it is there.

    An upload that was cut goes on where it was. A finished one is never sent again, nor overwritten by another run.

    The bucket is ``config.bucket`` or ``askline-<account>-<region>``. One that is missing is created: private,
    encrypted and tagged. A bucket of another account is never written to.

    Parameters
    ----------
    tags
        Further tags for the bucket and the object.

    Raises
    ------
    CloudError
        If AWS refuses; ``retryable`` when it was throttling or a lost connection.
    ConfigError
        If the bucket's name is not legal.
    ArtifactError
        If the package is missing or damaged.
    """
    target, progress = place.target, place.progress
    archive = place.store.verify("package", package.sha256) / ARCHIVE
    s3 = aws_client(target, "s3")
    with explained("find out which AWS account this is (sts:GetCallerIdentity)"):
        account = str(aws_client(target, "sts").get_caller_identity()["Account"])
    bucket, key = archive_place(config, package, mlkey=mlkey, account=account, region=target.region)
    if not legal_bucket_name(bucket):
        raise ConfigError(
            f"package.bucket {bucket!r} is no legal bucket name: 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    labels = {**MANAGED, "askline:mlkey": mlkey, **tags}
    ensure_bucket(s3, bucket, account, target.region, {**MANAGED, **tags})

    uri = f"s3://{bucket}/{key}"
    at = S3Object(bucket, key, account)
    found = _head(s3, at)
    reused = _is_this(s3, at, found, package, archive)
    if reused:
        with explained(f"look for unfinished uploads of {uri}"):
            abort_leftovers(s3, at)
    else:
        reused = not _send(s3, archive, package, at, before=found, tags=labels, progress=progress)
        found = _head(s3, at)
        if not _is_this(s3, at, found, package, archive):
            size = None if found is None else found["ContentLength"]
            raise CloudError(
                f"{uri} was sent with {package.size} bytes, and S3 holds {size}; try again", retryable=True
            )
    progress(1.0, f"{uri} {'is there already' if reused else 'uploaded'}")
    version = None if found is None else found.get("VersionId")
    return UploadRef(
        bucket=bucket,
        key=key,
        uri=uri,
        archive_sha256=package.archive_sha256,
        version_id=None if version == "null" else version,
        reused=reused,
    )


def archive_place(
    config: PackageConfig, package: PackageRef, *, mlkey: str, account: str, region: str
) -> tuple[str, str]:
    """Return the bucket and the key of an archive, which follow from what it holds and who uploads it."""
    key = "/".join(filter(None, [config.prefix.strip("/"), mlkey, package.archive_sha256[:12], ARCHIVE]))
    return config.bucket or f"askline-{account}-{region}", key


def _head(s3: Any, at: S3Object) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    with explained(f"look at s3://{at.bucket}/{at.key}"):
        try:
            found: dict[str, Any] = s3.head_object(**at.named(), ChecksumMode="ENABLED")
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    return found


def _is_this(s3: Any, at: S3Object, found: dict[str, Any] | None, package: PackageRef, archive: Path) -> bool:
    with explained(f"read what s3://{at.bucket}/{at.key} holds"):
        return is_archive(s3, at.named(), found, package, archive)


def _send(
    s3: Any,
    archive: Path,
    package: PackageRef,
    at: S3Object,
    *,
    before: dict[str, Any] | None,
    tags: dict[str, str],
    progress: Progress,
) -> bool:
    """Send the archive, unless another run finishes first: then return False.

    It is written only where there still is what there was ``before``: nothing, or an object with other bytes.
    """
    from botocore.exceptions import ClientError

    condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before["ETag"]}
    facts = {
        "ContentType": "application/gzip",
        "Metadata": {"sha256": package.archive_sha256},
        "Tagging": urlencode(tags),
    }

    def held(size: int) -> None:
        progress(min(0.99, size / package.size), f"{size / 1e6:.0f} of {package.size / 1e6:.0f} MB")

    doing = f"upload {ARCHIVE} to s3://{at.bucket}/{at.key}"
    with explained(doing):
        try:
            if package.size <= ONE_REQUEST_BYTES:
                whole = base64.b64encode(bytes.fromhex(package.archive_sha256)).decode()
                with archive.open("rb") as stream:
                    s3.put_object(**at.named(), **facts, **condition, Body=stream, ChecksumSHA256=whole)
            else:
                send_in_parts(s3, archive, at, facts=facts, condition=condition, progress=held)
                # Once more: an upload that was gone on with has the tags of its beginning.
                labels = [{"Key": name, "Value": value} for name, value in tags.items()]
                s3.put_object_tagging(**at.named(), Tagging={"TagSet": labels})
        except ClientError as error:
            if code_of(error) == "BadDigest":
                raise CloudError(f"cannot {doing}: the bytes changed on the way; try again", retryable=True) from error
            if code_of(error) not in _BESIDE_US:
                raise
            if not _is_this(s3, at, _head(s3, at), package, archive):
                raise CloudError(
                    f"cannot {doing}: another run is writing to this key ({code_of(error)}); try again", retryable=True
                ) from error
            abort_leftovers(s3, at)
            return False
    return True
