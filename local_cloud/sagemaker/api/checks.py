"""What SageMaker checks beyond a request's shape: other resources, S3, IAM, and rules between members."""

import re
from typing import Any

from local_cloud.sagemaker.archive import parse_s3_url
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.instances import instance_type
from local_cloud.sagemaker.state import Record

_ECR_IMAGE = re.compile(r"\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/\S+")
_SERVICE = "sagemaker.amazonaws.com"
_MEMORY_TIERS_MB = (1024, 2048, 3072, 4096, 5120, 6144)


def not_offered(member: str) -> ApiError:
    """Return the refusal of what serverless endpoints exclude and instances would need a real cloud for."""
    return validation_error(f"{member} is not supported for serverless endpoints, nor by the embedded SageMaker.")


def not_serverless(member: str) -> ApiError:
    """Return the refusal of what only instances have."""
    return validation_error(f"{member} is not supported for serverless endpoints.")


def model_container(request: Record) -> Record:
    """Return the one container of a CreateModel request, with ``ModelDataUrl`` set from whichever form it has.

    Raises
    ------
    ApiError
        If there is not exactly one, or it needs what the embedded SageMaker does not do.
    """
    containers = request.get("Containers") or []
    if "PrimaryContainer" in request and containers:
        raise validation_error("Both PrimaryContainer and Containers are set: give one of them.")
    if "PrimaryContainer" in request:
        containers = [request["PrimaryContainer"]]
    if len(containers) != 1:
        raise validation_error(
            f"Exactly one container is needed, {len(containers)} given: inference pipelines are not offered."
        )
    container: Record = containers[0]
    for member in ("ModelPackageName", "AdditionalModelDataSources"):
        if container.get(member):
            raise validation_error(f"The embedded SageMaker does not offer {member}.")
    image = container.get("Image")
    if not image:
        raise validation_error("The container needs an Image.")
    if not _ECR_IMAGE.fullmatch(image):
        raise validation_error(f'Using non-ECR image "{image}" without Vpc repository access mode is not supported.')
    url = container.get("ModelDataUrl")
    source = container.get("ModelDataSource", {}).get("S3DataSource")
    if url and source:
        raise validation_error("Both ModelDataUrl and ModelDataSource are set: give one of them.")
    if source:
        if source["S3DataType"] != "S3Object" or source["CompressionType"] != "Gzip":
            raise validation_error("The embedded SageMaker serves S3DataType S3Object with CompressionType Gzip.")
        url = source["S3Uri"]
    if not url:
        raise validation_error("The container needs a ModelDataUrl: the embedded SageMaker does not run images.")
    try:
        parse_s3_url(url)
    except ValueError as error:
        raise validation_error(f"ModelDataUrl {error}.") from None
    made = {"Image": image, "Environment": container.get("Environment", {}), "ModelDataUrl": url}
    if container.get("Mode") == "MultiModel":
        if source:
            raise validation_error("A multi-model container needs a ModelDataUrl, the prefix of its models.")
        made["Mode"] = "MultiModel"
    return made


def execution_role(iam: Any, role_arn: str, model_data_url: str, region: str) -> None:
    """Check through IAM that the role exists and that SageMaker may assume it. Blocks.

    Raises
    ------
    ApiError
        If not, or if IAM cannot be reached.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    refusal = validation_error(
        f'Could not access model data at {model_data_url}. Please ensure that the role "{role_arn}" exists and that '
        f'its trust relationship policy allows the action "sts:AssumeRole" for the service principal "{_SERVICE}". '
        f'Also ensure that the role has "s3:GetObject" permissions and that the object is located in {region}.'
    )
    try:
        role = iam.get_role(RoleName=role_arn.rpartition("/")[2])["Role"]
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchEntity", "NoSuchEntityException", "ValidationError"):
            raise refusal from None
        raise ApiError("InternalFailure", f"IAM refused to show {role_arn}: {error}", status=500) from error
    except BotoCoreError as error:
        raise ApiError("InternalFailure", f"IAM cannot be reached: {error}", status=500) from error
    if role["Arn"] != role_arn or not _trusted(role["AssumeRolePolicyDocument"]):
        raise refusal


def _trusted(policy: Any) -> bool:
    statements = policy.get("Statement", []) if isinstance(policy, dict) else []
    for statement in _as_list(statements):
        principal = statement.get("Principal", {})
        services = _as_list(principal.get("Service", [])) if isinstance(principal, dict) else []
        actions = {str(action).lower() for action in _as_list(statement.get("Action", []))}
        if statement.get("Effect") == "Allow" and _SERVICE in services and actions & {"sts:assumerole", "sts:*", "*"}:
            return True
    return False


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def model_data(s3: Any, container: Record) -> None:
    """Check that the archive exists, or for a multi-model container that something lies under the prefix. Blocks.

    Raises
    ------
    ApiError
        If it does not, or if S3 cannot be reached.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    url = container["ModelDataUrl"]
    bucket, key = parse_s3_url(url)
    try:
        if container.get("Mode") == "MultiModel":
            s3.head_bucket(Bucket=bucket)  # the prefix may be empty still
        else:
            s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in (403, 404):
            raise validation_error(f"Could not find model data at {url}.") from None
        raise ApiError("InternalFailure", f"S3 refused to show {url}: {error}", status=500) from error
    except BotoCoreError as error:
        raise ApiError("InternalFailure", f"S3 cannot be reached: {error}", status=500) from error


