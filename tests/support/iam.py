"""What the tests of permissions share: a deployer without more than its policies, and what is really called."""

import contextlib
import importlib.util
import json
import sys
import types
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from askline.clients import LOCAL_KEY_VARIABLES, aws_client
from askline.records import Target
from tasks.aws.iam import Policy, Scope
from tasks.fine_tune.launch.permissions import has_its_own_role, role_of, training_role_policy
from tasks.preflight.deployer import deployer_policies
from tasks.preflight.execution import execution_policy, trust

#: The IAM action of an operation, where it is not called like it. Tags given with a create take more.
ACTIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:ListBuckets": "s3:ListAllMyBuckets",
    "s3:ListParts": "s3:ListMultipartUploadParts",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "apigateway:GetAccount": "apigateway:GET",
    "lambda:Invoke": "lambda:InvokeFunction",
}


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """Note the IAM action of every call that boto3 sends meanwhile; what its arguments take besides, too."""
    from botocore import handlers

    actions: set[str] = set()

    def note(model: Any, params: Any, **_: Any) -> None:
        service = model.service_model.signing_name
        operation = f"{service}:{model.name}"
        actions.add(ACTIONS.get(operation, operation))
        body = params.get("body")
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
        if service == "sagemaker" and model.name.startswith("Create") and '"Tags"' in text:
            actions.add("sagemaker:AddTags")
        if model.name == "CreateModel":
            actions.add("iam:PassRole")
        if service == "s3" and "x-amz-tagging" in {name.lower() for name in params.get("headers", {})}:
            actions.add("s3:PutObjectTagging")

    entry = ("before-call.*.*", note)
    handlers.BUILTIN_HANDLERS.append(entry)  # every client made from now on has it
    try:
        yield actions
    finally:
        handlers.BUILTIN_HANDLERS.remove(entry)


class Asked(NamedTuple):
    """What a call asks IAM for."""

    action: str
    resource: str
    context: dict[str, str]


@contextlib.contextmanager
def asked_of(scope: Scope) -> Iterator[list[Asked]]:
    """Note what every call of S3, SageMaker, CloudWatch Logs and IAM asks for meanwhile, s3fs's calls too."""
    from botocore import handlers

    noted: list[Asked] = []

    def note(model: Any, params: dict[str, Any], **_: Any) -> None:
        service = model.service_model.signing_name
        action = ACTIONS.get(f"{service}:{model.name}", f"{service}:{model.name}")
        noted.extend(_asked(scope, action, params))

    entry = ("before-parameter-build.*.*", note)
    handlers.BUILTIN_HANDLERS.append(entry)
    try:
        yield noted
    finally:
        handlers.BUILTIN_HANDLERS.remove(entry)


def _asked(scope: Scope, action: str, params: dict[str, Any]) -> Iterator[Asked]:
    service = action.partition(":")[0]
    if service == "s3":
        deleted = params.get("Delete", {}).get("Objects", [])
        keys = [params["Key"]] if "Key" in params else [each["Key"] for each in deleted]
        context = {"s3:prefix": params["Prefix"]} if "Prefix" in params else {}
        bucket = params.get("Bucket")
        for place in [f"{bucket}/{key}" for key in keys] or [bucket]:
            yield Asked(action, scope.s3(place) if place else "*", context)
    elif service == "sagemaker":
        name = params.get("TrainingJobName")
        resource = scope.arn("sagemaker", f"training-job/{name}") if name else "*"
        yield Asked(action, resource, {})
        if params.get("Tags"):
            yield Asked("sagemaker:AddTags", resource, {})
        if "RoleArn" in params:
            yield Asked("iam:PassRole", params["RoleArn"], {"iam:PassedToService": "sagemaker.amazonaws.com"})
    elif service == "logs":
        stream = params.get("logStreamName", "")
        yield Asked(action, scope.arn("logs", f"log-group:{params['logGroupName']}:log-stream:{stream}"), {})
    else:
        yield Asked(action, params.get("PolicySourceArn", "*"), {})


def allows(policies: Iterable[Policy], asked: Asked) -> bool:
    """Say whether a statement of the policies allows a call: its action, its resource and its condition fit."""
    return any(
        asked.action in statement.actions
        and any(fnmatchcase(asked.resource, pattern) for pattern in statement.resources)
        and all(
            key in asked.context
            and any(fnmatchcase(asked.context[key], one) for one in ([wanted] if isinstance(wanted, str) else wanted))
            for operator in statement.condition.values()
            for key, wanted in operator.items()
        )
        for policy in policies
        for statement in policy.statements
    )


class Deployer:
    """A user of an embedded cloud that enforces permissions, and the roles.

    Parameters
    ----------
    only
        Names of the policies that the user gets; the default is all.
    """

    def __init__(self, target: Target, scope: Scope, *, only: Collection[str] = ()) -> None:
        self.scope = scope
        self.iam = aws_client(target, "iam")
        self.policies = [policy for policy in deployer_policies(scope) if not only or policy.name in only]
        self.roles = {scope.role.rpartition("/")[2]: execution_policy(scope)}
        if has_its_own_role(scope):
            self.roles[role_of(scope).rpartition("/")[2]] = training_role_policy(scope)
        for role in self.roles:
            self.iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust()))
        self.iam.create_user(UserName=scope.user)
        made = self.iam.create_access_key(UserName=scope.user)["AccessKey"]
        self.keys = dict(zip(LOCAL_KEY_VARIABLES, (made["AccessKeyId"], made["SecretAccessKey"]), strict=True))
        self.allow()

    def allow(self, *, without: Collection[str] = ()) -> None:
        """Give user and roles their policies, without some statements."""
        for policy in self.policies:
            document = json.dumps(policy.without(*without).document())
            self.iam.put_user_policy(UserName=self.scope.user, PolicyName=policy.name, PolicyDocument=document)
        for role, policy in self.roles.items():
            document = json.dumps(policy.without(*without).document())
            self.iam.put_role_policy(RoleName=role, PolicyName="askline", PolicyDocument=document)


@cache
def _parliament() -> types.ModuleType:
    """Import parliament, which asks setuptools where its own two files lie; newer ones leave that to importlib."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return importlib.import_module("parliament")
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, name: str(files(package).joinpath(name))  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("parliament")
    finally:
        # pytest, for one, takes a module of that name for the real one.
        del sys.modules["pkg_resources"]


def lint(document: dict[str, Any]) -> list[str]:
    """Return what parliament has against a policy."""
    parliament = _parliament()
    found = parliament.analyze_policy_string(json.dumps(document), include_community_auditors=True).findings
    return [f"{finding.issue}: {finding.detail} {finding.location}" for finding in found]
