"""What CreateTrainingJob checks beyond the request's shape: rules between members, the role, and S3."""

from typing import Any

from local_cloud.sagemaker.api import checks
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.state import Record

_NOT_OFFERED = (
    "VpcConfig",
    "DebugHookConfig",
    "DebugRuleConfigurations",
    "ProfilerRuleConfigurations",
    "ServerlessJobConfig",
    "ModelPackageConfig",
)


def request(asked: Record) -> None:
    """Check the rules between members.

    Raises
    ------
    ApiError
        If a rule is broken, or it needs what the embedded SageMaker does not do.
    """
    for member in _NOT_OFFERED:
        if asked.get(member):
            raise validation_error(f"The embedded SageMaker does not offer {member} for training jobs.")
    algorithm, resources = asked["AlgorithmSpecification"], asked.get("ResourceConfig", {})
    if bool(algorithm.get("TrainingImage")) == bool(algorithm.get("AlgorithmName")):
        raise validation_error("Exactly one of TrainingImage and AlgorithmName must be given.")
    if "AlgorithmName" in algorithm:
        raise validation_error("The embedded SageMaker has no built-in algorithms: give a TrainingImage.")
    if algorithm["TrainingInputMode"] != "File":
        raise validation_error("The embedded SageMaker offers TrainingInputMode File only.")
    if not (resources.get("InstanceType") and resources.get("InstanceCount") and resources.get("VolumeSizeInGB")):
        raise validation_error("ResourceConfig needs InstanceType, InstanceCount and VolumeSizeInGB.")
    if resources["InstanceCount"] != 1:
        raise validation_error("The embedded SageMaker trains on one instance: InstanceCount must be 1.")
    stopping = asked.get("StoppingCondition", {})
    longest = stopping.get("MaxWaitTimeInSeconds")
    if asked.get("EnableManagedSpotTraining"):
        if longest is None or longest < stopping.get("MaxRuntimeInSeconds", 86_400):
            raise validation_error(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds."
            )
    elif longest is not None:
        raise validation_error("MaxWaitTimeInSeconds can only be set where EnableManagedSpotTraining is true.")
    _channels(asked.get("InputDataConfig", []))
    keys = [tag["Key"] for tag in asked.get("Tags", [])]
    if len(keys) != len(set(keys)):
        raise validation_error("Duplicate tag keys are not allowed.")


def _channels(channels: list[Record]) -> None:
    names = [channel["ChannelName"] for channel in channels]
    if len(names) != len(set(names)):
        raise validation_error("Channel names must be unique.")
    for channel in channels:
        source = channel["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] != "S3Prefix":
            raise validation_error(
                f"The embedded SageMaker reads channels from S3 prefixes: the channel {channel['ChannelName']} is none."
            )


def places(iam: Any, s3: Any, asked: Record, region: str) -> None:
    """Check the role, the channels and the bucket of the output through IAM and S3. Blocks.

    Raises
    ------
    ApiError
        If the role is not there or not trusted, a channel is empty, or the bucket is not there.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    output = asked["OutputDataConfig"]["S3OutputPath"]
    checks.execution_role(iam, asked["RoleArn"], output, region)
    try:
        for channel in asked.get("InputDataConfig", []):
            url = channel["DataSource"]["S3DataSource"]["S3Uri"]
            bucket, prefix = split(url)
            if not s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"):
                raise validation_error(f"No S3 objects found under S3 URL {url!r} given in input data source.")
        s3.head_bucket(Bucket=split(output)[0])
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in (403, 404):
            raise validation_error(f"S3 refused a place of the training job: {error}.") from None
        raise ApiError("InternalFailure", f"S3 failed: {error}", status=500) from error
    except BotoCoreError as error:
        raise ApiError("InternalFailure", f"S3 cannot be reached: {error}", status=500) from error


def split(url: str) -> tuple[str, str]:
    """Split ``s3://bucket/prefix``; the prefix may be empty and has no slash at its end.

    Raises
    ------
    ApiError
        If it is anything else.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise validation_error(f"{url!r} is not of the form s3://bucket/prefix.")
    return bucket, prefix.rstrip("/")
