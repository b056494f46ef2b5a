"""Fine-tuning in a SageMaker training job: what starting one takes, and what the role may do that it takes on.

The role is ``training.cluster.role_arn``, or else the execution role, which then may do both. Besides what is granted
here, the SDK's ``ModelTrainer`` calls ``s3:ListAllMyBuckets`` and simulates the role's policies; it goes on without.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from tasks.aws import training_role
from tasks.aws.execution_role import SERVICE
from tasks.aws.iam import Policy, Scope, Statement, repository_of, split_s3
from tasks.fine_tune.launch.sagemaker_job import training_image
from tasks.fine_tune.launch.sagemaker_log import LOG_GROUP

_STEPS = {
    "TrainRead": "read code, dataset and base",
    "TrainWrite": "keep the trained model",
    "TrainCheckpoints": "keep checkpoints, and go on from them",
    "TrainList": "find code, dataset and base",
    "TrainListCheckpoints": "find checkpoints",
    "TrainWriteLog": "write the job's log",
    "TrainPullImage": "pull the training image",
    "TrainSignInToImages": "sign in to the registry of container images",
    "TrainPutMetrics": "count what the job uses",
}
_WHY_ANY = {
    "TrainSignInToImages": "signing in has no resource",
    "TrainPutMetrics": "metrics have no resources; the condition names their namespace",
}


def trains_on_sagemaker(scope: Scope) -> bool:
    """Say whether the configuration fine-tunes in a SageMaker training job."""
    return scope.config.training.where == "sagemaker"


def role_of(scope: Scope) -> str:
    """Return the ARN of the role that training jobs take on."""
    return scope.config.training.cluster.role_arn or scope.role


def has_its_own_role(scope: Scope) -> bool:
    """Say whether training jobs take on another role than endpoints."""
    return trains_on_sagemaker(scope) and role_of(scope) != scope.role


def train_statements(scope: Scope) -> Iterator[Statement]:
    """Yield what whoever starts the job needs, from the bucket to the model that comes back."""
    bucket, folder = _bucket(scope), scope.config.training.cluster.prefix
    yield Statement(
        sid="TrainBucket",
        step="make the training's bucket, private, encrypted and tagged; not needed where it is there",
        actions=(
            "s3:CreateBucket",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutBucketTagging",
            "s3:PutEncryptionConfiguration",
        ),
        resources=(scope.s3(bucket),),
        without_it="a bucket that is missing is not made; one that is there is used",
    )
    yield Statement(
        sid="TrainLook",
        step="look whether the bucket, the dataset and the base are there",
        actions=("s3:ListBucket",),
        resources=(scope.s3(bucket),),
    )
    yield Statement(
        sid="TrainUpload",
        step="upload the code, the dataset and the base",
        actions=("s3:AbortMultipartUpload", "s3:PutObject"),
        resources=(scope.s3(f"{bucket}/{folder}/*/input/*"),),
    )
    yield Statement(
        sid="TrainModel",
        step="download the model",
        actions=("s3:GetObject",),
        resources=(scope.s3(f"{bucket}/{folder}/*/output/*"),),
    )
    yield Statement(
        sid="TrainJobs",
        step="find the job of an earlier run",
        actions=("sagemaker:ListTrainingJobs",),
        resources=("*",),
        why_any="SageMaker's lists have no resources",
    )
    yield Statement(
        sid="TrainJob",
        step="create, watch and stop the training job",
        actions=(
            "sagemaker:AddTags",
            "sagemaker:CreateTrainingJob",
            "sagemaker:DescribeTrainingJob",
            "sagemaker:StopTrainingJob",
        ),
        resources=(scope.arn("sagemaker", "training-job/askline-*"),),
    )
    yield Statement(
        sid="TrainPassRole",
        step="hand the training job its role",
        actions=("iam:PassRole",),
        resources=(role_of(scope),),
        condition={"StringEquals": {"iam:PassedToService": SERVICE}},
    )
    yield Statement(
        sid="TrainFollow",
        step="follow the job's log",
        actions=("logs:DescribeLogStreams", "logs:GetLogEvents"),
        # Streams are looked for in the group, whose ARN is written with and without an end; they are read by name.
        resources=tuple(
            scope.arn("logs", f"log-group:{LOG_GROUP}{end}") for end in ("", ":log-stream:", ":log-stream:askline-*")
        ),
        without_it="the job's progress is not shown, and of an error only what SageMaker says",
    )


def role_statements(scope: Scope) -> tuple[Statement, ...]:
    """Return what the role of training jobs may do."""
    cluster = scope.config.training.cluster
    document = training_role.permissions(
        _bucket(scope),
        partition=scope.partition,
        region=scope.region,
        account=scope.account,
        folder=cluster.prefix,
        checkpoints="/".join(split_s3(cluster.checkpoint_uri)) if cluster.checkpoint_uri else "",
        repository=repository_of(cluster.image or training_image(scope.region, cluster)),
    )
    return tuple(Statement.read(written, steps=_STEPS, why_any=_WHY_ANY) for written in document["Statement"])


def training_role_policy(scope: Scope) -> Policy:
    """Return the policy of a role that is for training jobs alone."""
    return Policy(
        name="training-role",
        purpose="what SageMaker may do while it trains",
        statements=role_statements(scope),
    )


def beyond(statements: Iterable[Statement], held: Iterable[Statement]) -> Iterator[Statement]:
    """Yield those of the statements that no single one of ``held`` grants already."""
    others = [statement for statement in held if not statement.condition]
    for statement in statements:
        if not any(_grants(other, statement) for other in others):
            yield statement


def _grants(held: Statement, asked: Statement) -> bool:
    return set(asked.actions) <= set(held.actions) and all(
        any(fnmatchcase(resource, pattern) for pattern in held.resources) for resource in asked.resources
    )


def _bucket(scope: Scope) -> str:
    return scope.config.training.cluster.bucket or f"askline-{scope.account}-{scope.region}"
