"""The package that answers for an MLKey: found through the registry, taken from the artifacts or from S3, unpacked."""

import hashlib
from pathlib import Path

from askline.clients import aws_client
from askline.errors import ArtifactError, CloudError, ConfigError, PackageError
from askline.records import Record, Target
from askline.store import sha256_of_file
from tasks.aws.errors import explained, is_missing
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.requests import read_serving
from tasks.package import archive
from tasks.package.package import ARCHIVE
from tasks.workplace import Workplace


class Deployed(Record):
    """What the registry names for an MLKey."""

    mlkey: str
    model_version: str
    archive_sha256: str
    archive_uri: str | None
    """Where the archive lies in S3; None where no endpoint says so."""

    @property
    def package_sha256(self) -> str:
        """Address of the ``package`` artifact, which holds this archive and nothing else."""
        return hashlib.sha256(f"{self.archive_sha256}  {ARCHIVE}\n".encode()).hexdigest()


def find_deployed(mlkey: str, target: Target) -> Deployed:
    """Return what is deployed for an MLKey.

    Raises
    ------
    ConfigError
        If nothing is; lists the MLKeys that there are.
    CloudError
        If AWS refuses.
    """
    entry = registry.resolve(mlkey, target)
    if entry is None:
        known = [each.mlkey for each in registry.entries(target)]
        there = f"deployed are {', '.join(known)}" if known else "nothing is; python -m flows.full_pipeline deploys"
        raise ConfigError(f"no model is deployed for the MLKey {mlkey!r}: {there}")
    served_by = entry.served_by or read_serving(entry.endpoint, target)
    uri = None if served_by is None else served_by.archive_uri + (entry.target_model or "")
    return Deployed(
        mlkey=mlkey, model_version=entry.model_version, archive_sha256=entry.archive_sha256, archive_uri=uri
    )


def unpacked(deployed: Deployed, *, place: Workplace) -> Path:
    """Return a folder with the unpacked archive; it is kept in ``place.work`` for the next time and may be deleted.

    Raises
    ------
    ArtifactError
        If the archive is neither among the artifacts nor in S3, or is another one there.
    CloudError
        If S3 refuses.
    PackageError
        If it cannot be unpacked.
    """
    folder = place.work / "unpacked" / deployed.archive_sha256[:16]
    if folder.is_dir():
        return folder
    packed = _archive(deployed, place)
    place.progress(0.9, "unpacking")
    try:
        archive.unpack(packed, folder)
    except PackageError:
        if not folder.is_dir():  # another process was faster
            raise
    return folder


def _archive(deployed: Deployed, place: Workplace) -> Path:
    store = place.store
    if store.holds("package", deployed.package_sha256):
        return store.path("package", deployed.package_sha256) / ARCHIVE
    if deployed.archive_uri is None:
        raise ArtifactError(
            f"the package {deployed.archive_sha256[:12]} of {deployed.mlkey} is not in {store.root}, and no endpoint "
            "says where in S3 it lies; deploy again with python -m flows.full_pipeline"
        )
    place.progress(0.1, f"fetching {deployed.archive_uri}")
    with store.new("package") as draft:
        _fetch(deployed.archive_uri, draft.folder / ARCHIVE, place.target)
        found = sha256_of_file(draft.folder / ARCHIVE)
        if found != deployed.archive_sha256:
            raise ArtifactError(
                f"{deployed.archive_uri} holds another archive ({found[:12]}) than was promoted for {deployed.mlkey} "
                f"({deployed.archive_sha256[:12]}); deploy again with python -m flows.full_pipeline"
            )
        sha256 = draft.commit()
    return store.path("package", sha256) / ARCHIVE


def _fetch(uri: str, path: Path, target: Target) -> None:
    from botocore.exceptions import ClientError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with explained(f"fetch {uri}"):
        try:
            aws_client(target, "s3").download_file(bucket, key, str(path))
        except ClientError as error:
            if not is_missing(error):
                raise
            raise CloudError(f"the archive {uri} is gone; deploy again with python -m flows.full_pipeline") from error
