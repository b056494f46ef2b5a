"""What several machines share in S3: artifacts and results (``artifact_store``), checkpoints beside them or elsewhere.

Other places, such as a mounted folder, are no affair of IAM's.
"""

from collections.abc import Iterator

from tasks.aws.iam import Scope, Statement, one_or_all, split_s3


def shared_places(scope: Scope) -> dict[str, tuple[str, ...]]:
    """Return the folders that are shared in S3, by bucket; an empty one is all of a bucket."""
    config = scope.config
    found: dict[str, list[str]] = {}
    for uri in (config.artifact_store, config.training.checkpoint_store):
        if uri is None or not uri.startswith("s3://"):
            continue
        bucket, folder = split_s3(uri)
        folders = found.setdefault(bucket, [])
        if not any(not known or folder == known or folder.startswith(f"{known}/") for known in folders):
            folders.append(folder)
    return {bucket: ("",) if "" in folders else tuple(folders) for bucket, folders in found.items()}


def share_statements(scope: Scope) -> Iterator[Statement]:
    """Yield what each machine needs that shares in S3 what it has done."""
    places = shared_places(scope)
    yield Statement(
        sid="ShareObjects",
        step="keep artifacts, results and checkpoints where other machines find them, and clear up",
        actions=("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"),
        resources=tuple(
            scope.s3("/".join(filter(None, [bucket, folder, "*"])))
            for bucket, folders in places.items()
            for folder in folders
        ),
    )
    for number, (bucket, folders) in enumerate(places.items()):
        below = one_or_all(f"{folder}/*" for folder in folders)
        yield Statement(
            sid="ShareList" if number == 0 else "ShareListCheckpoints",
            step="find what other machines have done, and tell what is missing from what may not be read",
            actions=("s3:ListBucket",),
            resources=(scope.s3(bucket),),
            # S3 takes the key of an object that is not there for the prefix, when it decides between 404 and 403.
            condition={"StringLike": {"s3:prefix": below}} if folders[0] else {},
        )
    limited = [bucket for bucket, folders in places.items() if folders[0]]
    if limited:
        yield Statement(
            sid="ShareBucket",
            # Before it writes into a folder, s3fs looks whether there is the bucket, and else tries to make it.
            step="see that the bucket is there, without a look at the rest of it",
            actions=("s3:GetBucketLocation",),
            resources=tuple(map(scope.s3, limited)),
        )
