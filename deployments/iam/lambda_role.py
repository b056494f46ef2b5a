"""The role of the API's function, read from the CloudFormation template that makes it: there is no second copy."""

import re
from typing import Any

from tasks.aws.iam import Scope
from tasks.deploy_api.stack import read_template, resolve_auth, stack_parameters


def lambda_role(scope: Scope) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return who may take the function's role on, and what it may do, as the stack of this configuration makes it."""
    template = _load(read_template())
    role = template["Resources"]["Role"]["Properties"]
    filled = _Filled(template, scope)
    trust = filled.value(role["AssumeRolePolicyDocument"])
    return trust, filled.value(role["Policies"][0]["PolicyDocument"])


class _Filled:
    """A template's intrinsic functions, with the parameters of a configuration."""

    def __init__(self, template: dict[str, Any], scope: Scope) -> None:
        from askline.records import Target

        self._template, self._scope = template, scope
        target = Target(kind="aws", region=scope.region)
        defaults = {name: str(found.get("Default", "")) for name, found in template["Parameters"].items()}
        api = scope.config.api
        given = stack_parameters(
            api,
            bucket=scope.bucket,
            key="api/function.zip",
            auth=resolve_auth(api, target),
            access_log=False,
            mlkey=scope.config.deploy.mlkey,
            target=target,
        )
        self._names = {
            **defaults,
            **given,
            "AWS::Partition": scope.partition,
            "AWS::Region": scope.region,
            "AWS::AccountId": scope.account,
            "AWS::StackName": api.stack_name,
        }

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [item for item in map(self.value, node) if item is not None]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, content), *_ = node.items()
            if name == "Ref":
                return None if content == "AWS::NoValue" else self._ref(content)
            if name == "Fn::If":
                condition, then, otherwise = content
                return self.value(then if self._holds({"Condition": condition}) else otherwise)
            if name == "Fn::Sub":
                return self._sub(content)
            if name == "Fn::GetAtt":
                return self._made(content.partition(".")[0])
        return {name: self.value(content) for name, content in node.items()}

    def _holds(self, condition: Any) -> bool:
        (name, content), *_ = condition.items()
        match name:
            case "Condition":
                return self._holds(self._template["Conditions"][content])
            case "Fn::Not":
                return not self._holds(content[0])
            case "Fn::And":
                return all(map(self._holds, content))
            case "Fn::Equals":
                return bool(self.value(content[0]) == self.value(content[1]))
        raise ValueError(f"deployments/api.yaml: the condition {name} is not known here")

    def _ref(self, name: str) -> str:
        return self._names[name] if name in self._names else self._made(name)

    def _sub(self, content: Any) -> str:
        text, local = content if isinstance(content, list) else (content, {})
        found = {name: self.value(node) for name, node in local.items()}
        return re.sub(r"\$\{([\w:]+)\}", lambda match: str(found.get(match[1]) or self._ref(match[1])), text)

    def _made(self, name: str) -> str:
        scope, stack = self._scope, self._scope.config.api.stack_name
        match name:
            case "LogGroup":
                return scope.arn("logs", f"log-group:/aws/lambda/{stack}:*")
            case "Key":
                return scope.arn("kms", "key/*")
            case "QuestionBucket":
                return f"{stack.lower()}-questionbucket-*"
        raise ValueError(f"deployments/api.yaml: what becomes of the resource {name} is not known here")


def _load(text: str) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """CloudFormation's short forms: ``!Sub x`` for ``Fn::Sub: x``."""

    def short(loader: Any, suffix: str, node: Any) -> Any:
        name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
        if isinstance(node, yaml.ScalarNode):
            return {name: loader.construct_scalar(node)}
        if isinstance(node, yaml.SequenceNode):
            return {name: loader.construct_sequence(node, deep=True)}
        return {name: loader.construct_mapping(node, deep=True)}

    Loader.add_multi_constructor("!", short)
    loaded: dict[str, Any] = yaml.load(text, Loader)  # noqa: S506 - a safe loader with CloudFormation's short forms
    return loaded
