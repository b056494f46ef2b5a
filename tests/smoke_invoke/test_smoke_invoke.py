"""Asking the deployed endpoint and API what the evaluation asked."""

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from support.clouds import deployed, upload
from support.loopback import Reply, replying
from support.tiny_package import QUESTIONS, UNANSWERABLE, Tiny, package, tiny, write_scores  # noqa: F401

from askline.config import ApiConfig, DeployConfig, SmokeConfig
from askline.errors import ArtifactError, DeployError
from askline.records import ApiRef, EndpointRef, PackageRef, Scores, SmokeAnswer, SmokeRef, Target
from askline.store import ArtifactStore
from tasks.deploy_api.deploy_api import deploy_api
from tasks.deploy_serverless import registry
from tasks.smoke_invoke.smoke_invoke import smoke_api, smoke_invoke
from tasks.workplace import Workplace

ENDPOINT = EndpointRef(
    name="serv-hf-endpoint-x",
    arn="arn",
    mlkey="x",
    model_name="m",
    config_name="c",
    image="i",
    memory_mb=1024,
    max_concurrency=1,
    action="created",
    seconds=1,
)


def at(url: str) -> Target:
    return Target(kind="local", region="us-east-1", endpoints={"sagemaker-runtime": url})


def says(text: str) -> Reply:
    content = json.dumps({"answers": [{"answer": text, "confidence": 1.0}], "model_version": "v"}).encode()
    return 200, {"Content-Type": "application/json"}, content


def refuses(code: str, status: int) -> Reply:
    return status, {"x-amzn-ErrorType": code, "Content-Type": "application/json"}, b'{"Message": "not now"}'


def knows(path: str, body: bytes) -> Reply:
    return says(QUESTIONS[json.loads(body)["inputs"]])


@pytest.fixture
def store(tmp_path: object) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


@pytest.fixture
def scores(store: ArtifactStore) -> Scores:
    return write_scores(store, "m" * 64, QUESTIONS)


def test_the_questions_come_from_all_over_and_one_is_out_of_scope(store: ArtifactStore, scores: Scores) -> None:
    told: list[float] = []
    with replying(knows) as url:
        smoke = smoke_invoke(
            SmokeConfig(questions=5),
            ENDPOINT,
            scores,
            place=Workplace(at(url), store=store, progress=lambda share, message="": told.append(share)),
        )
        again = smoke_invoke(SmokeConfig(questions=5), ENDPOINT, scores, place=Workplace(at(url), store=store))
    assert (smoke.asked, smoke.agreed) == (6, 6)
    assert [answer.expected == UNANSWERABLE for answer in smoke.answers] == [False] * 5 + [True]
    assert [answer.question for answer in again.answers] == [answer.question for answer in smoke.answers]
    assert smoke.cold_start_seconds == smoke.answers[0].seconds > 0
    assert "What is trained?" not in {answer.question for answer in smoke.answers}
    assert told[-1] == 1.0


def test_a_cold_endpoint_is_waited_for(store: ArtifactStore, scores: Scores) -> None:
    early = [refuses("ModelNotReadyException", 429), refuses("ServiceUnavailable", 503)]

    def wakes_up(path: str, body: bytes) -> Reply:
        return early.pop() if early else knows(path, body)

    with replying(wakes_up) as url:
        smoke = smoke_invoke(SmokeConfig(questions=2), ENDPOINT, scores, place=Workplace(at(url), store=store))
    assert smoke.agreed == smoke.asked == 3
    assert smoke.cold_start_seconds > 1


def test_an_endpoint_that_never_wakes_up_is_given_up(store: ArtifactStore, scores: Scores) -> None:
    started = time.monotonic()
    with (
        replying(lambda path, body: refuses("ModelNotReadyException", 429)) as url,
        pytest.raises(DeployError, match="ModelNotReadyException") as caught,
    ):
        smoke_invoke(SmokeConfig(), ENDPOINT, scores, cold_seconds=0.5, place=Workplace(at(url), store=store))
    assert caught.value.retryable
    assert time.monotonic() - started < 30


def test_an_error_of_the_model_is_not_waited_for(store: ArtifactStore, scores: Scores) -> None:
    calls: list[bytes] = []

    def fails(path: str, body: bytes) -> Reply:
        calls.append(body)
        return refuses("ModelError", 424)

    with replying(fails) as url, pytest.raises(DeployError, match="ModelError"):
        smoke_invoke(SmokeConfig(), ENDPOINT, scores, place=Workplace(at(url), store=store))
    assert len(calls) == 1


def test_a_first_call_that_times_out_is_asked_once_more(store: ArtifactStore, scores: Scores) -> None:
    slow = (
        424,
        {"x-amzn-ErrorType": "ModelError"},
        b'{"Message": "Your invocation timed out while waiting for a response"}',
    )
    early = [slow]

    def starts(path: str, body: bytes) -> Reply:
        return early.pop() if early else knows(path, body)

    with replying(starts) as url:
        smoke = smoke_invoke(SmokeConfig(questions=2), ENDPOINT, scores, place=Workplace(at(url), store=store))
        assert smoke.agreed == smoke.asked == 3
    calls: list[bytes] = []

    def too_slow(path: str, body: bytes) -> Reply:
        calls.append(body)
        return slow

    with replying(too_slow) as url, pytest.raises(DeployError, match="invocation timed out"):
        smoke_invoke(SmokeConfig(), ENDPOINT, scores, place=Workplace(at(url), store=store))
    assert len(calls) == 2


