"""Where a training runs: here, in torchrun's processes, or in a SageMaker training job."""

from askline.clients import aws_client
from askline.errors import ConfigError
from tasks.fine_tune.job import JobResult, TrainingJob, run_job
from tasks.workplace import Workplace


def train_where(job: TrainingJob, *, place: Workplace) -> JobResult:
    """Run the job where ``job.config.where`` says; the model is in ``job.output`` then.

    Raises
    ------
    TrainingError
        As :func:`~tasks.fine_tune.job.run_job`, wherever it happens.
    ConfigError
        If a SageMaker job lacks a role or an image, or the bucket's name is not legal.
    CloudError
        If AWS refuses or cannot be reached.
    """
    match job.config.where:
        case "process":
            return run_job(job, progress=place.progress)
        case "torchrun":
            from tasks.fine_tune.launch.torchrun import run_with_torchrun

            return run_with_torchrun(job, progress=place.progress)
        case "sagemaker":
            return _on_sagemaker(job, place)


def _on_sagemaker(job: TrainingJob, place: Workplace) -> JobResult:
    from tasks.aws.bucket import ensure_bucket, legal_bucket_name
    from tasks.aws.errors import explained
    from tasks.aws.names import MANAGED
    from tasks.aws.training_role import ensure_local_training_role
    from tasks.fine_tune.launch.sagemaker_job import run_on_sagemaker

    target, cluster = place.target, job.config.cluster
    if target.kind == "aws" and cluster.role_arn is None:
        raise ConfigError(
            "training.cluster.role_arn (or deploy.role_arn) is needed to train in SageMaker on AWS: the IAM role that "
            "the job takes on (arn:aws:iam::<account>:role/<name>)"
        )
    with explained("find out which AWS account this is (sts:GetCallerIdentity)"):
        account = str(aws_client(target, "sts").get_caller_identity()["Account"])
    bucket = cluster.bucket or f"askline-{account}-{target.region}"
    if not legal_bucket_name(bucket):
        raise ConfigError(
            f"training.cluster.bucket {bucket!r} is no legal bucket name: 3 to 63 lower-case letters, digits, dots and "
            "hyphens"
        )
    ensure_bucket(aws_client(target, "s3"), bucket, account, target.region, MANAGED)
    role = cluster.role_arn or ensure_local_training_role(bucket, target=target, tags=MANAGED)
    return run_on_sagemaker(job, place=place, bucket=bucket, role_arn=role, tags=MANAGED)
