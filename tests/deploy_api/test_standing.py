"""The options of the API that stands already: a run changes what it names, and says so."""

from typing import Any

import pytest

from askline.config import ApiConfig
from askline.errors import ConfigError
from askline.records import Target
from tasks.deploy_api.stack import resolve_auth, stack_parameters
from tasks.deploy_api.standing import Agreed, agree, auth_of, require_leave, standing_parameters

LOCAL = Target(kind="local", region="us-east-1")


def parameters(config: ApiConfig) -> dict[str, str]:
    auth = resolve_auth(config, LOCAL)
    return stack_parameters(config, bucket="b", key="k", auth=auth, access_log=False, mlkey="x", target=LOCAL)


def after(first: dict[str, Any], then: dict[str, Any]) -> Agreed:
    """Return what a run agrees on where one with other options has deployed before it."""
    config = ApiConfig.model_validate(then)
    return agree(config, parameters(config), parameters(ApiConfig.model_validate(first)))


SET = {
    "auth": "key",
    "limits": {"requests_per_day": 100, "burst": 7},
    "question_log": {"enabled": True, "redact": "text"},
    "alarms": {"notify": "a@example.org"},
    "stage": "live",
}


def test_options_that_are_not_set_leave_what_is_deployed() -> None:
    agreed = after(SET, {})
    assert agreed.changes == agreed.weaker == ()
    assert agreed.parameters == parameters(ApiConfig.model_validate(SET))
    assert auth_of(agreed.parameters) == "key"


def test_an_option_that_is_set_is_carried_out_and_announced() -> None:
    agreed = after(SET, {"limits": {"burst": 9}, "memory_mb": 512})
    assert agreed.changes == ("api.memory_mb: 256 → 512", "api.limits.burst: 7 → 9")
    assert agreed.weaker == ()
    assert agreed.parameters["DailyQuota"] == "100"


def test_an_option_that_is_set_to_its_default_is_set() -> None:
    agreed = after(SET, {"question_log": {"enabled": False}})
    assert agreed.changes == ("api.question_log.enabled: true → false",)
    assert agreed.parameters["QuestionLog"] == "false"


def test_what_was_switched_on_is_switched_off_by_name() -> None:
    from askline.command_line import load_command_line

    on = {
        "auth": "key",
        "limits": {"requests_per_day": 100, "concurrency": 3},
        "kms_key": "create",
        "keep_warm_minutes": 5,
        "alarms": {"notify": "a@example.org"},
        "question_log": {"enabled": True, "bucket": "a-bucket"},
    }
    nothing = ("limits.requests-per-day", "limits.concurrency", "kms-key", "keep-warm-minutes", "alarms.notify")
    off = [word for option in (*nothing, "question-log.bucket") for word in (f"--api.{option}", "None")]
    off += ["--api.auth", "none", "--api.question-log.enabled", "false", "--api.allow-weaker", "true"]
    config = load_command_line(off).config.api
    agreed = agree(config, parameters(config), parameters(ApiConfig.model_validate(on)))
    require_leave(config, agreed)
    assert agreed.parameters == parameters(ApiConfig())


def test_another_model_is_kept_warm_as_often_as_before() -> None:
    agreed = after({"keep_warm_minutes": 5, "keep_warm_mlkey": "ada"}, {"keep_warm_mlkey": "curie"})
    assert agreed.changes == ("api.keep_warm_mlkey: ada → curie",)
    assert (agreed.parameters["KeepWarmMinutes"], agreed.parameters["KeepWarmMLKey"]) == ("5", "curie")


@pytest.mark.parametrize(
    ("then", "change"),
    [
        ({"auth": "none"}, "api.auth: key → none"),
        ({"auth": "key", "limits": {"requests_per_day": None}}, "api.limits.requests_per_day: 100 → 0"),
        ({"auth": "key", "limits": {"requests_per_day": 1000}}, "api.limits.requests_per_day: 100 → 1000"),
        ({"question_log": {"redact": "personal"}}, "api.question_log.redact: text → personal"),
        ({"alarms": {"enabled": False}}, "api.alarms.enabled: true → false"),
    ],
)
def test_what_makes_the_api_less_strict_must_be_asked_for(then: dict[str, Any], change: str) -> None:
    agreed = after(SET, then)
    assert change in agreed.weaker
    with pytest.raises(ConfigError, match="less strict") as refused:
        require_leave(ApiConfig.model_validate(then), agreed)
    assert change in str(refused.value)
    require_leave(ApiConfig.model_validate({**then, "allow_weaker": True}), agreed)


def test_stricter_needs_no_leave() -> None:
    agreed = after(SET, {"auth": "iam"})
    assert agreed.changes[0] == "api.auth: key → iam"
    assert agreed.weaker == ()
    assert agreed.parameters["DailyQuota"] == "0", "it counts the requests of a key"


def test_a_new_api_has_what_the_configuration_says() -> None:
    config = ApiConfig()
    assert agree(config, parameters(config), None) == Agreed(parameters(config))


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "DELETE_IN_PROGRESS", "CREATE_FAILED", "REVIEW_IN_PROGRESS"])
def test_a_stack_that_serves_nobody_keeps_nothing(status: str) -> None:
    assert standing_parameters({"StackStatus": status, "Parameters": []}) is None
    assert standing_parameters(None) is None


def test_auto_is_no_choice() -> None:
    assert after({"auth": "key"}, {"auth": "auto"}).changes == ()


def test_the_command_line_tells_what_was_set() -> None:
    from askline.command_line import load_command_line

    config = load_command_line(["--api.limits.burst", "9"]).config
    assert config.api.model_fields_set == {"limits"}
    assert config.api.limits.model_fields_set == {"burst"}
