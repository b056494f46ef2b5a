"""Deploying the HTTP API: the Lambda zip to S3, the CloudFormation stack, and the first answer.

::

    ref = deploy_api(ApiConfig(), bucket="…", prefix="deploy", place=place, tags={})
    ref.url    # https://….execute-api.….amazonaws.com/default/

The template is ``deployments/api.yaml``, the same for AWS and the embedded cloud. API Gateway serves the snapshot
that a Deployment resource took, and CloudFormation makes a new one only under a new logical id; so the id
``ApiDeployment`` gets the hash of the template and of what shapes the methods, and the stage always has the newest.
"""

import logging
import time
from typing import Any

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.errors import CloudError, DeployError
from askline.records import ApiRef, Target
from tasks.aws.errors import explained
from tasks.deploy_api import cloudformation, lambda_zip, standing
from tasks.deploy_api.call import call_api
from tasks.deploy_api.stack import (
    Auth,
    read_template,
    resolve_auth,
    stack_parameters,
    stage_template,
    writes_access_log,
)
from tasks.workplace import Workplace

#: Seconds for CloudFormation, and for the new function's first answer.
STACK_SECONDS = 900
HEALTH_SECONDS = 60

_AUTHS: dict[str, Auth] = {"none": "none", "iam": "iam", "key": "key", "cognito": "cognito"}

_log = logging.getLogger("askline.deploy-api")


def deploy_api(
    config: ApiConfig,
    *,
    bucket: str,
    prefix: str,
    place: Workplace,
    tags: dict[str, str],
    mlkey: str | None = None,
) -> ApiRef:
    """Create or update the API and return where it answers.

    Parameters
    ----------
    bucket, prefix
        Where in S3 the function's zip goes; the bucket must be there.
    tags
        AWS tags for everything in the stack.
    mlkey
        The MLKey that ``config.keep_warm_minutes`` keeps warm where the configuration names none.

    Raises
    ------
    ConfigError
        If an endpoint is to be kept warm and nothing says which.
    PackageError
        If the function's zip cannot be built from what is installed.
    DeployError
        If the stack does not come up (with its failed events), or the API does not answer.
    CloudError
        If an AWS call is refused.
    """
    target, progress = place.target, place.progress
    auth = resolve_auth(config, target)
    access_log = writes_access_log(config, aws_client(target, "apigateway"))
    if auth == "none" and target.kind == "aws":
        _log.warning("anyone can call this API, at your cost: api.auth is none")
    if not access_log and target.kind == "aws" and config.logs.access_log != "off":
        _log.warning("no access log: API Gateway may not write logs here; --api.logs.access-log-role true lets it")
    progress(0.05, "build the function")
    built = lambda_zip.build()
    key = f"{prefix.strip('/')}/api-{built.sha256[:32]}.zip".lstrip("/")
    wanted = stack_parameters(
        config, bucket=bucket, key=key, auth=auth, access_log=access_log, mlkey=mlkey, target=target
    )
    client = aws_client(target, "cloudformation")
    with explained(f"look at the stack {config.stack_name}"):
        before = standing_options(config, target)
    agreed = standing.agree(config, wanted, before)
    standing.require_leave(config, agreed)
    for change in agreed.changes:
        _log.warning("the API that all MLKeys share changes: %s", change)
    auth = _AUTHS[standing.auth_of(agreed.parameters)]
    progress(0.1, "upload the function")
    _upload(built, bucket=bucket, key=key, target=target)
    stack = cloudformation.bring_up(
        client,
        name=config.stack_name,
        template=stage_template(read_template(), auth),
        parameters=agreed.parameters,
        tags=tags,
        wait_seconds=STACK_SECONDS,
        progress=lambda message: progress(0.5, message),
    )
    ref = ApiRef(
        url=stage_url(stack.outputs, target),
        stack_name=config.stack_name,
        stack_id=stack.stack_id,
        auth=auth,
        action=stack.action,
        api_key_id=stack.outputs.get("ApiKeyId"),
        changes=agreed.changes,
    )
    progress(0.9, "wait for its first answer")
    wait_until_healthy(ref, target=target)
    progress(1.0, ref.url)
    return ref


def planned_changes(config: ApiConfig, target: Target, mlkey: str | None = None) -> standing.Agreed:
    """Return what a deployment with this configuration would change of the API that stands; it changes nothing.

    Raises
    ------
    ConfigError
        If an endpoint is to be kept warm and nothing says which.
    botocore.exceptions.ClientError
        If CloudFormation may not be asked.
    """
    before = standing_options(config, target)
    access_log = (before or {}).get("AccessLog") == "true"
    auth = resolve_auth(config, target)
    wanted = stack_parameters(config, bucket="", key="", auth=auth, access_log=access_log, mlkey=mlkey, target=target)
    return standing.agree(config, wanted, before)


def standing_options(config: ApiConfig, target: Target) -> dict[str, str] | None:
    """Return the parameters of the API's stack; None where none is up."""
    client = aws_client(target, "cloudformation")
    return standing.standing_parameters(cloudformation.describe(client, config.stack_name))


def wait_until_healthy(api: ApiRef, *, target: Target, seconds: float = HEALTH_SECONDS) -> None:
    """Return when ``GET /health`` answers 200, and answers nobody without credentials if the API asks for some.

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
            last = f"{response.status_code} {response.text[:500]}"
            if response.status_code == 200:
                if api.auth == "none" or _refuses_strangers(api, target):
                    return
                last = f"200 to a request without credentials, although api.auth is {api.auth}"
        if time.monotonic() >= deadline:
            raise DeployError(
                f"the API at {api.url} is deployed but did not answer GET health within {seconds:g} s; "
                f"its last word was: {last}. The function's log group is /aws/lambda/{api.stack_name}.",
                retryable=True,
            )
        time.sleep(1)


def _refuses_strangers(api: ApiRef, target: Target) -> bool:
    return call_api(api, "health", target=target, anonymous=True).status_code in (401, 403)


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


def stage_url(outputs: dict[str, str], target: Target) -> str:
    """Return the stage's address, with a slash at its end: curl does not add one to a path."""
    if target.kind == "aws":
        return outputs["ApiUrl"]
    gateway = target.endpoints["apigateway"].rstrip("/")
    port = gateway.rpartition(":")[2]
    return f"http://{outputs['ApiId']}.execute-api.localhost:{port}/{outputs['StageName']}/"
