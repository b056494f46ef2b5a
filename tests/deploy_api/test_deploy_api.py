import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Reply
from support.runtime import answering, runtime_behind

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.errors import CloudError, ConfigError, DeployError
from askline.records import ApiRef, Target
from tasks.deploy_api import cloudformation
from tasks.deploy_api.call import call_api, dialable
from tasks.deploy_api.deploy_api import deploy_api, wait_until_healthy
from tasks.deploy_api.stack import read_template, resolve_auth, stage_template
from tasks.workplace import Workplace

ROOT = Path(__file__).parents[2]
BUCKET = "askline-test-deploy-api"
CONFIG = ApiConfig(stack_name="askline-api-test", cold_wait_seconds=1)
AWS = Target(kind="aws", region="eu-central-1")


def sagemaker_error(status: int, code: str, **more: Any) -> Reply:
    body = {"Message": "Endpoint of account 123456789012", **more}
    return status, {"x-amzn-ErrorType": code}, json.dumps(body).encode()


REPLIES: dict[str, Reply] = {
    "api-test-failing": sagemaker_error(424, "ModelError", OriginalStatusCode=400, OriginalMessage="boom"),
    "api-test-throttled": sagemaker_error(429, "ThrottlingException"),
    "api-test-cold": sagemaker_error(429, "ModelNotReadyException"),
    "api-test-down": sagemaker_error(503, "ServiceUnavailable"),
    "api-test-missing": sagemaker_error(400, "ValidationError"),
    "api-test-garbage": (200, {}, b"<html>"),
}
MLKEYS = ("api-test-good", "api-test-slow", *REPLIES)


def reply(mlkey: str, request: dict[str, Any]) -> Reply:
    """Do what the endpoint's name says."""
    if mlkey == "api-test-slow":
        time.sleep(3)
    return REPLIES.get(mlkey) or answering(f"ü: {request['inputs']}")


@pytest.fixture(scope="module")
def target(cloud: Target) -> Iterator[Target]:
    """The embedded cloud with our runtime, a bucket, and an MLKey for each thing that an endpoint can do."""
    with runtime_behind(cloud, *MLKEYS, bucket=BUCKET, reply=reply) as target:
        yield target


@pytest.fixture(scope="module")
def deploy(target: Target) -> Callable[[ApiConfig], ApiRef]:
    return lambda config: deploy_api(
        config, bucket=BUCKET, prefix="api", tags={"project": "askline"}, place=Workplace(target)
    )


@pytest.fixture(scope="module")
def api(deploy: Callable[[ApiConfig], ApiRef]) -> ApiRef:
    return deploy(CONFIG)


def output(target: Target, key: str) -> str:
    stack = cloudformation.describe(aws_client(target, "cloudformation"), CONFIG.stack_name)
    assert stack
    return str(next(found["OutputValue"] for found in stack["Outputs"] if found["OutputKey"] == key))


def deployment_of_the_stage(target: Target) -> str:
    stage = aws_client(target, "apigateway").get_stage(restApiId=output(target, "ApiId"), stageName=CONFIG.stage)
    return str(stage["deploymentId"])


@pytest.mark.slow
def test_every_way_to_ask_answers_over_http(api: ApiRef, target: Target) -> None:
    asked = {"MLKey": "api-test-good", "question": "Wo lebt Ada? + & ü"}
    responses = [
        call_api(api, query=asked, target=target),
        call_api(api, json=asked, target=target),
        call_api(api, method="POST", json=asked, target=target),
    ]

    for response in responses:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        body = response.json()
        assert body.pop("request_id")
        assert body == {
            "answer": "ü: Wo lebt Ada? + & ü",
            "MLKey": "api-test-good",
            "model_version": "m-1",
            "confidence": 0.5,
        }