def test_other_answers_than_the_evaluations_are_shown(store: ArtifactStore, scores: Scores) -> None:
    with replying(lambda path, body: says("Vienna")) as url, pytest.raises(DeployError) as caught:
        smoke_invoke(SmokeConfig(questions=4), ENDPOINT, scores, place=Workplace(at(url), store=store))
    message = str(caught.value)
    assert "0 of 5" in message
    assert message.count("'Vienna'") == 3, "the first three"
    assert "in the evaluation" in message


def test_some_disagreement_can_be_allowed(store: ArtifactStore, scores: Scores) -> None:
    def mostly(path: str, body: bytes) -> Reply:
        answer = QUESTIONS[json.loads(body)["inputs"]]
        return says("something else" if answer == UNANSWERABLE else answer)

    with replying(mostly) as url:
        config = SmokeConfig(questions=9, min_agreement=0.9)
        smoke = smoke_invoke(config, ENDPOINT, scores, place=Workplace(at(url), store=store))
        assert (smoke.asked, smoke.agreed) == (10, 9)
        with pytest.raises(DeployError, match="9 of 10"):
            smoke_invoke(SmokeConfig(questions=9), ENDPOINT, scores, place=Workplace(at(url), store=store))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"answer": "Paris"}', b'{"answers": []}'])
def test_an_endpoint_that_serves_something_else(store: ArtifactStore, scores: Scores, body: bytes) -> None:
    with replying(lambda path, sent: (200, {}, body)) as url, pytest.raises(DeployError, match="does not serve"):
        smoke_invoke(SmokeConfig(), ENDPOINT, scores, place=Workplace(at(url), store=store))


def test_missing_predictions_are_an_error_of_the_store(store: ArtifactStore, scores: Scores) -> None:
    (store.path("scores", scores.sha256) / "predictions.jsonl").unlink()
    with pytest.raises(ArtifactError, match="damaged"):
        smoke_invoke(SmokeConfig(), ENDPOINT, scores, place=Workplace(at("http://127.0.0.1:1"), store=store))


SMOKE = SmokeRef(
    asked=1,
    agreed=1,
    answers=(SmokeAnswer(question="Où? & how", expected="a", evaluated="Irène", answered="Irène", seconds=1),),
    cold_start_seconds=1,
)


def api(url: str) -> ApiRef:
    return ApiRef(url=url + "/stage/", stack_name="s", stack_id="i", auth="none", action="created")


def test_the_api_is_asked_with_the_mlkey() -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(path: str, body: bytes) -> Reply:
        asked.append(parse_qs(urlsplit(path).query))
        return 200, {}, json.dumps({"answer": "Irène"}).encode()

    with replying(answer) as url:
        smoke_api(api(url), SMOKE, mlkey="curie", target=at(url))
    assert asked == [{"MLKey": ["curie"], "question": ["Où? & how"]}]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {}, b'{"error": "no such MLKey"}'), "404"),
        ((200, {}, b'{"answer": "Vienna"}'), "Vienna"),
        ((200, {}, b'"\\"Irene\\""'), "no JSON object"),
        ((200, {}, b"<html>"), "no JSON object"),
    ],
)
def test_an_api_that_answers_otherwise(answer: Reply, words: str) -> None:
    with replying(lambda path, body: answer) as url, pytest.raises(DeployError, match=words):
        smoke_api(api(url), SMOKE, mlkey="curie", target=at(url))


def test_an_api_that_cannot_be_reached(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    with pytest.raises(DeployError, match="cannot be reached") as caught:
        smoke_api(api(url), SMOKE, mlkey="curie", target=at(url))
    assert caught.value.retryable


@pytest.mark.slow
def test_the_deployed_endpoint_and_api_give_the_evaluations_answers(
    cloud: Target,
    tiny: Tiny,  # noqa: F811
    package: PackageRef,  # noqa: F811
) -> None:
    sent = upload(tiny, package, cloud, "smoke")
    endpoint = deployed(DeployConfig(mlkey="smoke"), sent, package, cloud)
    stack = ApiConfig(stack_name="smoke-test")
    open_api = deploy_api(stack, bucket=sent.bucket, prefix="api", tags={}, place=Workplace(cloud))
    registry.promote(
        "smoke",
        endpoint=endpoint.name,
        model_version=package.model_sha256[:12],
        archive_sha256=package.archive_sha256,
        dataset="d",
        exact_match=1.0,
        run_id="r",
        target=cloud,
    )
    smoke = smoke_invoke(
        SmokeConfig(),
        endpoint,
        tiny.scores,
        place=Workplace(cloud, store=tiny.store),
    )
    smoke_api(open_api, smoke, mlkey="smoke", target=cloud)
    assert smoke.asked == smoke.agreed == 9
    assert {answer.answered for answer in smoke.answers} > {UNANSWERABLE}
