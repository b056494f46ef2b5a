"""Whether the role, the bucket, the topics and the folders are there, and such that SageMaker can use them."""

from typing import Any

from askline.config import PipelineConfig
from askline.records import DeployPlan, Target
from tasks.aws.errors import is_missing, status_of
from tasks.aws.execution_role import SERVICE
from tasks.preflight.checks import Checks, bad, good, looking, made


def account_checks(config: PipelineConfig, plan: DeployPlan, *, target: Target) -> Checks:
    """Yield what IAM, S3, SNS and KMS say of what the configuration names."""
    yield from made("role", _role(config, plan, target), "iam:GetRole")
    yield from made("bucket", _bucket(_bucket_of(plan.serving.archive_uri), target, own=True), "s3:ListBucket")
    asynchronous = config.deploy.asynchronous
    folders = {
        "deploy.asynchronous.output_path": asynchronous.output_path,
        "deploy.asynchronous.failure_path": asynchronous.failure_path,
        "deploy.data_capture.destination": config.deploy.data_capture.destination,
    }
    for option, uri in folders.items():
        if uri and _bucket_of(uri) != _bucket_of(plan.serving.archive_uri):
            bucket = _bucket_of(uri)
            yield from made(option, _bucket(bucket, target, name=option), "s3:ListBucket")
    for option, arn in (
        ("deploy.asynchronous.success_topic", asynchronous.success_topic),
        ("deploy.asynchronous.error_topic", asynchronous.error_topic),
        ("api.alarms.notify", config.api.alarms.notify if config.api.enabled else None),
    ):
        if arn and arn.startswith("arn:"):
            yield from made(option, _topic(option, arn, plan, target), "sns:GetTopicAttributes")
    if config.api.enabled and config.api.kms_key and config.api.kms_key != "create":
        key = config.api.kms_key
        yield from made("api.kms_key", _key(key, plan, target), "kms:DescribeKey")


def _role(config: PipelineConfig, plan: DeployPlan, target: Target) -> Checks:
    from botocore.exceptions import ClientError

    arn = plan.serving.role_arn
    if config.deploy.role_arn is None:
        yield good("role", "the pipeline makes it on the embedded cloud")
        return
    commands = "python -m deployments.iam writes its policies, and the commands that make it"
    name = arn.rpartition("/")[2]
    try:
        role = looking(target, "iam").get_role(RoleName=name)["Role"]
    except ClientError as error:
        if not is_missing(error):
            raise
        yield bad("role", f"there is no role {arn}", f"correct deploy.role_arn, or make the role: {commands}")
        return
    if role["Arn"] != arn:
        yield bad("role", f"the role {name} is {role['Arn']}, not {arn}", f"set deploy.role_arn to {role['Arn']}")
    elif not trusts_sagemaker(role["AssumeRolePolicyDocument"]):
        yield bad(
            "role",
            f"{arn} does not let {SERVICE} take it on",
            f"aws iam update-assume-role-policy --role-name {name} --policy-document "
            f"file://iam/execution-role-trust.json; {commands}",
        )
    else:
        yield good("role", f"{name} is there and trusts {SERVICE}")


def trusts_sagemaker(policy: Any) -> bool:
    """Say whether a trust policy lets SageMaker take the role on, and nothing in it denies that plainly."""
    statements = policy.get("Statement", []) if isinstance(policy, dict) else []
    allowed = False
    for statement in _listed(statements):
        principal = statement.get("Principal", {})
        services = _listed(principal.get("Service", [])) if isinstance(principal, dict) else []
        actions = {str(action).lower() for action in _listed(statement.get("Action", []))}
        if SERVICE not in services or not actions & {"sts:assumerole", "sts:*", "*"}:
            continue
        if statement.get("Effect") == "Deny" and not statement.get("Condition"):
            return False
        allowed = allowed or statement.get("Effect") == "Allow"
    return allowed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _bucket(bucket: str, target: Target, *, own: bool = False, name: str = "bucket") -> Checks:
    """Yield whether a bucket is there, is ours, and lies in the endpoint's region.

    Parameters
    ----------
    own
        Whether the upload makes the bucket where it is missing.
    """
    from botocore.exceptions import ClientError

    option = "package.bucket" if own else name
    region = target.region
    s3 = looking(target, "s3")
    account = str(looking(target, "sts").get_caller_identity()["Account"])
    try:
        found = s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except ClientError as error:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        elsewhere = headers.get("x-amz-bucket-region")
        if status_of(error) == 403:
            # A HEAD says no more: another account's, or s3:ListBucket is missing here.
            yield bad(
                name,
                f"{bucket} belongs to another account, or these credentials (account {account}) may not look at it",
                f"set {option} to a bucket of your own, or grant s3:ListBucket on it",
            )
        elif status_of(error) == 301 or elsewhere not in (None, region):
            yield _in_another_region(name, option, bucket, elsewhere or "another region", region)
        elif is_missing(error):
            if own:
                yield good(name, f"{bucket} is not there yet: the upload makes it, private and encrypted")
            else:
                yield bad(name, f"there is no bucket {bucket}", f"make it, or correct {option}")
        else:
            raise
        return
    place = found.get("BucketRegion") or region
    if place != region:
        yield _in_another_region(name, option, bucket, place, region)
    else:
        yield good(name, f"{bucket} is yours, in {place}")


def _in_another_region(name: str, option: str, bucket: str, place: str, region: str) -> Any:
    return bad(
        name,
        f"{bucket} is in {place}, and SageMaker in {region} cannot use it",
        f"set {option} to a bucket in {region}, or region to {place}",
    )


def _topic(option: str, arn: str, plan: DeployPlan, target: Target) -> Checks:
    from botocore.exceptions import ClientError

    region = arn.split(":")[3]
    if region != plan.region:
        yield bad(option, f"{arn} is in {region}", f"name a topic in {plan.region}")
        return
    try:
        looking(target, "sns").get_topic_attributes(TopicArn=arn)
    except ClientError as error:
        if status_of(error) != 404:
            raise
        name = arn.rpartition(":")[2]
        yield bad(option, f"there is no topic {arn}", f"correct {option}, or: aws sns create-topic --name {name}")
        return
    yield good(option, f"{arn} is there")


def _key(arn: str, plan: DeployPlan, target: Target) -> Checks:
    from botocore.exceptions import ClientError

    try:
        found = looking(target, "kms").describe_key(KeyId=arn)["KeyMetadata"]
    except ClientError as error:
        if status_of(error) not in (400, 404) or "NotFound" not in str(error):
            raise
        yield bad("api.kms_key", f"there is no key {arn}", "correct api.kms_key, or set it to create")
        return
    if not found.get("Enabled", True):
        yield bad("api.kms_key", f"{arn} is {found.get('KeyState', 'switched off')}", "enable it, or name another")
    elif arn.split(":")[3] != plan.region:
        yield bad("api.kms_key", f"{arn} is not in {plan.region}", f"name a key in {plan.region}")
    else:
        yield good("api.kms_key", "the key is there and enabled")


def _bucket_of(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[0]
