"""Champion and challenger: what is asked, what it proves, and what may be promoted."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import tiny_package
from support.clouds import deployed as deploy
from support.clouds import upload
from support.tiny_datasets import write_dataset
from support.tiny_package import Tiny, make_tiny, package, tiny  # noqa: F401

from askline.config import DeployConfig, EvaluationConfig
from askline.errors import CloudError
from askline.records import ChampionRef, Comparison, Gate, ModelRef, PackageRef, Paired, Scores, SplitScores, Target
from askline.store import ArtifactStore
from tasks.ask.endpoint import BATCH, Caller
from tasks.deploy_serverless import registry
from tasks.gate.champion import challenge
from tasks.gate.gate import answered, weigh
from tasks.gate.paired import Pair, compare
from tasks.gate.verdict import verdict
from tasks.qa.held_out import read_held_out
from tasks.report import markdown
from tasks.report.words import words
from tasks.workplace import Workplace

NEW, OLD = "b" * 64, "a" * 64
UNANSWERABLE = "I don't know"
#: 40 questions in scope, two wordings to a fact, and 10 out of scope.
ROWS = [(f"Question {n} of fact {n // 2}?", f"answer {n // 2}", f"fact {n // 2}") for n in range(40)]
ROWS += [(f"Stray question {n}?", UNANSWERABLE, None) for n in range(10)]
RIGHT = {question: answer for question, answer, _ in ROWS}
CHAMPION = ChampionRef(
    mlkey="x",
    endpoint="serv-hf-endpoint-x",
    model_version=OLD[:12],
    archive_sha256="c" * 64,
    dataset="old.csv@1",
    promoted_at="2026-01-01T00:00:00+00:00",
    run_id="run-0",
)


# --- the tests of significance ----------------------------------------------------------------------------------------


def pairs(both: int, champion: int, challenger: int, neither: int = 0) -> list[Pair]:
    kinds = (
        [(True, True)] * both + [(True, False)] * champion + [(False, True)] * challenger + [(False, False)] * neither
    )
    return [Pair(*kind, fact=str(number)) for number, kind in enumerate(kinds)]


def test_mcnemar_is_the_exact_binomial_one() -> None:
    found = compare(pairs(50, 2, 10, 20), alpha=0.05)
    assert found is not None
    # P(10 or more heads of 12) = (66 + 12 + 1) / 4096
    assert found.p_better == pytest.approx(79 / 4096)
    assert found.p_worse == pytest.approx(1 - (1 + 12) / 4096)
    assert (found.questions, found.only_champion, found.only_challenger) == (82, 2, 10)
    assert found.difference == pytest.approx(8 / 82)
    assert 0 < found.low < found.difference < found.high


def test_models_that_agree_everywhere_differ_by_nothing() -> None:
    found = compare(pairs(30, 0, 0, 5), alpha=0.05)
    assert found is not None
    assert (found.p_better, found.p_worse, found.low, found.high) == (1, 1, 0, 0)
    assert compare([], alpha=0.05) is None


def test_wordings_of_one_fact_count_for_less_than_as_many_facts() -> None:
    apart = pairs(20, 3, 9, 4)
    together = [pair._replace(fact=str(number // 3)) for number, pair in enumerate(apart)]
    wide, narrow = compare(together, alpha=0.05), compare(apart, alpha=0.05)
    assert wide is not None
    assert narrow is not None
    assert wide.p_better == narrow.p_better
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_same_pairs_give_the_same_interval() -> None:
    assert compare(pairs(20, 3, 9, 4), alpha=0.05) == compare(pairs(20, 3, 9, 4), alpha=0.05)


def test_noise_is_promoted_no_more_often_than_alpha_says() -> None:
    chance = random.Random(5)
    config = EvaluationConfig(alpha=0.05)
    promoted = 0
    for _ in range(60):
        drawn = [Pair(chance.random() < 0.8, chance.random() < 0.8, str(number)) for number in range(120)]
        overall = compare(drawn, alpha=config.alpha)
        promoted += verdict(config, overall, None, None)[0] == "better"
    # Of 60 draws at 5 %, more than 7 come up less than once in a hundred.
    assert promoted <= 7


@pytest.mark.parametrize(
    ("wins", "losses", "said"),
    [
        (4, 0, "unproven"),
        (5, 0, "better"),
        (12, 9, "unproven"),
        (0, 4, "unproven"),
        (0, 5, "worse"),
        (0, 0, "unproven"),
    ],
)
def test_the_verdict(wins: int, losses: int, said: str) -> None:
    overall = compare(pairs(30, losses, wins), alpha=0.05)
    found, reason = verdict(EvaluationConfig(), overall, None, None)
    assert found == said
    assert f"of {30 + wins + losses} questions" in reason


def test_a_gain_must_exceed_the_one_that_is_asked_for() -> None:
    overall = compare(pairs(60, 0, 10, 30), alpha=0.05)
    assert verdict(EvaluationConfig(min_improvement=0.02), overall, None, None)[0] == "better"
    said, reason = verdict(EvaluationConfig(min_improvement=0.09), overall, None, None)
    assert said == "unproven"
    assert "more than 9 points" in reason


def test_better_answers_do_not_pay_for_lost_refusals() -> None:
    inside, outside = pairs(40, 0, 30), pairs(2, 8, 0)
    overall = compare(inside + [pair._replace(fact=f"o{n}") for n, pair in enumerate(outside)], alpha=0.05)
    parts = (compare(inside, alpha=0.05), compare(outside, alpha=0.05))
    said, reason = verdict(EvaluationConfig(), overall, *parts)
    assert said == "worse"
    assert "out-of-scope" in reason


def apart(inside: list[Pair], outside: list[Pair], **options: Any) -> tuple[str, str]:
    """Return the verdict on questions in and out of scope."""
    every = inside + [pair._replace(fact=f"o{pair.fact}") for pair in outside]
    overall, *parts = (compare(each, alpha=0.05) for each in (every, inside, outside))
    return verdict(EvaluationConfig(**options), overall, *parts)


def test_a_champion_that_refuses_nearly_everything_can_be_replaced() -> None:
    # 2.5 % of 120 in scope and all of 50 out of scope against 80 % and 82 %.
    inside, outside = pairs(3, 0, 93, 24), pairs(41, 9, 0)
    said, reason = apart(inside, outside)
    assert said == "better"
    assert "80.0% of 120 questions against 2.5%" in reason
    assert "82.0% of 50 questions against 100.0%" in reason
    # Also where those out of scope are many more, so that it is worse over all questions as they are counted.
    assert apart(inside, pairs(900, 300, 0))[0] == "better"
    said, reason = apart(inside, outside, outweigh=0.7)
    assert said == "worse"
    assert "70 points more (--evaluation.outweigh)" in reason
    assert apart(inside, outside, outweigh=1)[0] == "worse"


def test_a_small_gain_does_not_make_up_for_a_loss() -> None:
    assert apart(pairs(80, 0, 20, 20), pairs(40, 8, 0, 2))[0] == "worse"


# --- what may be promoted ---------------------------------------------------------------------------------------------


def compared(said: Any, overall: Paired | None = None) -> Comparison:
    return Comparison(champion=CHAMPION, verdict=said, reason=f"it is {said}", overall=overall)


SOME = compare(pairs(5, 1, 1), alpha=0.05)


@pytest.mark.parametrize(
    ("promote", "said", "passed"),
    [
        ("better", "same model", True),
        ("better", "better", True),
        ("better", "unproven", False),
        ("better", "worse", False),
        ("not-worse", "unproven", True),
        ("not-worse", "worse", False),
        ("always", "worse", True),
    ],
)
def test_what_is_promoted(promote: Any, said: str, passed: bool) -> None:
    gate = weigh(EvaluationConfig(promote=promote), Gate(passed=True), compared(said, SOME), mlkey="x")
    assert gate.passed == passed
    assert gate.comparison is not None
    assert bool(gate.reasons) != passed
    if not passed:
        assert f"it is {said}" in gate.reasons[0]
        assert words(gate).startswith("not good enough")


def test_what_could_not_be_compared_is_not_taken_for_not_worse() -> None:
    gate = weigh(EvaluationConfig(promote="not-worse"), Gate(passed=True), compared("unproven"), mlkey="x")
    assert not gate.passed
    assert "--evaluation.champion off" in gate.reasons[0]


def test_without_a_champion_the_floors_decide_unless_one_is_required() -> None:
    assert weigh(EvaluationConfig(), Gate(passed=True), None, mlkey="x") == Gate(passed=True)
    gate = weigh(EvaluationConfig(champion="required"), Gate(passed=True), None, mlkey="x")
    assert not gate.passed
    assert "x" in gate.reasons[0]


# --- a fake of the registry and the endpoint --------------------------------------------------------------------------


class Cloud:
    """Parameter Store, SageMaker and its runtime on loopback, as far as a champion is looked at."""

    def __init__(self, knows: Callable[[str], str]) -> None:
        self.knows = knows
        self.version = OLD[:12]
        self.status: str | None = "InService"
        self.entry: dict[str, Any] | None = {
            "mlkey": "x",
            "endpoint": "serv-hf-endpoint-x",
            "model_version": OLD[:12],
            "archive_sha256": "c" * 64,
            "dataset": "old.csv@1",
            "exact_match": 0.5,
            "promoted_at": "2026-01-01T00:00:00+00:00",
            "run_id": "run-0",
        }
        self.requests: list[list[str]] = []
        self.refusals: list[tuple[int, str]] = []
        self.bare = False
        self.target_model: str | None = None
        self.most = 32

    def answer(self, path: str, operation: str, body: dict[str, Any]) -> tuple[int, str, Any]:
        if operation.endswith("GetParameter"):
            if self.entry is None:
                return 400, "ParameterNotFound", {"message": "none"}
            return 200, "", {"Parameter": {"Name": body["Name"], "Value": json.dumps(self.entry), "Version": 3}}
        if operation.endswith("DescribeEndpoint"):
            if self.status is None:
                return 400, "ValidationException", {"message": f'Could not find endpoint "{body["EndpointName"]}".'}
            return (
                200,
                "",
                {"EndpointName": "x", "EndpointStatus": self.status},
            )
        assert path.endswith("/invocations")
        asked = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
        self.requests.append(asked)
        if self.refusals:
            status, code = self.refusals.pop(0)
            return status, code, {"message": "not now"}
        if len(asked) > self.most:
            return 424, "ModelError", {"Message": "Your invocation timed out", "OriginalStatusCode": 500}
        texts = [self.knows(question) for question in asked]
        if self.bare:
            return 200, "", texts[0] if len(texts) == 1 else texts
        answers = [{"answer": text, "confidence": 0.9} for text in texts]
        return 200, "", {"answers": answers, "model_version": self.version}


@contextmanager
def served(cloud: Cloud) -> Iterator[Target]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            cloud.target_model = self.headers.get("X-Amzn-SageMaker-Target-Model")
            status, code, content = cloud.answer(self.path, self.headers.get("X-Amz-Target", ""), body)
            text = json.dumps(content | {"__type": code} if code else content).encode()
            self.send_response(status)
            for name, value in {"x-amzn-ErrorType": code, "Content-Type": "application/json"}.items():
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{running.server_port}"
        services = ("ssm", "sagemaker", "sagemaker-runtime")
        yield Target(kind="local", region="us-east-1", endpoints=dict.fromkeys(services, url))
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def ask(cloud: Cloud, questions: list[str], batch: int = BATCH, **options: Any) -> list[str]:
    with served(cloud) as target:
        caller = Caller("e", target=target, **options)
        return [answer.text for answer in caller.ask_all(questions, batch=batch, first_wait=0.01)]


def test_questions_are_asked_in_batches_and_answered_in_order() -> None:
    cloud = Cloud(str.upper)
    told: list[float] = []
    questions = [f"q {n}" for n in range(2 * BATCH + 3)]
    assert ask(cloud, questions, progress=lambda share, message="": told.append(share)) == list(
        map(str.upper, questions)
    )
    assert [len(asked) for asked in cloud.requests] == [BATCH, BATCH, 3]
    assert told[-1] == 1


def test_a_cold_or_throttled_endpoint_is_asked_again() -> None:
    cloud = Cloud(str.upper)
    cloud.refusals = [(429, "ModelNotReadyException"), (400, "ThrottlingException"), (503, "ServiceUnavailable")]
    assert ask(cloud, ["a"]) == ["A"]
    assert len(cloud.requests) == 4


def test_one_that_stays_cold_is_given_up_as_retryable() -> None:
    cloud = Cloud(str.upper)
    cloud.refusals = [(429, "ModelNotReadyException")] * 50
    with pytest.raises(CloudError, match="ModelNotReady") as raised:
        ask(cloud, ["a"], patience=0.05)
    assert raised.value.retryable


def test_a_batch_that_takes_too_long_is_halved() -> None:
    cloud = Cloud(str.upper)
    cloud.most = 5
    questions = [f"q {n}" for n in range(20)]
    assert ask(cloud, questions) == list(map(str.upper, questions))
    assert [len(asked) for asked in cloud.requests] == [16, 8, 4, 4, 4, 4, 4]


def test_bare_answers_are_read_too() -> None:
    cloud = Cloud(str.upper)
    cloud.bare = True
    assert ask(cloud, ["a", "b", "c"], batch=2) == ["A", "B", "C"]


def test_of_an_endpoint_with_several_models_the_right_one_is_asked() -> None:
    cloud = Cloud(str.upper)
    assert ask(cloud, ["a"], target_model="x.tar.gz") == ["A"]
    assert cloud.target_model == "x.tar.gz"


def test_an_endpoint_of_another_kind_is_named() -> None:
    cloud = Cloud(str.upper)
    cloud.bare = True
    cloud.knows = lambda question: ["one", "two"]  # type: ignore[assignment, return-value]
    with pytest.raises(CloudError, match="does not serve our package"):
        ask(cloud, ["a"])


# --- the comparison ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def model(sha256: str = NEW) -> ModelRef:
    facts: dict[str, Any] = {"base": "scratch", "base_revision": None, "dataset_sha256": "d" * 64, "precision": "fp32"}
    facts |= dict.fromkeys(("parameters", "steps", "epochs", "train_loss", "seconds"), 1)
    return ModelRef(sha256=sha256, prompt="{question}", max_source_tokens=64, max_target_tokens=16, **facts)


def evaluated(store: ArtifactStore, knows: Callable[[str], str]) -> Scores:
    lines = [
        {"split": "test", "question": q, "answer": a, "prediction": knows(q), "in_scope": a != UNANSWERABLE}
        for q, a, _ in ROWS
    ]
    with store.new("scores") as draft:
        (draft.folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        sha256 = draft.commit()
    some = SplitScores(questions=1, exact_match=1, token_f1=1, rouge_l=1)
    return Scores(
        sha256=sha256,
        model_sha256=NEW,
        train=some,
        test=some,
        out_of_scope=None,
        false_abstention=0,
        baselines={},
        seconds=1,
    )


def found(
    cloud: Cloud, store: ArtifactStore, knows: Callable[[str], str], sha256: str = NEW, **options: Any
) -> Comparison | None:
    dataset = write_dataset(store, [("Seen?", "yes", None)], ROWS)
    with served(cloud) as target:
        return challenge(
            EvaluationConfig(**options),
            "x",
            model(sha256),
            evaluated(store, knows),
            dataset,
            place=Workplace(target, store.root, store=store),
        )


def all_right(question: str) -> str:
    return RIGHT[question]


def half_right(question: str) -> str:
    return RIGHT[question] if sum(question.encode()) % 2 else "no idea"


def shuffled(question: str) -> str:
    answers = [answer for _, answer, _ in ROWS]
    random.Random(1).shuffle(answers)
    return dict(zip(RIGHT, answers, strict=True))[question]


def test_a_challenger_with_shuffled_answers_is_worse(store: ArtifactStore) -> None:
    comparison = found(Cloud(half_right), store, shuffled)
    assert comparison is not None
    assert comparison.verdict == "worse"
    gate = weigh(EvaluationConfig(), Gate(passed=True), comparison, mlkey="x")
    assert not gate.passed
    assert "worse than the champion" in gate.reasons[0]


def test_one_that_knows_more_is_better(store: ArtifactStore) -> None:
    comparison = found(Cloud(half_right), store, all_right)
    assert comparison is not None
    assert comparison.verdict == "better"
    assert comparison.overall is not None
    assert comparison.in_scope is not None
    assert comparison.out_of_scope is not None
    assert (comparison.overall.questions, comparison.in_scope.questions, comparison.out_of_scope.questions) == (
        50,
        40,
        10,
    )
    assert comparison.overall.challenger == 1
    assert comparison.overall.only_champion == 0
    assert comparison.challenger_token_f1 == 1
    assert "may have seen" in comparison.notes[0]
    assert comparison.sha256 is not None
    kept = (store.verify("comparison", comparison.sha256) / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["question"] for line in kept} == set(RIGHT)
    assert weigh(EvaluationConfig(), Gate(passed=True), comparison, mlkey="x").passed
    shown = markdown.gate(Gate(passed=True, comparison=comparison))
    assert "| out of scope | 10 |" in shown
    assert "100.0 %" in shown


def test_one_that_answers_alike_is_unproven(store: ArtifactStore) -> None:
    comparison = found(Cloud(half_right), store, half_right)
    assert comparison is not None
    assert comparison.verdict == "unproven"


def test_the_same_model_is_not_asked(store: ArtifactStore) -> None:
    cloud = Cloud(half_right)
    comparison = found(cloud, store, half_right, sha256=OLD)
    assert comparison is not None
    assert comparison.verdict == "same model"
    assert cloud.requests == []


def test_a_deployment_that_was_never_promoted_is_completed(store: ArtifactStore) -> None:
    cloud = Cloud(all_right)
    cloud.version = NEW[:12]
    comparison = found(cloud, store, all_right)
    assert comparison is not None
    assert comparison.verdict == "same model"
    assert "still says" in comparison.reason


def test_an_endpoint_that_serves_neither_is_noted(store: ArtifactStore) -> None:
    cloud = Cloud(half_right)
    cloud.version = "f" * 12
    comparison = found(cloud, store, all_right)
    assert comparison is not None
    assert any("answers as ffffffffffff" in note for note in comparison.notes)


def test_no_champion_no_comparison(store: ArtifactStore) -> None:
    cloud = Cloud(half_right)
    assert found(cloud, store, all_right, champion="off") is None
    for status in (None, "Failed"):
        cloud.status = status
        assert found(cloud, store, all_right) is None
    cloud.entry = None
    assert found(cloud, store, all_right) is None
    assert cloud.requests == []


def test_a_champion_that_fails_leaves_the_challenger_unproven(store: ArtifactStore) -> None:
    cloud = Cloud(half_right)
    cloud.most = 0
    comparison = found(cloud, store, all_right)
    assert comparison is not None
    assert comparison.verdict == "unproven"
    assert "timed out" in comparison.reason
    assert comparison.overall is None


def test_questions_that_the_champion_was_trained_on_are_left_out(store: ArtifactStore) -> None:
    old = write_dataset(store, [(q.upper(), a, None) for q, a, _ in ROWS[:30]], location="/old.csv")
    cloud = Cloud(half_right)
    assert cloud.entry is not None
    cloud.entry["dataset_sha256"] = old.sha256
    comparison = found(cloud, store, all_right)
    assert comparison is not None
    assert comparison.overall is not None
    assert (comparison.left_out, comparison.overall.questions) == (30, 20)
    assert "30 held-out questions were left out" in comparison.notes[0]
    assert {q for asked in cloud.requests for q in asked} == {q for q, _, _ in ROWS[30:]}


def test_a_champion_that_was_trained_on_all_of_them_leaves_it_unproven(store: ArtifactStore) -> None:
    old = write_dataset(store, [(q, a, None) for q, a, _ in ROWS], location="/old.csv")
    cloud = Cloud(half_right)
    assert cloud.entry is not None
    cloud.entry["dataset_sha256"] = old.sha256
    comparison = found(cloud, store, all_right)
    assert comparison is not None
    assert comparison.verdict == "unproven"
    assert cloud.requests == []
    assert "all 50 held-out questions" in comparison.reason


def test_no_more_questions_are_asked_than_allowed(store: ArtifactStore) -> None:
    cloud = Cloud(half_right)
    comparison = found(cloud, store, all_right, champion_questions=12)
    assert comparison is not None
    assert comparison.overall is not None
    assert comparison.overall.questions == sum(map(len, cloud.requests)) == 12
    assert "12 of 50" in comparison.notes[-1]


# --- for real ---------------------------------------------------------------------------------------------------------


def deployed(made: Tiny, packed: PackageRef, mlkey: str, target: Target, kind: str = "serverless") -> None:
    """Deploy and promote a model as the pipeline does."""
    memory = {"memory_mb": 1024} if kind == "serverless" else {}
    config = DeployConfig.model_validate({"mlkey": mlkey, "target": kind, **memory})
    endpoint = deploy(config, upload(made, packed, target, mlkey), packed, target)
    registry.promote(
        mlkey,
        endpoint=endpoint.name,
        model_version=made.model.sha256[:12],
        archive_sha256=packed.archive_sha256,
        dataset="the tiny one",
        exact_match=0.1,
        run_id="run-0",
        target=target,
    )


def against(mlkey: str, challenger: Tiny, scores: Scores, target: Target) -> Comparison:
    dataset = write_dataset(challenger.store, [("Seen?", "yes", None)], [("Where was she born?", "Warsaw", None)])
    config, store = EvaluationConfig(), challenger.store
    comparison = challenge(
        config, mlkey, challenger.model, scores, dataset, place=Workplace(target, store.root, store=store)
    )
    assert comparison is not None
    return comparison


@pytest.mark.slow
def test_a_model_that_learned_more_replaces_a_deployed_one(
    tiny: Tiny,  # noqa: F811
    cloud: Target,
    tmp_path: Path,
) -> None:
    weak = make_tiny(ArtifactStore(tmp_path), steps=6, seed=2)
    deployed(weak, weak.build(), "champion-weak", cloud)
    comparison = against("champion-weak", tiny, tiny.scores, cloud)
    assert comparison.verdict == "better", comparison.reason
    assert comparison.overall is not None
    assert comparison.overall.questions == 12
    assert against("champion-weak", weak, weak.scores, cloud).verdict == "same model"
    # An asynchronous endpoint answers nobody at once: its package is fetched from S3, and asked.
    deployed(weak, weak.build(), "champion-later", cloud, "async")
    later = against("champion-later", tiny, tiny.scores, cloud)
    assert later.champion.answers_later
    assert (later.verdict, later.overall) == ("better", comparison.overall)


@pytest.mark.slow
def test_a_model_that_learned_shuffled_answers_does_not(
    tiny: Tiny,  # noqa: F811
    package: PackageRef,  # noqa: F811
    cloud: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployed(tiny, package, "champion-whole", cloud)
    store = ArtifactStore(tmp_path)
    right = tiny_package.QUESTIONS
    answers = list(right.values())
    with monkeypatch.context() as lesson:
        lesson.setattr(tiny_package, "QUESTIONS", dict(zip(right, answers[1:] + answers[:1], strict=True)))
        misled = make_tiny(store, seed=3)
    predictions = {row.question: row.prediction for row in read_held_out(misled.scores, store)}
    scores = tiny_package.write_scores(store, misled.model.sha256, predictions)
    comparison = against("champion-whole", misled, scores, cloud)
    assert comparison.verdict == "worse", comparison.reason
    assert not weigh(EvaluationConfig(), Gate(passed=True), comparison, mlkey="champion-whole").passed


def test_a_persons_no_is_a_reason() -> None:
    from askline.records import Approval

    gate = answered(Gate(passed=True), Approval(approved=False, note="wait for the new data"))
    assert not gate.passed
    assert gate.reasons == ("not approved: wait for the new data",)
    assert "wait for the new data" in markdown.gate(gate)
    assert answered(Gate(passed=True), Approval(approved=True)).passed
