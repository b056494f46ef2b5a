"""From confidence to probability: the fit, its figures, the threshold, and what is refused."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from askline.config import PackageConfig
from askline.errors import ArtifactError, PackageError
from askline.records import Scores, SplitScores
from askline.store import ArtifactStore
from benchmarks import calibration as benchmark
from tasks.package import calibration
from tasks.package.calibration import Calibration, fit
from tasks.qa.held_out import HeldOut, read_held_out
from tasks.report import markdown

UNANSWERABLE = "I don't know"


def row(confidence: float | None, right: bool, *, in_scope: bool = True) -> HeldOut:
    answer = "Warsaw" if in_scope else UNANSWERABLE
    return HeldOut("Where?", answer, answer if right else "Rome", in_scope, confidence)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def sample(count: int, *, a: float = 1.5, b: float = -1.0, seed: int = 1) -> list[HeldOut]:
    """Return questions whose chance to be right is sigmoid(a * logit(confidence) + b), one in five out of scope."""
    chance = random.Random(seed)
    confidences = [round(sigmoid(chance.gauss(1.5, 1.5)), 4) for _ in range(count)]
    return [
        row(each, chance.random() < sigmoid(a * logit(each) + b), in_scope=number % 5 > 0)
        for number, each in enumerate(confidences)
    ]


def platt(a: float = 1.346, b: float = -0.689, threshold: float | None = None) -> Calibration:
    return Calibration(
        method="platt", a=a, b=b, questions=260, ece_before=0.1, ece_after=0.05, brier_before=0.1, brier_after=0.09,
        threshold=threshold,
    )  # fmt: skip


# --- the formula ------------------------------------------------------------------------------------------------------


def test_the_formula() -> None:
    assert platt().apply(0.9) == round(sigmoid(1.346 * logit(0.9) - 0.689), 4)
    values = [platt().apply(step / 1000) for step in range(1001)]
    assert values == sorted(values)
    assert 0 <= values[0] < values[-1] <= 1


def test_the_ends_are_finite() -> None:
    for confidence in (0.0, 1.0, 1e-300, 1 - 1e-16):
        assert 0 <= platt(a=5, b=3).apply(confidence) <= 1


def test_the_manifest_holds_it_as_plain_numbers_and_gives_it_back() -> None:
    text = json.dumps(platt(threshold=0.7).model_dump())
    assert Calibration.model_validate_json(text) == platt(threshold=0.7)
    with pytest.raises(ValidationError):
        Calibration.model_validate({**json.loads(text), "method": "guess"})


def test_abstaining_is_a_lower_probability_than_the_threshold() -> None:
    fitted = platt(threshold=platt().apply(0.8))
    assert not fitted.abstains(0.8)
    assert fitted.abstains(0.79)
    assert not platt().abstains(0.0)


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_the_fit_finds_how_the_answers_were_drawn() -> None:
    rows = sample(4000)
    fitted = fit(rows)
    assert (fitted.method, fitted.questions, fitted.warning, fitted.threshold) == ("platt", 4000, None, None)
    assert fitted.a == pytest.approx(1.5, abs=0.15)
    assert fitted.b == pytest.approx(-1.0, abs=0.15)
    assert fitted.ece_before is not None
    assert fitted.ece_after is not None
    assert fitted.ece_after < 0.03 < 0.07 < fitted.ece_before
    assert fitted.brier_before is not None
    assert fitted.brier_after is not None
    assert fitted.brier_after < fitted.brier_before


def test_the_fit_is_the_optimum_of_platts_loss() -> None:
    """Found here by another way: bisection of both derivatives in turn, in plain Python."""
    rows = sample(200, seed=2)
    logits = [logit(each.confidence or 0) for each in rows]
    right = sum(each.right for each in rows)
    wrong = len(rows) - right
    targets = [(right + 1) / (right + 2) if each.right else 1 / (wrong + 2) for each in rows]
    fitted = fit(rows)

    def slopes(a: float, b: float) -> tuple[float, float]:
        errors = [sigmoid(a * each + b) - target for each, target in zip(logits, targets, strict=True)]
        return sum(error * each for error, each in zip(errors, logits, strict=True)), sum(errors)

    # A minimum of a convex loss: a step of one unit of the last kept digit changes the derivative's sign.
    step = 10**-calibration.DECIMALS
    assert slopes(fitted.a - step, fitted.b)[0] < 0 < slopes(fitted.a + step, fitted.b)[0]
    assert slopes(fitted.a, fitted.b - step)[1] < 0 < slopes(fitted.a, fitted.b + step)[1]


def test_answers_that_the_confidence_tells_apart_give_a_finite_fit() -> None:
    rows = [row(0.9 + number / 1000, True) for number in range(30)] + [
        row(0.3 + number / 1000, False) for number in range(30)
    ]
    fitted = fit(rows)
    assert fitted.method == "platt"
    assert fitted.apply(0.3) < 0.1
    assert 0.9 < fitted.apply(0.95) < 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [
        [row(0.1, False), *(row(0.9, number > 4) for number in range(299))],
        [row(float(number % 2), number > 40) for number in range(300)],
        [row(0.9 + number % 4 / 10_000, number % 4 > 1) for number in range(60)],
        sample(30, seed=5),
    ],
    ids=["one apart", "at the ends", "close together", "few"],
)
def test_confidences_that_are_hard_to_fit(rows: list[HeldOut]) -> None:
    fitted = fit(rows)
    values = [fitted.apply(step / 100) for step in range(101)]
    assert values == sorted(values)
    # What the package computes with the standard library must not overflow either.
    for confidence in (fitted.clip, 1 - fitted.clip):
        assert 0 <= sigmoid(fitted.a * logit(confidence) + fitted.b) <= 1


def test_the_same_rows_give_the_same_bytes_in_another_process() -> None:
    here = Path(__file__).parent
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_calibration import sample; from tasks.package.calibration import fit\n"
        "print(fit(sample(260), target_precision=0.95).model_dump_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(here), str(here.parents[1])], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == fit(sample(260), target_precision=0.95).model_dump_json()


def test_what_is_said_of_the_fit_comes_from_questions_it_has_not_seen() -> None:
    """Confidences that say nothing cannot do better than the share of right answers, unless the fit has peeked."""
    gain = 0.0
    for seed in range(10):
        chance = random.Random(seed)
        rows = [row(round(chance.uniform(0.3, 0.99), 4), chance.random() < 0.6) for _ in range(40)]
        right = [each.right for each in rows]
        share = sum(right) / len(right)
        gain += share * (1 - share) - calibration.brier(calibration.cross_validated(rows), right)
    assert gain < 0


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "0 held-out questions are fewer than 30"),
        (sample(29), "29 held-out questions are fewer than 30"),
        ([row(0.5 + number / 1000, True) for number in range(40)], "0 of 40 held-out answers are wrong"),
        ([row(0.5 + number / 1000, False) for number in range(40)], "0 of 40 held-out answers are right"),
        ([row(0.5 + number / 1000, number > 3) for number in range(40)], "4 of 40 held-out answers are wrong"),
        ([row(0.9, number > 9) for number in range(40)], "same confidence"),
        ([row(0.5 + number / 100, number < 20) for number in range(40)], "surer answers were not more often right"),
        ([row(0.9001 if number % 2 else 0.9, number % 2 > 0) for number in range(4000)], "all but the same confidence"),
        ([*sample(40), row(None, True)], "recorded no confidences"),
    ],
)
def test_too_little_to_learn_from_leaves_the_confidence_as_it_is(rows: list[HeldOut], expected: str) -> None:
    fitted = fit(rows, min_confidence=0.4)
    assert fitted.method == "identity"
    assert expected in (fitted.warning or "")
    assert (fitted.ece_after, fitted.brier_after) == (fitted.ece_before, fitted.brier_before)
    assert [fitted.apply(share) for share in (0.001, 0.3999, 0.4, 0.9)] == [0.001, 0.3999, 0.4, 0.9]
    assert fitted.threshold == 0.4
    assert Calibration.model_validate_json(fitted.model_dump_json()) == fitted
    with pytest.raises(PackageError, match="min-confidence"):
        fit(rows, target_precision=0.9)


# --- the figures ------------------------------------------------------------------------------------------------------


def test_brier() -> None:
    assert calibration.brier([1.0, 0.5, 0.2], [True, False, False]) == pytest.approx((0 + 0.25 + 0.04) / 3)


def test_bins_are_filled_equally_and_sorted() -> None:
    probabilities = [0.75, 0.125] * 10 + [0.5] * 3
    bins = calibration.reliability(probabilities, [value > 0.6 for value in probabilities])
    assert sum(each.questions for each in bins) == 23
    assert {each.questions for each in bins} == {2, 3}
    assert [each.probability for each in bins] == sorted(each.probability for each in bins)
    assert (bins[0].right, bins[-1].right) == (0, 1)
    assert calibration.reliability([0.5, 0.6], [True, False]) == [(1, 0.5, 1.0), (1, 0.6, 0.0)]


def test_calibration_error() -> None:
    assert calibration.expected_calibration_error([0.25] * 40, [True, False, False, False] * 10) == 0
    assert calibration.expected_calibration_error([0.25] * 40, [True, False] * 20) == pytest.approx(0.25)
    assert calibration.expected_calibration_error([0.9] * 20, [False] * 20) == pytest.approx(0.9)
    assert calibration.expected_calibration_error([1.0] * 20, [True] * 20) == 0


def test_the_error_by_chance_is_what_simulated_truth_shows() -> None:
    chance = random.Random(3)
    probabilities = [sigmoid(chance.gauss(1, 1)) for _ in range(260)]
    seen = [
        calibration.expected_calibration_error(probabilities, [chance.random() < each for each in probabilities])
        for _ in range(300)
    ]
    assert calibration.error_by_chance(probabilities) == pytest.approx(sum(seen) / len(seen), rel=0.05)


# --- precision against coverage ---------------------------------------------------------------------------------------

FOUR = [row(0.9, True), row(0.4, False), row(0.8, False, in_scope=False), row(0.3, True, in_scope=False)]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, (0.0, 1.0, 0.5, 0.5, 0.5)),
        (0.4, (0.4, 0.75, 1 / 3, 0.5, 0.5)),
        (0.5, (0.5, 0.5, 0.5, 0.5, 0.5)),
        (0.85, (0.85, 0.25, 1.0, 0.5, 1.0)),
        (0.95, (0.95, 0.0, 1.0, 0.0, 1.0)),
    ],
)
def test_what_abstaining_does(threshold: float, expected: tuple[float, ...]) -> None:
    assert calibration.trade([0.9, 0.4, 0.8, 0.3], FOUR, threshold) == pytest.approx(expected)


def test_shares_of_questions_that_there_are_none_of() -> None:
    found = calibration.trade([0.9], FOUR[:1], 0.5)
    assert (found.in_scope, found.out_of_scope) == (1.0, None)


def test_the_threshold_reaches_the_wished_precision() -> None:
    rows = sample(400)
    fitted = fit(rows, target_precision=0.9)
    assert fitted.threshold is not None
    probabilities = calibration.cross_validated(rows)
    assert calibration.trade(probabilities, rows, 0).precision < 0.8, "else there would be nothing to reach"
    assert calibration.trade(probabilities, rows, fitted.threshold).precision >= 0.9
    assert calibration.trade(probabilities, rows, fitted.threshold - 0.01).precision < 0.9
    others = sample(4000, seed=9)
    kept = [each.right for each in others if not fitted.abstains(each.confidence or 0)]
    assert sum(kept) / len(kept) == pytest.approx(0.9, abs=0.04)


def test_a_precision_out_of_reach_says_how_far_one_gets() -> None:
    rows = [*sample(100), *(row(0.99 + number / 10_000, number % 7 > 0) for number in range(70))]
    with pytest.raises(PackageError, match=r"no threshold makes 99% .* best is \d+\.\d%.*--package.target-precision"):
        fit(rows, target_precision=0.99)


def test_the_config_takes_one_of_the_two() -> None:
    assert (PackageConfig().min_confidence, PackageConfig().target_precision) == (None, None)
    with pytest.raises(ValidationError, match="not both"):
        PackageConfig(min_confidence=0.5, target_precision=0.9)
    for wrong in (0, 1, 70, -0.1):
        with pytest.raises(ValidationError):
            PackageConfig(min_confidence=wrong)


# --- the predictions of an evaluation ---------------------------------------------------------------------------------

SOME = SplitScores(questions=1, exact_match=0.5, token_f1=0.5, rouge_l=0.5)


def write_scores(state: Path, text: str) -> Scores:
    facts = {
        "model_sha256": "e" * 64,
        "train": SOME.model_dump(),
        "test": SOME.model_dump(),
        "out_of_scope": None,
        "false_abstention": 0.0,
        "baselines": {},
    }
    with ArtifactStore(state / "artifacts").new("scores") as draft:
        (draft.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
        (draft.folder / "scores.json").write_text(json.dumps({**facts, "skipped": []}), encoding="utf-8")
        return Scores.model_validate({**facts, "sha256": draft.commit(), "seconds": 0})


def lines(rows: list[HeldOut]) -> str:
    split = {True: "test", False: "out_of_scope"}
    return "".join(
        json.dumps({"split": split[each.in_scope], **each._asdict()}, ensure_ascii=False) + "\n" for each in rows
    )


def test_held_out_questions_are_read_with_their_confidence(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    train = json.dumps({"split": "train", "question": "x", "answer": "y", "prediction": "z", "in_scope": True}) + "\n"
    rows = [HeldOut("Où\u2028?", "a", "A!", True, 0.5), HeldOut("Who?", "a", "b", True, None)]
    scores = write_scores(tmp_path, train + lines(rows))
    assert read_held_out(scores, store) == rows
    assert [each.right for each in rows] == [True, False]
    older = {"split": "test", "question": "x", "answer": "y", "prediction": "y", "in_scope": True}
    old = write_scores(tmp_path, json.dumps(older))
    assert read_held_out(old, store) == [HeldOut("x", "y", "y", True, None)]


@pytest.mark.parametrize("text", ["{", "[]\n", "3\n", '{"question": "x"}\n', '{"split": "test"}\n', "", "\n"])
def test_damaged_predictions(tmp_path: Path, text: str) -> None:
    scores = write_scores(tmp_path, text)
    with pytest.raises(ArtifactError, match="evaluate"):
        read_held_out(scores, ArtifactStore(tmp_path / "artifacts"))


def test_the_benchmark_reads_the_newest_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--state-dir", str(tmp_path)]
    assert benchmark.main(here) == 1
    assert "holds no evaluation yet" in capsys.readouterr().err
    write_scores(tmp_path, lines(sample(20)))
    assert benchmark.main(here) == 1
    assert "fewer than 30" in capsys.readouterr().err
    newest = write_scores(tmp_path, lines(sample(260)))
    assert benchmark.main(here) == 0
    said = capsys.readouterr().out
    assert newest.sha256[:12] in said
    assert "260 held-out questions" in said
    assert "isotonic regression" in said
    assert markdown.confidence(newest, ArtifactStore(tmp_path / "artifacts")) in said


def test_the_report_says_why_nothing_was_calibrated(tmp_path: Path) -> None:
    scores = write_scores(tmp_path, lines(sample(20)))
    said = markdown.confidence(scores, ArtifactStore(tmp_path / "artifacts"))
    assert "20 held-out questions are fewer than 30" in said
