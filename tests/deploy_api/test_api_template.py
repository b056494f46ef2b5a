"""deployments/api.yaml: what the configuration makes of it, on the embedded cloud and for the linters."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.errors import CloudError, ConfigError, DeployError
from askline.records import ApiRef, Target
from tasks.deploy_api import cloudformation, stack
from tasks.deploy_api.call import TOKEN_VARIABLE, call_api
from tasks.deploy_api.deploy_api import deploy_api, wait_until_healthy
from tasks.report import markdown
from tasks.report.report import _show_key
from tasks.workplace import Workplace

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deployments" / "api.yaml"
BUCKET = "askline-test-api-template"
STACK = "askline-template-test"
AWS = Target(kind="aws", region="eu-central-1")
LOCAL = Target(kind="local", region="us-east-1")


def config(**options: Any) -> ApiConfig:
    return ApiConfig.model_validate({"stack_name": STACK, **options})


def parameters(target: Target = AWS, *, mlkey: str | None = None, **options: Any) -> dict[str, str]:
    wanted = config(**options)
    auth = stack.resolve_auth(wanted, target)
    return stack.stack_parameters(wanted, bucket="b", key="k", auth=auth, access_log=False, mlkey=mlkey, target=target)


def parsed() -> dict[str, Any]:
    """The template, with intrinsic functions in their long form."""
    from cfnlint.decode import decode

    template, problems = decode(str(TEMPLATE))
    assert not problems
    return dict(template)


@pytest.fixture(scope="module")
def target(cloud: Target) -> Target:
    aws_client(cloud, "s3").create_bucket(Bucket=BUCKET)
    return cloud


@pytest.fixture(scope="module")
def deploy(target: Target) -> Iterator[Callable[..., ApiRef]]:
    """Deploy the one stack with these options and the defaults for the rest, whatever the last call left."""

    def deployed(**options: Any) -> ApiRef:
        # What is not set would stay as it is deployed, so each option is, and auth to what "auto" is here.
        every = config(**options).model_dump()
        every |= {"auth": stack.resolve_auth(config(**options), target), "allow_weaker": True}
        return deploy_api(
            config(**every), bucket=BUCKET, prefix="api", tags={}, mlkey="biography", place=Workplace(target)
        )

    yield deployed
    aws_client(target, "cloudformation").delete_stack(StackName=STACK)


def resources(target: Target) -> dict[str, str]:
    """Physical ids of the stack's resources, by logical id."""
    client = aws_client(target, "cloudformation")
    described = client.describe_stack_resources(StackName=STACK)["StackResources"]
    return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in described}


def environment(target: Target) -> dict[str, str]:
    client = aws_client(target, "lambda")
    described = client.get_function_configuration(FunctionName=resources(target)["Function"])
    return dict(described["Environment"]["Variables"])


def without_credentials(api: ApiRef, target: Target, **request: Any) -> tuple[int, dict[str, Any]]:
    response = call_api(api, "models", target=target, anonymous=True, **request)
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json; charset=utf-8"
    return response.status_code, response.json()


# On the embedded cloud


@pytest.mark.slow
def test_by_default_nothing_that_costs_or_remembers_is_made(deploy: Callable[..., ApiRef], target: Target) -> None:
    api = deploy()

    assert (api.auth, api.api_key_id) == ("none", None)
    assert call_api(api, "models", target=target).status_code == 200
    made = resources(target)
    assert {"Function", "LogGroup", "Stage", "ServerErrorAlarm", "LatencyAlarm", "ThrottleAlarm"} <= set(made)
    assert not set(made) & {"Key", "QuestionBucket", "ApiKey", "KeepWarm", "AccessLogGroup", "AlarmTopic"}
    variables = environment(target)
    assert variables["ASKLINE_QUESTION_LOG"] == ""
    assert variables["ASKLINE_COLD_WAIT"] == "20"
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "askline"
    assert variables["AWS_ENDPOINT_URL_S3"] == target.endpoints["s3"]


