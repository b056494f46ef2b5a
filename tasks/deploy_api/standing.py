"""The options of an API that stands already, which several MLKeys share: a run changes what it names, and no more.

An option that nobody set in this run leaves what is deployed. One that is set is carried out and announced. What would
make the API less strict than it is (open to anyone, less redaction, no daily quota …) is refused unless
``api.allow_weaker`` says that it is meant: a run of one MLKey does not undo what another one's owner relies on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from askline.config import ApiConfig
from askline.errors import ConfigError

#: The template's parameters to the options, any of which decides about them.
OPTIONS: dict[str, tuple[str, ...]] = {
    "StageName": ("stage",),
    "AuthorizationType": ("auth",),
    "RequireApiKey": ("auth",),
    "UserPoolArn": ("auth", "user_pool_arn"),
    "MemorySize": ("memory_mb",),
    "ColdWaitSeconds": ("cold_wait_seconds",),
    "ReservedConcurrency": ("limits.concurrency",),
    "RateLimit": ("limits.requests_per_second",),
    "BurstLimit": ("limits.burst",),
    "DailyQuota": ("limits.requests_per_day",),
    "LogRetentionDays": ("logs.retention_days",),
    "AccessLog": ("logs.access_log", "logs.access_log_role"),
    "AccessLogRole": ("logs.access_log_role",),
    "Tracing": ("logs.tracing",),
    "KmsKey": ("kms_key",),
    "Alarms": ("alarms.enabled",),
    "AlarmTopicArn": ("alarms.notify",),
    "AlarmEmail": ("alarms.notify",),
    "AlarmServerErrors": ("alarms.server_errors",),
    "AlarmClientErrors": ("alarms.client_errors",),
    "AlarmThrottles": ("alarms.throttles",),
    "AlarmLatencyMilliseconds": ("alarms.p95_seconds",),
    "QuestionLog": ("question_log.enabled",),
    "QuestionLogBucket": ("question_log.bucket",),
    "QuestionLogPrefix": ("question_log.prefix",),
    "QuestionLogRedact": ("question_log.redact",),
    "QuestionLogDays": ("question_log.retention_days",),
    "KeepWarmMinutes": ("keep_warm_minutes",),
    "KeepWarmMLKey": ("keep_warm_minutes", "keep_warm_mlkey"),
}

_AUTH = {"NONE": "none", "AWS_IAM": "iam", "COGNITO_USER_POOLS": "cognito"}
_STRENGTH = {"none": 0, "key": 1, "iam": 2, "cognito": 2}
_REDACTION = ("none", "personal", "text")


@dataclass(frozen=True)
class Agreed:
    """What a deployment is to have, and how that differs from what stands."""

    parameters: dict[str, str]
    changes: tuple[str, ...] = ()
    """Each as ``option: old → new``."""
    weaker: tuple[str, ...] = ()
    """Those of them that make the API less strict."""


def agree(config: ApiConfig, wanted: Mapping[str, str], standing: Mapping[str, str] | None) -> Agreed:
    """Return the parameters to deploy: what this run sets, else what stands, else the defaults.

    Parameters
    ----------
    wanted
        The template's parameters by this run's configuration alone.
    standing
        Those of the stack that is up; None where there is none.
    """
    if standing is None:
        return Agreed(dict(wanted))
    kept = {
        name: standing[name]
        for name, options in OPTIONS.items()
        if name in wanted and name in standing and not any(is_set(config, option) for option in options)
    }
    parameters = {**wanted, **kept}
    if auth_of(parameters) != "key":
        parameters["DailyQuota"] = "0"  # it counts a key's requests
    if parameters["KeepWarmMinutes"] != "0" and not parameters["KeepWarmMLKey"]:
        # The minutes are those that stand: alone, this run's configuration keeps nothing warm.
        parameters["KeepWarmMLKey"] = config.keep_warm_mlkey or standing.get("KeepWarmMLKey", "")
    changes: dict[str, str] = {}
    weaker: list[str] = []
    old, new = auth_of(standing), auth_of(parameters)
    if old != new:
        changes["auth"] = f"api.auth: {old} → {new}"
        if _STRENGTH[new] < _STRENGTH[old]:
            weaker.append(changes["auth"])
    for name in OPTIONS:
        option = OPTIONS[name][-1]
        before, after = standing.get(name), parameters.get(name)
        if before is None or before == after or option in ("auth", *changes):
            continue
        changes[option] = f"api.{option}: {before or 'none'} → {after or 'none'}"
        if _is_weaker(name, before, after or "", keeps_log=parameters["QuestionLog"] == "true", auth=new):
            weaker.append(changes[option])
    return Agreed(parameters, tuple(changes.values()), tuple(weaker))


def require_leave(config: ApiConfig, agreed: Agreed) -> None:
    """Return if nothing becomes less strict, or that is meant.

    Raises
    ------
    ConfigError
        With each such change.
    """
    if agreed.weaker and not config.allow_weaker:
        raise ConfigError(
            f"the API {config.stack_name} serves every MLKey, and this run would make it less strict: "
            f"{'; '.join(agreed.weaker)}. Leave the option out to keep what is deployed, take another api.stack_name, "
            "or add --api.allow-weaker true if that is meant"
        )


def auth_of(parameters: Mapping[str, str]) -> str:
    """Return who may call, as ``api.auth`` says it."""
    if parameters.get("RequireApiKey") == "true":
        return "key"
    return _AUTH.get(parameters.get("AuthorizationType", ""), "none")


def is_set(config: Any, option: str) -> bool:
    """Say whether somebody set an option, be it to its default; ``auto`` leaves the choice."""
    first, _, rest = option.partition(".")
    if first not in config.model_fields_set:
        return False
    value = getattr(config, first)
    return is_set(value, rest) if rest else value != "auto"


def standing_parameters(stack: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return the parameters of a stack's description; None where nothing stands that could serve."""
    if stack is None or stack["StackStatus"].removesuffix("_CLEANUP_IN_PROGRESS") not in _SERVING:
        return None
    return {each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])}


_SERVING = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_IN_PROGRESS"}


def _is_weaker(name: str, before: str, after: str, *, keeps_log: bool, auth: str) -> bool:
    if name == "QuestionLogRedact" and keeps_log:
        return _REDACTION.index(after) < _REDACTION.index(before)
    if name == "DailyQuota" and auth == "key":
        return before != "0" and (after == "0" or int(after) > int(before))
    if name == "KmsKey":
        return after == ""
    return name == "Alarms" and after == "false"
