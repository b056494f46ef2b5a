"""The IAM role that a training job takes on; created by the pipeline on the embedded cloud only."""

from typing import Any

from askline.records import Target
from tasks.aws.execution_role import container_statements, ensure_role

ROLE_NAME = "askline-sagemaker-training"


def permissions(
    bucket: str,
    *,
    partition: str,
    region: str,
    account: str,
    folder: str = "",
    checkpoints: str = "",
    repository: str = "*:repository/*",
) -> dict[str, Any]:
    """Return the least that a training job needs: read its input, keep checkpoints and model, log, pull the image.

    Parameters
    ----------
    folder
        Where in the bucket trainings lie, each in a folder of its own; the default is all of the bucket.
    checkpoints
        Bucket and folder of the checkpoints, where they lie elsewhere than in ``folder``.
    repository
        The image's, with the account that owns it: ``763104351884:repository/huggingface-pytorch-training``.
    """
    place = f"arn:{partition}:s3:::"
    folder = folder.strip("/")
    written = f"{bucket}/{folder}/*/output/*" if folder else f"{bucket}/*"
    kept = checkpoints or "/".join(filter(None, [bucket, folder and f"{folder}/checkpoints"]))
    statements: list[dict[str, Any]] = [
        {
            "Sid": "TrainRead",
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": place + "/".join(filter(None, [bucket, folder, "*"])),
        },
        {"Sid": "TrainWrite", "Effect": "Allow", "Action": "s3:PutObject", "Resource": place + written},
        {
            "Sid": "TrainCheckpoints",
            "Effect": "Allow",
            "Action": ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
            "Resource": f"{place}{kept}/*",
        },
        {"Sid": "TrainList", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": place + bucket},
    ]
    elsewhere, _, inside = checkpoints.partition("/")
    if elsewhere and elsewhere != bucket:
        statements.append(
            {
                "Sid": "TrainListCheckpoints",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": place + elsewhere,
                "Condition": {"StringLike": {"s3:prefix": f"{inside}/*"}},
            }
        )
    return {
        "Version": "2012-10-17",
        "Statement": [
            *statements,
            *container_statements(
                "Train",
                log_groups="/aws/sagemaker/TrainingJobs*",
                namespace="/aws/sagemaker/TrainingJobs",
                image=f"arn:{partition}:ecr:{region}:{repository}",
                logs=f"arn:{partition}:logs:{region}:{account}",
            ),
        ],
    }


def ensure_local_training_role(bucket: str, *, target: Target, tags: dict[str, str]) -> str:
    """Create the role on the embedded cloud where it is missing, and return its ARN.

    Raises
    ------
    CloudError
        If IAM refuses.
    """
    return ensure_role(
        ROLE_NAME,
        description="Taken on by askline's training jobs",
        policy_name=f"train-in-{bucket}",
        policy=lambda partition, account: permissions(
            bucket, partition=partition, region=target.region, account=account
        ),
        target=target,
        tags=tags,
    )
