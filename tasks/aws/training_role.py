"""The IAM role that a training job takes on; created by the pipeline on the embedded cloud only."""

from typing import Any

from askline.records import Target
from tasks.aws.execution_role import ensure_role

ROLE_NAME = "askline-sagemaker-training"


def permissions(bucket: str, *, partition: str, region: str, account: str) -> dict[str, Any]:
    """Return the least that a training job needs: read and write its bucket, write its log, pull the image."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
                "Resource": f"arn:{partition}:s3:::{bucket}/*",
            },
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:{partition}:s3:::{bucket}"},
            {
                "Effect": "Allow",
                "Action": [
                    "logs:CreateLogGroup",
                    "logs:CreateLogStream",
                    "logs:PutLogEvents",
                    "logs:DescribeLogStreams",
                ],
                "Resource": f"arn:{partition}:logs:{region}:{account}:log-group:/aws/sagemaker/TrainingJobs*",
            },
            {
                "Effect": "Allow",
                "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                # The images belong to AWS's own accounts, one for each region.
                "Resource": f"arn:{partition}:ecr:{region}:*:repository/*",
            },
            # These two actions know no resource.
            {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "cloudwatch:PutMetricData",
                "Resource": "*",
                "Condition": {"StringEquals": {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"}},
            },
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