@pytest.mark.slow
def test_an_api_key_is_asked_for_and_sent(deploy: Callable[..., ApiRef], target: Target) -> None:
    before = deploy()
    api = deploy(auth="key")

    assert (api.url, api.action, api.auth) == (before.url, "updated", "key")
    status, problem = without_credentials(api, target)
    assert (status, problem["status"], problem["type"]) == (403, 403, "urn:askline:forbidden")
    assert "x-api-key" in problem["detail"]
    assert call_api(api, "models", target=target).status_code == 200
    assert api.api_key_id
    secret = stack.api_key(api.api_key_id, target)
    assert len(secret) >= 20
    assert secret not in api.model_dump_json()
    described = cloudformation.describe(aws_client(target, "cloudformation"), STACK)
    assert secret not in json.dumps(described, default=str)

    aws = Path(sys.executable).with_name("aws")
    if aws.exists():
        command = _show_key(api.api_key_id, target).replace(" aws ", f" {aws} ")
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert done.stdout.strip() == secret, done.stderr

    again = deploy(auth="key")
    assert (again.action, again.api_key_id) == ("unchanged", api.api_key_id)
    opened = deploy()
    assert (opened.url, opened.api_key_id) == (before.url, None)
    assert without_credentials(opened, target)[0] == 200


@pytest.mark.slow
def test_a_key_has_its_requests_for_a_day(deploy: Callable[..., ApiRef], target: Target) -> None:
    # Deploying asks once itself.
    api = deploy(auth="key", limits={"requests_per_day": 3})

    responses = [call_api(api, "models", target=target) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[-1].json()["type"] == "urn:askline:quota-exceeded"
    assert responses[-1].headers["retry-after"] == "3600"


@pytest.mark.slow
def test_more_than_the_rate_is_429(deploy: Callable[..., ApiRef], target: Target) -> None:
    api = deploy(limits={"requests_per_second": 1, "burst": 1})

    responses = [call_api(api, "nothing", target=target) for _ in range(4)]

    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert refused[0].json()["type"] == "urn:askline:throttled"
    assert refused[0].headers["retry-after"] == "1"


@pytest.fixture
def user(target: Target) -> dict[str, str]:
    """A user pool with one user, and that user's token."""
    # The embedded cloud answers for Cognito too, though nothing of ours needs it.
    cognito = aws_client(
        target.model_copy(update={"endpoints": {"cognito-idp": target.endpoints["s3"]}}), "cognito-idp"
    )
    pool = cognito.create_user_pool(PoolName="askline-test")["UserPool"]
    client = cognito.create_user_pool_client(
        UserPoolId=pool["Id"], ClientName="test", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]["ClientId"]
    cognito.admin_create_user(UserPoolId=pool["Id"], Username="ada", MessageAction="SUPPRESS")
    password = "Lovelace-1815"
    cognito.admin_set_user_password(UserPoolId=pool["Id"], Username="ada", Password=password, Permanent=True)
    signed_in = cognito.initiate_auth(
        ClientId=client,
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "ada", "PASSWORD": password},
    )
    return {"pool": pool["Arn"], "token": signed_in["AuthenticationResult"]["IdToken"]}