@pytest.mark.slow
def test_the_first_versions_curl_works_as_it_was_written(api: ApiRef) -> None:
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--max-time", "60", "--noproxy", "*"),
            *("--location", "--request", "GET", api.url),
            *("--header", "Accept: application/json"),
            *("--header", "Content-Type: application/json"),
            *("--data", '{\n  "MLKey": "api-test-good",\n  "question": "WHat is your passion?"\n}'),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "ü: WHat is your passion?"


@pytest.mark.slow
def test_a_direct_invoke_answers(api: ApiRef, target: Target) -> None:
    payload = json.dumps({"MLKey": "api-test-good", "question": "Who?"})
    reply = aws_client(target, "lambda").invoke(FunctionName=output(target, "FunctionName"), Payload=payload)
    assert json.loads(reply["Payload"].read())["answer"] == "ü: Who?"


@pytest.mark.slow
def test_models_and_health_answer(api: ApiRef, target: Target) -> None:
    models = call_api(api, "models", target=target).json()["models"]
    assert {model["MLKey"] for model in models} >= set(MLKEYS)
    health = call_api(api, "health", target=target)
    assert (health.status_code, health.json()["status"]) == (200, "ok")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mlkey", "status"),
    [
        ("api-test-failing", 502),
        ("api-test-garbage", 502),
        ("api-test-throttled", 429),
        ("api-test-cold", 503),
        ("api-test-down", 503),
        ("api-test-missing", 503),
        ("api-test-unknown", 404),
        ("../api-test-good", 400),
    ],
)
def test_what_goes_wrong_behind_the_api_is_a_problem_document(
    api: ApiRef, target: Target, mlkey: str, status: int
) -> None:
    response = call_api(api, query={"MLKey": mlkey, "question": "Who?"}, target=target)

    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json; charset=utf-8"
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert "123456789012" not in response.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({}, 400),
        ({"path": "nothing/here"}, 404),
        ({"method": "DELETE"}, 405),
        ({"method": "POST", "path": "health"}, 405),
        ({"method": "POST", "json": {"MLKey": "api-test-good", "question": "x" * 300_000}}, 413),
    ],
)
def test_a_wrong_request_is_a_problem_document(
    api: ApiRef, target: Target, request_: dict[str, Any], status: int
) -> None:
    response = call_api(api, target=target, **request_)

    assert (response.status_code, response.json()["status"]) == (status, status)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.slow
