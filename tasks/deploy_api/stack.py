"""What the API's CloudFormation stack is given: the template, its parameters, and who may call."""

import hashlib
import re
import sys
from importlib.resources import files
from typing import Any, Literal

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.errors import CloudError, ConfigError
from askline.records import Target
from tasks.deploy_serverless.registry import REGISTRY_PATH

Auth = Literal["none", "iam", "key", "cognito"]

#: API Gateway's own name for each way to authorise; an API key is asked for beside it.
AUTHORIZATION: dict[Auth, str] = {"none": "NONE", "key": "NONE", "iam": "AWS_IAM", "cognito": "COGNITO_USER_POOLS"}

#: The zip holds bytecode for the Python that built it, which no other Python reads.
RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"

_DEPLOYMENT_ID = re.compile(r"\bApiDeployment\b")


def resolve_auth(config: ApiConfig, target: Target) -> Auth:
    """Return who may call: what the configuration says, and by default anyone locally and signed requests on AWS."""
    if config.auth != "auto":
        return config.auth
    return "none" if target.kind == "local" else "iam"


def read_template() -> str:
    """Return ``deployments/api.yaml``."""
    return files("deployments").joinpath("api.yaml").read_text("utf-8")


def stage_template(template: str, auth: str) -> str:
    """Return the template with ``ApiDeployment`` named after its content, so that a change reaches the stage."""
    digest = hashlib.sha256(f"{auth}\n{template}".encode()).hexdigest()
    return _DEPLOYMENT_ID.sub(f"ApiDeployment{digest[:12]}", template)


def stack_parameters(
    config: ApiConfig,
    *,
    bucket: str,
    key: str,
    auth: Auth,
    access_log: bool,
    mlkey: str | None,
    target: Target,
) -> dict[str, str]:
    """Return the template's parameters.

    Parameters
    ----------
    bucket, key
        The function's zip in S3.
    access_log
        Whether the stage writes one line for each request (:func:`writes_access_log`).
    mlkey
        The MLKey that is kept warm where the configuration names none.

    Raises
    ------
    ConfigError
        If an endpoint is to be kept warm and nothing says which.
    """
    warm_mlkey = config.keep_warm_mlkey or mlkey or ""
    if config.keep_warm_minutes and not warm_mlkey:
        raise ConfigError("api.keep_warm_minutes is set, and nothing says which model: set api.keep_warm_mlkey")
    limits, logs, alarms, questions = config.limits, config.logs, config.alarms, config.question_log
    notify = alarms.notify or ""
    return {
        "CodeBucket": bucket,
        "CodeKey": key,
        "StageName": config.stage,
        "AuthorizationType": AUTHORIZATION[auth],
        "UserPoolArn": config.user_pool_arn or "",
        "RequireApiKey": _switch(auth == "key"),
        "RegistryPath": REGISTRY_PATH,
        "Runtime": RUNTIME,
        "MemorySize": str(config.memory_mb),
        "ReservedConcurrency": str(limits.concurrency or 0),
        "ColdWaitSeconds": str(config.cold_wait_seconds),
        "RateLimit": str(limits.requests_per_second),
        "BurstLimit": str(limits.burst),
        "DailyQuota": str(limits.requests_per_day or 0),
        "LogRetentionDays": str(logs.retention_days),
        "AccessLog": _switch(access_log),
        "AccessLogRole": _switch(logs.access_log_role),
        "Tracing": _switch(logs.tracing),
        "KmsKey": config.kms_key or "",
        "Alarms": _switch(alarms.enabled),
        "AlarmTopicArn": notify if notify.startswith("arn:") else "",
        "AlarmEmail": "" if notify.startswith("arn:") else notify,
        "AlarmServerErrors": str(alarms.server_errors),
        "AlarmClientErrors": str(alarms.client_errors),
        "AlarmThrottles": str(alarms.throttles),
        "AlarmLatencyMilliseconds": str(round(alarms.p95_seconds * 1000)),
        "QuestionLog": _switch(questions.enabled),
        "QuestionLogBucket": questions.bucket or "",
        "QuestionLogPrefix": questions.prefix,
        "QuestionLogRedact": questions.redact,
        "QuestionLogDays": str(questions.retention_days),
        "KeepWarmMinutes": str(config.keep_warm_minutes or 0),
        "KeepWarmMLKey": warm_mlkey if config.keep_warm_minutes else "",
        "RuntimeEndpointUrl": target.endpoints.get("sagemaker-runtime", ""),
        "SsmEndpointUrl": target.endpoints.get("ssm", ""),
        "S3EndpointUrl": target.endpoints.get("s3", ""),
    }


def writes_access_log(config: ApiConfig, gateway: Any) -> bool:
    """Say whether the stage is to write an access log.

    API Gateway writes it through one role for the whole account and region, and refuses a stage that wants a log where
    there is none.

    Parameters
    ----------
    gateway
        boto3 client of ``apigateway``.

    Raises
    ------
    CloudError
        If the configuration wants the log and API Gateway may not write it, or the account's settings cannot be read.
    """
    from botocore.exceptions import ClientError

    logs = config.logs
    if logs.access_log == "off" or logs.access_log_role:
        return logs.access_log != "off"
    try:
        allowed = bool(gateway.get_account().get("cloudwatchRoleArn"))
    except ClientError as error:
        if logs.access_log == "auto":
            return False
        raise CloudError(
            f"cannot read API Gateway's account settings, which the access log needs: {error}. The caller needs "
            "apigateway:GET on /account; or leave the access log out with --api.logs.access-log off."
        ) from error
    if logs.access_log == "on" and not allowed:
        raise CloudError(
            "the API is to write an access log, and API Gateway may not write logs in this account and region; let it "
            "with --api.logs.access-log-role true, or leave the access log out with --api.logs.access-log off"
        )
    return allowed


def api_key(key_id: str, target: Target) -> str:
    """Return the API key itself. It is a secret: send it, and keep it out of logs, records and messages.

    Raises
    ------
    CloudError
        If API Gateway does not show it.
    """
    from botocore.exceptions import ClientError

    try:
        return str(aws_client(target, "apigateway").get_api_key(apiKey=key_id, includeValue=True)["value"])
    except (ClientError, KeyError) as error:
        raise CloudError(
            f"cannot read the API key {key_id}: {error}. The caller needs apigateway:GET on /apikeys/{key_id}."
        ) from error


def _switch(on: bool) -> str:
    return "true" if on else "false"
