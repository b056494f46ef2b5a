"""Whether the execution role and these credentials may do what lies ahead, by IAM's own simulation.

The statements are those that :mod:`deployments.iam` writes out. What the simulation does not know (bucket policies, an
organisation's limits on other resources) can still refuse a call; what it says is missing, is.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from askline.config import PipelineConfig
from askline.errors import ConfigError
from askline.records import DeployPlan, PreflightCheck, Target
from tasks.aws.errors import is_missing
from tasks.aws.iam import Policy, Statement, scope_of
from tasks.preflight.checks import Checks, bad, good, looking, made, unknown
from tasks.preflight.deployer import deployer_policies
from tasks.preflight.execution import execution_policy

#: What stands for a wildcard in the resources that the simulation is asked about.
_ANY = "preflight"
_PERMISSION = "iam:SimulatePrincipalPolicy"


def permission_checks(
    config: PipelineConfig, plan: DeployPlan, *, target: Target, found: Sequence[PreflightCheck] = ()
) -> Checks:
    """Yield whether the role and the caller have every permission that the configuration needs.

    Parameters
    ----------
    found
        What was checked before: of a role that is not as it must be, the permissions are not looked at.
    """
    deploy = config.deploy.model_copy(update={"role_arn": plan.serving.role_arn})
    try:
        scope = scope_of(config.model_copy(update={"deploy": deploy}))
    except ConfigError as error:
        yield unknown("permissions", f"not checked: {error}")
        return
    if any(check.name == "role" and check.passed is False for check in found):
        yield unknown("role's permissions", "not checked: see role")
    elif config.deploy.role_arn is not None:
        role = execution_policy(scope)
        yield from made(
            "role's permissions",
            _held("role's permissions", plan.serving.role_arn, [role], target, to="the execution role"),
            f"{_PERMISSION} on {plan.serving.role_arn}",
        )
    policies = [policy for policy in deployer_policies(scope) if policy.name != "operate"]
    yield from made("own permissions", _own(policies, target), _PERMISSION)


def _own(policies: Iterable[Policy], target: Target) -> Checks:
    """Yield what the caller may not, of all that deploying and looking after it takes."""
    name = "own permissions"
    arn = str(looking(target, "sts").get_caller_identity()["Arn"])
    kind, _, rest = arn.rpartition(":")[2].partition("/")
    if arn.endswith(":root"):
        yield good(name, "the account's root may do everything")
        return
    if kind == "assumed-role":
        # A session has no policies of its own to simulate; its role has.
        arn = str(looking(target, "iam").get_role(RoleName=rest.partition("/")[0])["Role"]["Arn"])
    elif kind not in ("user", "role"):
        yield unknown(name, f"not checked: IAM cannot simulate {arn}")
        return
    yield from _held(name, arn, policies, target, to="them")


def _held(name: str, arn: str, policies: Iterable[Policy], target: Target, *, to: str) -> Checks:
    from botocore.exceptions import ClientError

    iam = looking(target, "iam")
    missing: list[PreflightCheck] = []
    asked = 0
    for policy in policies:
        for statement in policy.statements:
            if statement.without_it:
                continue
            asked += 1
            try:
                lacking = _lacking(iam, arn, statement)
            except ClientError as error:
                if not is_missing(error):
                    raise
                yield unknown(name, f"not checked: IAM knows no {arn}")
                return
            if lacking:
                listed = ", ".join(lacking)
                missing.append(
                    bad(
                        name,
                        f"{arn.rpartition('/')[2]} may not {statement.step}: {listed} is missing",
                        f"grant {to} the statement {statement.sid} of python -m deployments.iam",
                    )
                )
    yield from missing or [good(name, f"{arn.rpartition('/')[2]} holds all {asked} statements that this needs")]


def _lacking(iam: Any, arn: str, statement: Statement) -> list[str]:
    """Return the actions of a statement that a principal may not do on each of its resources."""
    context = [
        {
            "ContextKeyName": key,
            "ContextKeyType": "string",
            "ContextKeyValues": [str(wanted if isinstance(wanted, str) else wanted[0])],
        }
        for operator in statement.condition.values()
        for key, wanted in operator.items()
    ]
    lacking: dict[str, None] = {}
    for resource in statement.resources:
        concrete = resource if resource == "*" else resource.replace("*", _ANY)
        found = iam.simulate_principal_policy(
            PolicySourceArn=arn,
            ActionNames=list(statement.actions),
            ResourceArns=[concrete],
            ContextEntries=context,
        )["EvaluationResults"]
        for result in found:
            if result["EvalDecision"] != "allowed":
                lacking[result["EvalActionName"]] = None
    return list(lacking)
