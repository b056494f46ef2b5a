"""The IAM role that a training job takes on; created by the pipeline on the embedded cloud only."""

import json
from typing import Any

from askline.clients import aws_client
from askline.records import Target
from tasks.aws.errors import code_of, explained
from tasks.aws.execution_role import TRUST

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
    from botocore.exceptions import ClientError

    iam = aws_client(target, "iam")
    with explained(f"create the role {ROLE_NAME}"):
        try:
            role = iam.create_role(
                RoleName=ROLE_NAME,
                AssumeRolePolicyDocument=json.dumps(TRUST),
                Description="Taken on by askline's training jobs",
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )["Role"]
        except ClientError as error:
            if code_of(error) != "EntityAlreadyExists":
                raise
            role = iam.get_role(RoleName=ROLE_NAME)["Role"]
        arn = str(role["Arn"])
        _, partition, _, _, account, _ = arn.split(":", 5)
        policy = permissions(bucket, partition=partition, region=target.region, account=account)
        iam.put_role_policy(RoleName=ROLE_NAME, PolicyName=f"train-in-{bucket}", PolicyDocument=json.dumps(policy))
    return arn
