"""The bucket that archives and trainings are uploaded to: found, or made private, encrypted and tagged."""

import re
from typing import Any

from askline.errors import CloudError
from tasks.aws.errors import code_of, explained, is_missing, status_of

_BUCKET_NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def legal_bucket_name(name: str) -> bool:
    """Say whether S3 takes the name for a bucket."""
    return _BUCKET_NAME.fullmatch(name) is not None


def ensure_bucket(s3: Any, bucket: str, account: str, region: str, tags: dict[str, str]) -> None:
    """Create the bucket where it is missing: private, encrypted and tagged.

    Raises
    ------
    CloudError
        If it belongs to another account or lies in another region, or AWS refuses.
    """
    from botocore.exceptions import ClientError

    with explained(f"look at the bucket {bucket}"):
        try:
            lies_in = s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account).get("BucketRegion") or region
        except ClientError as error:
            if status_of(error) == 403:
                raise CloudError(
                    f"the bucket {bucket} belongs to another account, or these credentials (account {account}) may not "
                    "list it; set package.bucket to a bucket of your own, or grant s3:ListBucket"
                ) from error
            if status_of(error) == 301:
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                lies_in = headers.get("x-amz-bucket-region", "another region")
            elif is_missing(error):
                lies_in = None
            else:
                raise
    if lies_in is None:
        _create_bucket(s3, bucket, account, region, tags)
    elif lies_in != region:
        raise CloudError(
            f"the bucket {bucket} is in {lies_in}, and SageMaker in {region} cannot read an archive from there; set "
            f"package.bucket to a bucket in {region}, or region to {lies_in}"
        )


def _create_bucket(s3: Any, bucket: str, account: str, region: str, tags: dict[str, str]) -> None:
    from botocore.exceptions import ClientError

    # us-east-1 is the one region that must not be named.
    constraint = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    taken = {"BucketAlreadyExists": "set package.bucket to another name: this one belongs to another account"}
    with explained(f"create the bucket {bucket}", advice=taken):
        try:
            s3.create_bucket(Bucket=bucket, **constraint)
        except ClientError as error:
            if code_of(error) != "BucketAlreadyOwnedByYou":  # another run created it a moment ago
                raise
        s3.put_public_access_block(
            Bucket=bucket,
            ExpectedBucketOwner=account,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        s3.put_bucket_encryption(
            Bucket=bucket,
            ExpectedBucketOwner=account,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        s3.put_bucket_tagging(
            Bucket=bucket,
            ExpectedBucketOwner=account,
            Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]},
        )
