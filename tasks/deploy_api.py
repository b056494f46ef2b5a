"""Deploying the HTTP API: the Lambda zip to S3, the CloudFormation stack, and the first answer.

::

    ref = deploy_api(ApiConfig(), bucket="…", prefix="deploy", target=target, tags={})
    ref.url    # https://….execute-api.….amazonaws.com/default/

The template is ``deployments/api.yaml``, the same for AWS and the embedded cloud. API Gateway serves the snapshot
that a Deployment resource took, and CloudFormation makes a new one only under a new logical id; so the id
``ApiDeployment`` gets the hash of the template and of what shapes the methods, and the stage always has the newest.
"""

import hashlib
import re
import time
from importlib.resources import files
from typing import Any, Literal

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.errors import CloudError, DeployError
from askline.progress import Progress, quiet
from askline.records import ApiRef, Target
from tasks.aws import cloudformation, lambda_zip
from tasks.aws.api_call import call_api
from tasks.registry import REGISTRY_PATH

#: Seconds for CloudFormation, and for the new function's first answer.
STACK_SECONDS = 900
HEALTH_SECONDS = 60

_DEPLOYMENT_ID = re.compile(r"\bApiDeployment\b")


def deploy_api(
    config: ApiConfig,
    *,
    bucket: str,
    prefix: str,
    target: Target,
    tags: dict[str, str],
    progress: Progress = quiet,
) -> ApiRef:
    """Create or update the API and return where it answers.

    Parameters
    ----------
    bucket, prefix
        Where in S3 the function's zip goes; the bucket must be there.
    tags
        AWS tags for everything in the stack.

    Raises
    ------
    PackageError
        If the function's zip cannot be built from what is installed.
    DeployError
        If the stack does not come up (with its failed events), or the API does not answer.
    CloudError
        If an AWS call is refused.
    """
    auth = resolve_auth(config, target)
    progress(0.05, "build the function")
    built = lambda_zip.build()
    key = f"{prefix.strip('/')}/api-{built.sha256[:32]}.zip".lstrip("/")
    progress(0.1, "upload the function")
    _upload(built, bucket=bucket, key=key, target=target)
    authorization = "AWS_IAM" if auth == "iam" else "NONE"
    template = stage_template(files("deployments").joinpath("api.yaml").read_text("utf-8"), authorization)
    stack = cloudformation.bring_up(
        aws_client(target, "cloudformation"),
        name=config.stack_name,
        template=template,
        parameters={
            "CodeBucket": bucket,
            "CodeKey": key,
            "StageName": config.stage,
            "AuthorizationType": authorization,
            "RegistryPath": REGISTRY_PATH,
            "RuntimeEndpointUrl": target.endpoints.get("sagemaker-runtime", ""),
            "SsmEndpointUrl": target.endpoints.get("ssm", ""),
        },
        tags=tags,
        wait_seconds=STACK_SECONDS,
        progress=lambda message: progress(0.5, message),
    )
    ref = ApiRef(
        url=_url(stack.outputs, target),
        stack_name=config.stack_name,
        stack_id=stack.stack_id,
        auth=auth,
        action=stack.action,
    )
    progress(0.9, "wait for its first answer")
    wait_until_healthy(ref, target=target)
    progress(1.0, ref.url)
    return ref


def resolve_auth(config: ApiConfig, target: Target) -> Literal["none", "iam"]:
    """Return who may call: what the configuration says, and by default anyone locally and signed requests on AWS."""
    if config.auth != "auto":
        return config.auth
    return "none" if target.kind == "local" else "iam"


def stage_template(template: str, authorization: str) -> str:
    """Return the template with ``ApiDeployment`` named after its content, so that a change reaches the stage."""
    digest = hashlib.sha256(f"{authorization}\n{template}".encode()).hexdigest()
    return _DEPLOYMENT_ID.sub(f"ApiDeployment{digest[:12]}", template)


def wait_until_healthy(api: ApiRef, *, target: Target, seconds: float = HEALTH_SECONDS) -> None:
    """Return when ``GET /health`` answers 200.

    Raises
    ------
    DeployError
        If it does not within ``seconds``; the message holds what it answered last.
    """
    import httpx

    deadline = time.monotonic() + seconds
    while True:
        try:
            response = call_api(api, "health", target=target)
        except httpx.HTTPError as error:
            last = str(error) or type(error).__name__
        else:
            if response.status_code == 200:
                return
            last = f"{response.status_code} {response.text[:500]}"
        if time.monotonic() >= deadline:
            raise DeployError(
                f"the API at {api.url} is deployed but did not answer GET health within {seconds:g} s; "
                f"its last word was: {last}. The function's log group is /aws/lambda/{api.stack_name}.",
                retryable=True,
            )
        time.sleep(1)


def _upload(built: lambda_zip.LambdaZip, *, bucket: str, key: str, target: Target) -> None:
    from botocore.exceptions import ClientError

    s3 = aws_client(target, "s3")
    try:
        if not _is_there(s3, bucket, key):
            s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=built.content,
                ContentType="application/zip",
                ChecksumAlgorithm="SHA256",
                Metadata={"content-sha256": built.sha256},
            )
    except ClientError as error:
        details = error.response.get("Error", {})
        raise CloudError(
            f"cannot put the API's function into s3://{bucket}/{key}: {details.get('Code')}: {details.get('Message')}. "
            "The bucket must exist, and the caller needs s3:GetObject and s3:PutObject on it.",
            retryable=details.get("Code") in {"SlowDown", "InternalError", "ServiceUnavailable"},
        ) from error


def _is_there(s3: Any, bucket: str, key: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        # 403 is what S3 says of a missing object to a caller who may not list the bucket.
        if error.response.get("Error", {}).get("Code") in {"404", "403", "NoSuchKey", "NotFound"}:
            return False
        raise
    return True


def _url(outputs: dict[str, str], target: Target) -> str:
    """Return the stage's address, with a slash at its end: curl does not add one to a path."""
    if target.kind == "aws":
        return outputs["ApiUrl"]
    gateway = target.endpoints["apigateway"].rstrip("/")
    port = gateway.rpartition(":")[2]
    return f"http://{outputs['ApiId']}.execute-api.localhost:{port}/{outputs['StageName']}/"
