"""The IAM role that SageMaker takes on; created by the pipeline on the embedded cloud only.

On AWS a person with the right to do so creates it once, and names it as ``deploy.role_arn``.
"""

import json
from collections.abc import Callable
from typing import Any

from askline.clients import aws_client
from askline.records import Target, UploadRef
from tasks.aws.errors import code_of, explained

ROLE_NAME = "askline-sagemaker-execution"

#: The service that takes the role on.
SERVICE = "sagemaker.amazonaws.com"

TRUST: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "sts:AssumeRole"},
    ],
}


def permissions(
    bucket: str, *, partition: str, region: str, account: str, folder: str = "", repository: str = "*:repository/*"
) -> dict[str, Any]:
    """Return the least that an endpoint needs: read the archive, write its log, pull the image, count its calls.

    Parameters
    ----------
    folder
        Where in the bucket archives lie, such as ``deploy/biography``; the default is all of it.
    repository
        The image's, with the account that owns it: ``763104351884:repository/huggingface-pytorch-inference``.
    """
    objects = "/".join(filter(None, [bucket, folder.strip("/"), "*"]))
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadArchive",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": f"arn:{partition}:s3:::{objects}",
            },
            {
                "Sid": "ListBucket",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": f"arn:{partition}:s3:::{bucket}",
            },
            *container_statements(
                "",
                log_groups="/aws/sagemaker/*",
                namespace="/aws/sagemaker/Endpoints",
                image=f"arn:{partition}:ecr:{region}:{repository}",
                logs=f"arn:{partition}:logs:{region}:{account}",
            ),
        ],
    }


def container_statements(sid: str, *, logs: str, log_groups: str, image: str, namespace: str) -> list[dict[str, Any]]:
    """Return what every container of SageMaker needs: write its log, pull its image, count in CloudWatch.

    Parameters
    ----------
    sid
        What the statements' names begin with.
    logs
        The account's CloudWatch Logs: ``arn:aws:logs:us-east-1:123456789012``.
    log_groups
        Of which groups, as a pattern.
    image
        ARN of the repository. The images belong to AWS's own accounts, one for each region.
    namespace
        Of the metrics.
    """
    return [
        {
            "Sid": f"{sid}WriteLog",
            "Effect": "Allow",
            "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
            "Resource": f"{logs}:log-group:{log_groups}",
        },
        {
            "Sid": f"{sid}PullImage",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": image,
        },
        # These two actions know no resource.
        {"Sid": f"{sid}SignInToImages", "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {
            "Sid": f"{sid}PutMetrics",
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringEquals": {"cloudwatch:namespace": namespace}},
        },
    ]


def ensure_local_role(upload: UploadRef, *, target: Target, tags: dict[str, str]) -> str:
    """Create the role on the embedded cloud where it is missing, let it read the bucket, and return its ARN.

    Each bucket has an inline policy of its own, so that a second bucket does not take the first one's permission.

    Raises
    ------
    CloudError
        If IAM refuses.
    """
    return ensure_role(
        ROLE_NAME,
        description="Taken on by SageMaker to serve askline's packages",
        policy_name=f"serve-from-{upload.bucket}",
        policy=lambda partition, account: permissions(
            upload.bucket, partition=partition, region=target.region, account=account
        ),
        target=target,
        tags=tags,
    )


def ensure_role(
    name: str,
    *,
    description: str,
    policy_name: str,
    policy: Callable[[str, str], dict[str, Any]],
    target: Target,
    tags: dict[str, str],
) -> str:
    """Create a role that SageMaker takes on where it is missing, give it an inline policy, and return its ARN.

    Parameters
    ----------
    policy
        Makes the policy's document from partition and account.

    Raises
    ------
    CloudError
        If IAM refuses.
    """
    from botocore.exceptions import ClientError

    iam = aws_client(target, "iam")
    with explained(f"create the role {name}"):
        try:
            role = iam.create_role(
                RoleName=name,
                AssumeRolePolicyDocument=json.dumps(TRUST),
                Description=description,
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )["Role"]
        except ClientError as error:
            if code_of(error) != "EntityAlreadyExists":
                raise
            role = iam.get_role(RoleName=name)["Role"]
        arn = str(role["Arn"])
        _, partition, _, _, account, _ = arn.split(":", 5)
        document = json.dumps(policy(partition, account))
        iam.put_role_policy(RoleName=name, PolicyName=policy_name, PolicyDocument=document)
    return arn