def test_a_form_is_refused_as_such(api: ApiRef) -> None:
    done = subprocess.run(
        [
            *("curl", "--silent", "--max-time", "60", "--noproxy", "*", "--write-out", "\n%{http_code}"),
            *("--data", "MLKey=api-test-good&question=Who", api.url),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.stdout.splitlines()[-1] == "415"


@pytest.mark.slow
def test_a_slow_model_is_504(api: ApiRef, target: Target) -> None:
    client = aws_client(target, "lambda")
    name = output(target, "FunctionName")
    variables = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    client.update_function_configuration(
        FunctionName=name, Environment={"Variables": {**variables, "ASKLINE_MODEL_TIMEOUT": "1"}}
    )
    try:
        response = call_api(api, query={"MLKey": "api-test-slow", "question": "Who?"}, target=target)
    finally:
        client.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
    assert (response.status_code, response.json()["type"]) == (504, "urn:askline:model-timeout")


@pytest.mark.slow
def test_a_second_deployment_changes_nothing(
    api: ApiRef, deploy: Callable[[ApiConfig], ApiRef], target: Target
) -> None:
    s3 = aws_client(target, "s3")
    before = s3.list_objects_v2(Bucket=BUCKET)["Contents"]

    again = deploy(CONFIG)

    assert again == api.model_copy(update={"action": "unchanged"})
    assert s3.list_objects_v2(Bucket=BUCKET)["Contents"] == before
    assert len(before) == 1


@pytest.mark.slow
def test_signed_requests_only_reaches_the_stage_and_back(
    api: ApiRef, deploy: Callable[[ApiConfig], ApiRef], target: Target
) -> None:
    before = deployment_of_the_stage(target)
    signed = deploy(CONFIG.model_copy(update={"auth": "iam"}))
    try:
        # API Gateway itself goes on serving what the old deployment took.
        assert deployment_of_the_stage(target) != before
        assert (signed.auth, signed.action, signed.url) == ("iam", "updated", api.url)
        query = {"MLKey": "api-test-good", "question": "Who is it?"}
        assert call_api(signed, query=query, target=target).status_code == 200
        unsigned = call_api(api, query=query, target=target)
        assert (unsigned.status_code, unsigned.json()["type"]) == (401, "urn:askline:unauthorized")
        assert unsigned.headers["content-type"].startswith("application/problem+json")
        assert unsigned.headers["www-authenticate"] == "AWS4-HMAC-SHA256"
        # A run of another MLKey sets nothing: what is deployed stays.
        plain = deploy(ApiConfig(stack_name=CONFIG.stack_name))
        assert (plain.auth, plain.changes) == ("iam", ())
        with pytest.raises(ConfigError, match=r"less strict: api\.auth: iam → none.*--api\.allow-weaker true"):
            deploy(CONFIG.model_copy(update={"auth": "none"}))
        assert call_api(api, query=query, target=target).status_code == 401
    finally:
        opened = deploy(CONFIG.model_copy(update={"auth": "none", "allow_weaker": True}))
    assert opened.changes == ("api.auth: iam → none",)
    assert (opened.auth, opened.action) == ("none", "updated")
    assert call_api(opened, query=query, target=target).status_code == 200


@pytest.mark.slow
def test_a_control_plane_that_was_lost_is_made_again(
    api: ApiRef, deploy: Callable[[ApiConfig], ApiRef], target: Target
) -> None:
    client = aws_client(target, "cloudformation")
    config = CONFIG.model_copy(update={"stack_name": "askline-api-lost"})
    deploy(config)
    client.delete_stack(StackName=config.stack_name)
    client.get_waiter("stack_delete_complete").wait(StackName=config.stack_name, WaiterConfig={"Delay": 1})

    assert deploy(config).action == "created"


@pytest.mark.slow
def test_a_missing_bucket_is_named(target: Target) -> None:
    with pytest.raises(CloudError, match="s3://askline-test-no-such-bucket/api/api-"):
        deploy_api(CONFIG, bucket="askline-test-no-such-bucket", prefix="api", tags={}, place=Workplace(target))


GOOD = json.dumps({"Resources": {"Log": {"Type": "AWS::Logs::LogGroup"}}})
# Parameter Store has secure strings, CloudFormation does not make them.
BAD = json.dumps(
    {
        "Resources": {
            "Secret": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "SecureString", "Value": "x"}},
        }
    }
)


def bring_up(target: Target, name: str, template: str) -> cloudformation.Stack:
    return cloudformation.bring_up(
        aws_client(target, "cloudformation"), name=name, template=template, parameters={}, tags={}, wait_seconds=60
    )


@pytest.mark.slow
def test_a_stack_that_failed_says_why_and_is_made_again(target: Target) -> None:
    with pytest.raises(DeployError, match=r"ROLLBACK_COMPLETE[\s\S]*Secret \(AWS::SSM::Parameter\)"):
        bring_up(target, "test-failed", BAD)
    assert bring_up(target, "test-failed", GOOD).action == "created"
    assert bring_up(target, "test-failed", GOOD).action == "unchanged"


@pytest.mark.slow
def test_an_update_that_failed_leaves_the_stack_as_it_was(target: Target) -> None:
    bring_up(target, "test-update-failed", GOOD)
    with pytest.raises(DeployError, match=r"UPDATE_ROLLBACK_COMPLETE[\s\S]*Secret"):
        bring_up(target, "test-update-failed", BAD)
    assert bring_up(target, "test-update-failed", GOOD).action in {"unchanged", "updated"}


