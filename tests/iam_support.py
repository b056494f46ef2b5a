"""What the tests of permissions share: a deployer without more than its policies, and what is really called."""

import contextlib
import importlib.util
import json
import sys
import types
from collections.abc import Collection, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from askline.clients import LOCAL_KEY_VARIABLES, aws_client
from askline.records import Target
from deployments.iam.deployer import deployer_policies
from deployments.iam.execution import execution_policy, trust
from deployments.iam.scope import Scope

#: The IAM action of an operation, where it is not called like it. Tags given with a create take more.
ACTIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
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


class Deployer:
    """A user of an embedded cloud that enforces permissions, and the execution role."""

    def __init__(self, target: Target, scope: Scope) -> None:
        self.scope = scope
        self.iam = aws_client(target, "iam")
        role = scope.role.rpartition("/")[2]
        self.iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust()))
        self.iam.create_user(UserName=scope.user)
        made = self.iam.create_access_key(UserName=scope.user)["AccessKey"]
        self.keys = dict(zip(LOCAL_KEY_VARIABLES, (made["AccessKeyId"], made["SecretAccessKey"]), strict=True))
        self.allow()

    def allow(self, *, without: Collection[str] = ()) -> None:
        """Give user and role their policies, without some statements."""
        for policy in deployer_policies(self.scope):
            document = json.dumps(policy.without(*without).document())
            self.iam.put_user_policy(UserName=self.scope.user, PolicyName=policy.name, PolicyDocument=document)
        document = json.dumps(execution_policy(self.scope).without(*without).document())
        role = self.scope.role.rpartition("/")[2]
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
