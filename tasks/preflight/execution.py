"""The role that SageMaker takes on to serve a model, and who may take it on."""

from typing import Any

from tasks.aws import execution_role
from tasks.aws.iam import Policy, Scope, Statement, repository_of, split_s3
from tasks.deploy_serverless.image import inference_image
from tasks.fine_tune.launch.permissions import beyond, has_its_own_role, role_statements, trains_on_sagemaker

_STEPS = {
    "ReadArchive": "read the archive",
    "ListBucket": "tell an archive that is missing from one that may not be read",
    "WriteLog": "write the endpoint's log",
    "PullImage": "pull the container image",
    "SignInToImages": "sign in to the registry of container images",
    "PutMetrics": "count the endpoint's calls",
}
_WHY_ANY = {
    "SignInToImages": "signing in has no resource",
    "PutMetrics": "metrics have no resources; the condition names their namespace",
}


def trust() -> dict[str, Any]:
    """Return who may take the execution role on: SageMaker, and nobody else."""
    return execution_role.TRUST


def execution_policy(scope: Scope) -> Policy:
    """Return what the execution role may do."""
    folder = "/".join(filter(None, [scope.config.package.prefix.strip("/"), scope.mlkey]))
    image = scope.config.deploy.image or inference_image(scope.region)
    document = execution_role.permissions(
        scope.bucket,
        partition=scope.partition,
        region=scope.region,
        account=scope.account,
        folder=folder,
        repository=repository_of(image),
    )
    statements = [Statement.read(written, steps=_STEPS, why_any=_WHY_ANY) for written in document["Statement"]]
    statements += _of_the_target(scope)
    trains = trains_on_sagemaker(scope) and not has_its_own_role(scope)
    if trains:
        statements += beyond(role_statements(scope), statements)
    return Policy(
        name="execution-role",
        purpose=f"what SageMaker may do while it {'trains and ' if trains else ''}serves the model",
        statements=tuple(statements),
    )


def _of_the_target(scope: Scope) -> list[Statement]:
    deploy = scope.config.deploy
    found: list[Statement] = []
    written: list[str] = []
    if deploy.data_capture.percentage:
        written.append(deploy.data_capture.destination or f"s3://{scope.bucket}/data-capture/{scope.mlkey}")
    if deploy.target == "async":
        written.append(deploy.asynchronous.output_path or f"s3://{scope.bucket}/async/{scope.mlkey}/output")
        written.append(deploy.asynchronous.failure_path or f"s3://{scope.bucket}/async/{scope.mlkey}/failure")
        found.append(
            Statement(
                sid="ReadQuestions",
                step="read what an async endpoint is asked",
                actions=("s3:GetObject",),
                resources=(scope.s3(f"{scope.bucket}/async/{scope.mlkey}/*"),),
            )
        )
    if written:
        places = [split_s3(uri) for uri in written]
        found.append(
            Statement(
                sid="WriteAnswers",
                step="keep answers, failures and captured data in S3",
                actions=("s3:AbortMultipartUpload", "s3:PutObject"),
                resources=tuple(
                    scope.s3(f"{bucket}/{folder}/*" if folder else f"{bucket}/*") for bucket, folder in places
                ),
            )
        )
    topics = [topic for topic in (deploy.asynchronous.success_topic, deploy.asynchronous.error_topic) if topic]
    if topics:
        found.append(
            Statement(
                sid="TellTopics",
                step="tell the SNS topics of answers and failures",
                actions=("sns:Publish",),
                resources=tuple(dict.fromkeys(topics)),
            )
        )
    if deploy.vpc.subnets:
        found.append(
            Statement(
                sid="JoinNetwork",
                step="join the containers to the VPC",
                actions=(
                    "ec2:CreateNetworkInterface",
                    "ec2:CreateNetworkInterfacePermission",
                    "ec2:DeleteNetworkInterface",
                    "ec2:DeleteNetworkInterfacePermission",
                ),
                resources=(
                    *(scope.arn("ec2", f"subnet/{name}") for name in deploy.vpc.subnets),
                    *(scope.arn("ec2", f"security-group/{name}") for name in deploy.vpc.security_groups),
                    scope.arn("ec2", "network-interface/*"),
                ),
            )
        )
        found.append(
            Statement(
                sid="LookAtNetwork",
                step="look at the VPC",
                actions=(
                    "ec2:DescribeDhcpOptions",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeSecurityGroups",
                    "ec2:DescribeSubnets",
                    "ec2:DescribeVpcs",
                ),
                resources=("*",),
                why_any="EC2's describing has no resources",
            )
        )
    return found
