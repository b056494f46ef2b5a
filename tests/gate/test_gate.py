"""The quality gate says what is too low, by how much, and what to do."""

from typing import Any, Literal

import pytest

from askline.config import EvaluationConfig
from askline.records import DatasetRef, Scores, SourceRef, SplitScores
from tasks.gate.gate import check_gate


def split(exact_match: float, token_f1: float | None = None, questions: int = 50) -> SplitScores:
    f1 = exact_match if token_f1 is None else token_f1
    return SplitScores(questions=questions, exact_match=exact_match, token_f1=f1, rouge_l=f1)


def scores(test: float, *, base: float | None = 0.0, outside: float | None = None, **more: Any) -> Scores:
    return Scores(
        sha256="0" * 64,
        model_sha256="0" * 64,
        train=split(1.0),
        test=split(test, **more),
        out_of_scope=None if outside is None else split(outside, questions=10),
        false_abstention=0.0,
        baselines={} if base is None else {"untuned base": split(base)},
        seconds=1.0,
    )


def dataset(split_by: Literal["existing", "group", "answer", "wording"] = "wording") -> DatasetRef:
    return DatasetRef(
        sha256="0" * 64,
        source=SourceRef(kind="file", location="/a.csv", revision="0"),
        splits={"train": 1, "test": 1},
        rejected=0,
        question_column="question",
        answer_column="answer",
        split_by=split_by,
        unanswerable="No idea",
    )


@pytest.mark.parametrize("test", [0.5, 0.9, 1.0])
def test_at_or_above_every_floor_it_passes(test: float) -> None:
    gate = check_gate(EvaluationConfig(), scores(test, base=test, outside=0.0), dataset())
    assert gate.passed
    assert gate.reasons == ()


def test_exact_match_below_its_floor() -> None:
    gate = check_gate(EvaluationConfig(min_exact_match=0.6), scores(0.48), dataset())
    assert not gate.passed
    (reason,) = gate.reasons
    assert "48.0%" in reason
    assert "60.0%" in reason
    assert "50 held-out questions" in reason
    assert "--evaluation.min-exact-match" in reason
    assert "split-by" not in reason


@pytest.mark.parametrize("split_by", ["answer", "group"])
def test_a_split_that_asks_for_unseen_answers_is_named(split_by: Literal["answer", "group"]) -> None:
    (reason,) = check_gate(EvaluationConfig(), scores(0.02), dataset(split_by)).reasons
    assert f"split by {split_by}" in reason
    assert "never seen" in reason
    assert "without --dataset.split-by" in reason
    assert check_gate(EvaluationConfig(), scores(0.9), dataset(split_by)).passed


def test_every_floor_has_a_reason_of_its_own() -> None:
    config = EvaluationConfig(min_exact_match=0.9, min_token_f1=0.95, min_out_of_scope=0.6)
    reasons = check_gate(config, scores(0.8, token_f1=0.85, outside=0.3, base=0.82), dataset()).reasons
    assert len(reasons) == 4
    for reason, option, figure in zip(
        reasons,
        (
            "--evaluation.min-exact-match",
            "--evaluation.min-token-f1",
            "--evaluation.min-out-of-scope",
            "--evaluation.beat-base",
        ),
        ("80.0%", "85.0%", "30.0%", "82.0%"),
        strict=True,
    ):
        assert option in reason
        assert figure in reason
    assert '"No idea"' in reasons[2]


def test_the_base_may_be_better_where_that_is_allowed_or_unknown() -> None:
    assert not check_gate(EvaluationConfig(), scores(0.6, base=0.7), dataset()).passed
    assert check_gate(EvaluationConfig(beat_base=False), scores(0.6, base=0.7), dataset()).passed
    assert check_gate(EvaluationConfig(), scores(0.6, base=None), dataset()).passed


def test_a_floor_for_out_of_scope_needs_such_questions() -> None:
    assert check_gate(EvaluationConfig(min_out_of_scope=0.9), scores(0.6), dataset()).passed