@pytest.mark.slow
def test_a_user_pools_token_is_asked_for(
    deploy: Callable[..., ApiRef], target: Target, user: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    api = deploy(auth="cognito", user_pool_arn=user["pool"])

    status, problem = without_credentials(api, target)
    assert (status, problem["type"]) == (401, "urn:askline:unauthorized")
    # Whoever deploys asks the function itself.
    direct = call_api(api, target=target, query={"MLKey": "no such model", "question": "Wer?"})
    assert (direct.status_code, direct.json()["status"]) == (400, 400)
    monkeypatch.setenv(TOKEN_VARIABLE, user["token"])
    assert call_api(api, "models", target=target).status_code == 200
    monkeypatch.setenv(TOKEN_VARIABLE, user["token"][:-8] + "AAAAAAAA")
    assert call_api(api, "models", target=target).status_code == 401


@pytest.mark.slow
def test_everything_switched_on_and_off_again(deploy: Callable[..., ApiRef], target: Target) -> None:
    before = deploy()
    full = deploy(
        auth="iam",
        kms_key="create",
        keep_warm_minutes=5,
        logs={"access_log": "on", "access_log_role": True, "tracing": True, "retention_days": 7},
        alarms={"notify": "ops@example.org", "p95_seconds": 2.5},
        question_log={"enabled": True, "redact": "text", "retention_days": 14},
    )

    assert (full.url, full.action) == (before.url, "updated")
    made = resources(target)
    variables = environment(target)
    bucket = made["QuestionBucket"]
    assert variables["ASKLINE_QUESTION_LOG"] == f"s3://{bucket}/questions"
    assert variables["ASKLINE_QUESTION_LOG_REDACT"] == "text"

    s3 = aws_client(target, "s3")
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    assert "aws:SecureTransport" in s3.get_bucket_policy(Bucket=bucket)["Policy"]
    groups = aws_client(target, "logs").describe_log_groups(logGroupNamePrefix="/aws/")["logGroups"]
    ours = {group["logGroupName"]: group for group in groups if group["logGroupName"].endswith(f"/{STACK}")}
    assert set(ours) == {f"/aws/lambda/{STACK}", f"/aws/apigateway/{STACK}"}
    assert {group["retentionInDays"] for group in ours.values()} == {7}
    assert all(made["Key"] in group["kmsKeyId"] for group in ours.values())
    alarms = aws_client(target, "cloudwatch").describe_alarms(AlarmNamePrefix=STACK)["MetricAlarms"]
    assert len(alarms) == 5
    assert all(made["AlarmTopic"] in alarm["AlarmActions"] for alarm in alarms)
    latency = next(alarm for alarm in alarms if alarm["MetricName"] == "Latency")
    assert (latency["ExtendedStatistic"], latency["Threshold"]) == ("p95", 2500)
    rule = aws_client(target, "events").describe_rule(Name=made["KeepWarm"])
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(5 minutes)", "ENABLED")
    targets = aws_client(target, "events").list_targets_by_rule(Rule=made["KeepWarm"])["Targets"]
    assert json.loads(targets[0]["Input"])["MLKey"] == "biography"
    policy = aws_client(target, "iam").get_role_policy(RoleName=made["Role"], PolicyName="answer-questions")
    document = policy["PolicyDocument"]
    if isinstance(document, str):
        document = json.loads(urllib.parse.unquote(document))
    writes = next(each for each in document["Statement"] if each["Sid"] == "WriteTheQuestionLog")
    assert (writes["Action"], writes["Resource"]) == ("s3:PutObject", f"arn:aws:s3:::{bucket}/questions/*")

    s3.put_object(Bucket=bucket, Key="questions/kept", Body=b"{}")
    # Off again, but for a question log in a bucket of one's own.
    after = deploy(logs={"access_log": "off"}, question_log={"enabled": True, "bucket": BUCKET, "prefix": "asked/api"})

    assert after.url == before.url
    assert not set(resources(target)) & {"Key", "QuestionBucket", "AccessLogGroup", "AlarmTopic", "KeepWarm"}
    assert environment(target)["ASKLINE_QUESTION_LOG"] == f"s3://{BUCKET}/asked/api"
    # What people asked is not deleted by a switch.
    assert s3.get_object(Bucket=bucket, Key="questions/kept")["Body"].read() == b"{}"


@pytest.mark.slow
def test_an_update_that_fails_leaves_the_api_as_it_was(deploy: Callable[..., ApiRef], target: Target) -> None:
    before = deploy()
    made = resources(target)
    wrong = stack.stack_parameters(
        config(), bucket=BUCKET, key="no-such-key.zip", auth="iam", access_log=False, mlkey=None, target=target
    )

    with pytest.raises(DeployError, match=r"UPDATE_ROLLBACK_COMPLETE[\s\S]*Function \(AWS::Lambda::Function\)"):
        cloudformation.bring_up(
            aws_client(target, "cloudformation"),
            name=STACK,
            template=stack.stage_template(stack.read_template(), "iam"),
            parameters=wrong,
            tags={},
            wait_seconds=60,
        )

    assert without_credentials(before, target)[0] == 200
    assert resources(target)["Api"] == made["Api"]


@pytest.mark.slow
def test_an_access_log_that_cannot_be_written_is_an_error_before_anything_changes(target: Target) -> None:
    gateway = aws_client(target, "apigateway")
    role = gateway.get_account().get("cloudwatchRoleArn")
    if role:
        gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": ""}])
    try:
        assert not stack.writes_access_log(config(), gateway)
        with pytest.raises(CloudError, match=r"--api\.logs\.access-log-role true"):
            stack.writes_access_log(config(logs={"access_log": "on"}), gateway)
    finally:
        if role:
            gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": role}])
    assert stack.writes_access_log(config(logs={"access_log_role": True}), gateway)
    assert not stack.writes_access_log(config(logs={"access_log": "off", "access_log_role": True}), gateway)


# What the configuration makes of the parameters


def test_an_api_that_answers_strangers_in_spite_of_its_configuration_is_an_error(free_port: int) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", free_port), Open) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        api = ApiRef(url=f"http://127.0.0.1:{free_port}/", stack_name="s", stack_id="i", auth="iam", action="created")
        with pytest.raises(DeployError, match="without credentials"):
            wait_until_healthy(api, target=LOCAL, seconds=0)
        server.shutdown()


def test_on_aws_callers_sign_unless_the_configuration_says_otherwise() -> None:
    assert parameters()["AuthorizationType"] == "AWS_IAM"
    assert parameters(LOCAL)["AuthorizationType"] == "NONE"
    assert parameters(auth="key")["AuthorizationType"] == "NONE"
    assert parameters(auth="key")["RequireApiKey"] == "true"
    assert parsed()["Parameters"]["AuthorizationType"]["Default"] == "AWS_IAM"


def test_every_parameter_is_one_of_the_templates() -> None:
    declared = set(parsed()["Parameters"])
    assert set(parameters()) <= declared
    assert declared - set(parameters()) == {"ModelTimeoutSeconds"}


def test_an_alarm_goes_to_a_topic_or_an_address() -> None:
    topic = "arn:aws:sns:eu-central-1:123456789012:ops"
    assert parameters(alarms={"notify": topic})["AlarmTopicArn"] == topic
    assert parameters(alarms={"notify": "a@b.example"})["AlarmEmail"] == "a@b.example"
    assert parameters(alarms={"notify": "a@b.example"})["AlarmTopicArn"] == ""


def test_what_is_kept_warm_is_the_model_that_is_deployed_unless_said_otherwise() -> None:
    assert parameters(keep_warm_minutes=5, mlkey="curie")["KeepWarmMLKey"] == "curie"
    assert parameters(keep_warm_minutes=5, keep_warm_mlkey="ada", mlkey="curie")["KeepWarmMLKey"] == "ada"
    assert parameters(mlkey="curie")["KeepWarmMLKey"] == ""
    with pytest.raises(ConfigError, match="keep_warm_mlkey"):
        parameters(keep_warm_minutes=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auth": "cognito"}, "user_pool_arn"),
        ({"user_pool_arn": "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/eu-central-1_x"}, "go together"),
        ({"limits": {"requests_per_day": 10}}, 'needs api.auth "key"'),
        ({"keep_warm_minutes": 1}, "keep_warm_minutes"),
        ({"logs": {"retention_days": 8}}, "retention_days"),
        ({"kms_key": "mine"}, "kms_key"),
        ({"alarms": {"notify": "nobody"}}, "notify"),
        ({"question_log": {"prefix": "/a/"}}, "prefix"),
        ({"question_log": {"redact": "some"}}, "redact"),
        ({"cold_wait_seconds": 25}, "cold_wait_seconds"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**options)


def test_the_printed_curl_says_where_the_key_goes() -> None:
    api = ApiRef(url="https://x/", stack_name="s", stack_id="i", auth="key", action="created", api_key_id="abc")
    words = shlex.split(markdown.curl(api, "biography", "Who?"))
    assert words[words.index("--header") + 1] == "x-api-key: <your key>"
    assert "x-api-key" not in markdown.curl(api.model_copy(update={"auth": "none"}), "biography", "Who?")
    assert _show_key("abc", AWS).endswith("get-api-key --include-value --query value --output text --api-key abc")
    assert "eu-central-1" in _show_key("abc", AWS)


# What linters cannot know


def test_the_template_fits_into_a_request() -> None:
    # CloudFormation takes a template of this many bytes in the request itself; a larger one has to be in S3.
    assert len(stack.stage_template(stack.read_template(), "cognito").encode()) < 51_200


def test_what_the_gateway_answers_is_a_problem_document_and_in_every_snapshot() -> None:
    template = parsed()
    answers = {
        name: each["Properties"]
        for name, each in template["Resources"].items()
        if each["Type"] == "AWS::ApiGateway::GatewayResponse"
    }
    assert set(answers) <= set(template["Resources"]["ApiDeployment"]["DependsOn"])
    for properties in answers.values():
        problem = json.loads(properties["ResponseTemplates"]["application/json"])
        assert problem["type"].startswith("urn:askline:")
        # API Gateway's own message can name the account.
        assert "context.error.message" not in json.dumps(problem)
        assert ("status" in problem) == ("StatusCode" in properties)
        assert properties.get("StatusCode") in (None, str(problem.get("status")))
        assert ("gatewayresponse.header.WWW-Authenticate" in properties["ResponseParameters"]) == (
            properties.get("StatusCode") == "401"
        )


def test_the_access_log_holds_no_question() -> None:
    setting = parsed()["Resources"]["Stage"]["Properties"]["AccessLogSetting"]
    line = setting["Fn::If"][1]["Format"]
    assert json.loads(line)["status"] == "$context.status"
    assert not [word for word in ("querystring", "body", "requestOverride", "input") if word in line]


def test_what_people_asked_outlives_the_stack_and_is_forgotten_by_age() -> None:
    bucket = parsed()["Resources"]["QuestionBucket"]
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    rule = bucket["Properties"]["LifecycleConfiguration"]["Rules"][0]
    assert (rule["Status"], rule["ExpirationInDays"]) == ("Enabled", {"Ref": "QuestionLogDays"})


def test_every_suppression_has_its_reason() -> None:
    reasons = []
    for resource in parsed()["Resources"].values():
        metadata = resource.get("Metadata", {})
        reasons += [each["comment"] for each in metadata.get("checkov", {}).get("skip", [])]
        reasons += [each["reason"] for each in metadata.get("cfn_nag", {}).get("rules_to_suppress", [])]
    assert reasons
    assert all(len(reason) > 20 for reason in reasons)


def test_the_template_passes_cfn_lint() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, TEMPLATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_passes_checkov() -> None:
    checkov = os.environ.get("ASKLINE_CHECKOV") or shutil.which("checkov")
    if checkov is None:
        pytest.skip("checkov is not installed; make audit installs it in an environment of its own and runs it")
    done = subprocess.run(
        [
            *(checkov, "--file", str(TEMPLATE), "--framework", "cloudformation"),
            # It would ask its maker's server for descriptions.
            *("--compact", "--quiet", "--skip-download"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