def endpoint_config(request: Record) -> Record:
    """Check the rules between members of a CreateEndpointConfig request and return its one production variant.

    Raises
    ------
    ApiError
        If a rule is broken, or it needs what the embedded SageMaker does not do.
    """
    variants = request["ProductionVariants"]
    if len(variants) > 1 or request.get("ShadowProductionVariants"):
        raise validation_error("The embedded SageMaker serves one production variant and no shadow variants.")
    variant: Record = variants[0]
    for member in ("ExplainerConfig", "VpcConfig"):
        if request.get(member):
            raise not_offered(member)
    for member in ("InstancePools", "ManagedInstanceScaling", "CapacityReservationConfig", "AcceleratorType"):
        if variant.get(member):
            raise validation_error(f"The embedded SageMaker does not offer {member}.")
    if not variant.get("ModelName"):
        raise validation_error("The production variant needs a ModelName.")
    serverless = variant.get("ServerlessConfig")
    if serverless is None:
        _instances(variant)
        _destinations(request)
        return variant
    for member in ("AsyncInferenceConfig", "DataCaptureConfig"):
        if request.get(member):
            raise not_serverless(member)
    for member in ("InstanceType", "InitialInstanceCount", "VolumeSizeInGB", "CoreDumpConfig"):
        if variant.get(member):
            raise validation_error(f"{member} cannot be set together with ServerlessConfig.")
    memory, most = serverless["MemorySizeInMB"], serverless["MaxConcurrency"]
    if memory not in _MEMORY_TIERS_MB:
        tiers = ", ".join(map(str, _MEMORY_TIERS_MB))
        raise validation_error(
            f"1 validation error detected: Value '{memory}' at "
            "'productionVariants.1.member.serverlessConfig.memorySizeInMB' "
            f"failed to satisfy constraint: Member must satisfy enum value set: [{tiers}]"
        )
    if serverless.get("ProvisionedConcurrency", 0) > most:
        raise validation_error(f"ProvisionedConcurrency must be less than or equal to MaxConcurrency ({most}).")
    return variant


def _instances(variant: Record) -> None:
    if not (variant.get("InstanceType") and variant.get("InitialInstanceCount")):
        raise validation_error(
            "The production variant needs a ServerlessConfig, or InstanceType and InitialInstanceCount."
        )
    kind = variant["InstanceType"]
    if variant.get("VolumeSizeInGB") and instance_type(kind).local_nvme_gb:
        raise validation_error(f"VolumeSizeInGB cannot be set for {kind}: its storage is its own local NVMe.")


def _destinations(request: Record) -> None:
    """Check where an endpoint on instances writes to."""
    capture, asynchronous = request.get("DataCaptureConfig"), request.get("AsyncInferenceConfig")
    places = {}
    if capture:
        if asynchronous:
            raise validation_error("The embedded SageMaker does not capture the data of asynchronous endpoints.")
        places["DataCaptureConfig.DestinationS3Uri"] = capture["DestinationS3Uri"]
    if asynchronous:
        output = asynchronous["OutputConfig"]
        if not output.get("S3OutputPath"):
            raise validation_error("The embedded SageMaker needs an S3OutputPath in AsyncInferenceConfig.OutputConfig.")
        for member in ("S3OutputPath", "S3FailurePath"):
            if member in output:
                places[f"AsyncInferenceConfig.OutputConfig.{member}"] = output[member]
    for member, url in places.items():
        if not re.fullmatch(r"s3://[^/]+(/.*)?", url):
            raise validation_error(f"{member} {url!r} is not of the form s3://bucket/prefix.")


def deployment_config(config: Record, variant: Record) -> None:
    """Check the rules between members of a DeploymentConfig.

    Raises
    ------
    ApiError
        If a rule is broken.
    """
    rolling, blue_green = config.get("RollingUpdatePolicy"), config.get("BlueGreenUpdatePolicy")
    if rolling and blue_green:
        raise validation_error("Both BlueGreenUpdatePolicy and RollingUpdatePolicy are set: give one of them.")
    if "ServerlessConfig" in variant and rolling:
        raise not_serverless("RollingUpdatePolicy")
    if not blue_green:
        return
    routing = blue_green["TrafficRoutingConfiguration"]
    if "ServerlessConfig" in variant and routing["Type"] != "ALL_AT_ONCE":
        raise not_serverless(f"TrafficRoutingConfiguration.Type {routing['Type']}")
    needed = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}
    for kind, member in needed.items():
        if (routing["Type"] == kind) is not (member in routing):
            raise validation_error(f"{member} must be set for the type {kind}, and for no other.")
    size = routing.get("CanarySize") or routing.get("LinearStepSize")
    # "at most 50 % of the new fleet", for both
    if size and size["Type"] == "CAPACITY_PERCENT" and size["Value"] > 50:
        raise validation_error(
            f"A canary or a linear step has at most 50 percent of the capacity, not {size['Value']}."
        )