@pytest.mark.slow
def test_a_stack_that_is_only_a_change_set_is_made(target: Target) -> None:
    client = aws_client(target, "cloudformation")
    client.create_change_set(
        StackName="test-review",
        ChangeSetName="first",
        ChangeSetType="CREATE",
        TemplateBody=GOOD,
        Tags=[{"Key": cloudformation.OWNER_TAG, "Value": "test-review"}],
    )
    described = cloudformation.describe(client, "test-review")
    assert described
    assert described["StackStatus"] == "REVIEW_IN_PROGRESS"

    assert bring_up(target, "test-review", GOOD).action == "created"


@pytest.mark.slow
def test_somebody_elses_stack_is_left_alone(target: Target) -> None:
    client = aws_client(target, "cloudformation")
    stack_id = client.create_stack(StackName="test-foreign", TemplateBody=GOOD)["StackId"]
    client.get_waiter("stack_create_complete").wait(StackName=stack_id, WaiterConfig={"Delay": 1})

    with pytest.raises(DeployError, match="test-foreign that askline did not make"):
        bring_up(target, "test-foreign", BAD)
    assert client.get_template(StackName="test-foreign")["TemplateBody"]


class StuckCloudFormation:
    """A stack in one status, for ever."""

    def __init__(self, status: str) -> None:
        tags = [{"Key": cloudformation.OWNER_TAG, "Value": "x"}]
        self.stack = {"StackName": "stuck", "StackId": "id", "StackStatus": status, "Tags": tags}

    def describe_stacks(self, **_: str) -> dict[str, Any]:
        return {"Stacks": [self.stack]}


@pytest.mark.parametrize(
    ("status", "message", "retryable"),
    [
        ("UPDATE_IN_PROGRESS", "still UPDATE_IN_PROGRESS", True),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback", False),
    ],
)
def test_waiting_for_a_stack_has_an_end(status: str, message: str, retryable: bool) -> None:
    with pytest.raises(DeployError, match=message) as caught:
        cloudformation.bring_up(
            StuckCloudFormation(status), name="stuck", template=GOOD, parameters={}, tags={}, wait_seconds=0.1
        )
    assert caught.value.retryable == retryable


def test_an_api_that_does_not_answer_is_an_error(free_port: int) -> None:
    nobody = ApiRef(
        url=f"http://127.0.0.1:{free_port}/default/", stack_name="s", stack_id="i", auth="none", action="created"
    )
    with pytest.raises(DeployError, match=f"127.0.0.1:{free_port}"):
        wait_until_healthy(nobody, target=Target(kind="local", region="us-east-1"), seconds=0)


@pytest.mark.parametrize(
    ("url", "dialled", "headers"),
    [
        (
            "http://ab12.execute-api.localhost:4566/default/?a=b",
            "http://127.0.0.1:4566/default/?a=b",
            {"Host": "ab12.execute-api.localhost:4566"},
        ),
        ("https://ab12.execute-api.eu-central-1.amazonaws.com/default/", None, {}),
        ("http://127.0.0.1:80/", None, {}),
    ],
)
def test_a_local_name_is_dialled_without_asking_a_resolver(
    url: str, dialled: str | None, headers: dict[str, str]
) -> None:
    assert dialable(url) == (dialled or url, headers)


def test_the_api_is_open_by_default_only_on_this_machine() -> None:
    local = Target(kind="local", region="us-east-1")
    assert resolve_auth(ApiConfig(), local) == "none"
    assert resolve_auth(ApiConfig(), AWS) == "iam"
    assert resolve_auth(ApiConfig(auth="none"), AWS) == "none"


def test_the_deployment_is_named_after_what_it_deploys() -> None:
    template = read_template()

    named = stage_template(template, "none")

    assert named == stage_template(template, "none")
    assert len({named, stage_template(template, "key"), stage_template(template, "iam")}) == 3
    assert named != stage_template(template + "# changed\n", "none")
    assert "ApiDeployment\n" not in named
    assert "ApiDeployment:" not in named
