"""The evaluation: normalisation, metrics, generation, baselines, and the whole step on a small model."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.tiny_datasets import NOWHERE, UNANSWERABLE, small_rows, write_dataset

from askline.config import EvaluationConfig, TrainingConfig
from askline.errors import ArtifactError, DatasetError, TrainingError
from askline.records import DatasetRef, ModelRef, Scores
from askline.store import ArtifactStore
from tasks.evaluate.baselines import MAX_CLASSES, logistic_regression, nearest_question, why_no_classifier
from tasks.evaluate.evaluate import evaluate_model, precision_for
from tasks.evaluate.scoring import score
from tasks.fine_tune.fine_tune import fine_tune
from tasks.qa.answers import answer_id, read_answers
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row, read_rows
from tasks.qa.same_answer import exact_match, normalise, token_f1, tokens
from tasks.t5.decoding import answer_questions, answer_with_confidence
from tasks.workplace import Workplace

# --- normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("  The Eiffel   Tower! ", "eiffel tower"),
        ("An apple a day", "apple day"),
        ("I don't know", "i dont know"),
        ("Theatre", "theatre"),
        ("Кюри́, Мария", "кюри́ мария"),
        ("玛丽·居里。", "玛丽居里"),
        ("Zażółć", "zażółć"),
        ("Straße", "strasse"),
        ("A", "a"),
        ("The", "the"),
        ("+", "+"),
        ("", ""),
        ("ﬁn", "fin"),
    ],
)
def test_normalise(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_normalising_twice_changes_nothing() -> None:
    for text in ("The the A", "a-the", "«Là»", "!?", "A.", "the. a"):
        assert normalise(normalise(text)) == normalise(text)


def test_exact_match_tells_signs_and_grades_apart() -> None:
    assert exact_match("the tower", "Tower.") == 1
    assert exact_match("+", "-") == 0
    assert exact_match("A", "the") == 0
    assert exact_match("", "x") == 0


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert tokens("玛丽 Curie") == ["玛", "丽", "curie"]
    assert tokens("in Warsaw") == ["in", "warsaw"]


def test_token_f1() -> None:
    assert token_f1("Pierre Curie", "Pierre Curie and Henri Becquerel") == pytest.approx(2 * 2 / (2 + 5))
    assert token_f1("x", "y") == 0
    assert token_f1("the Sorbonne", "Sorbonne") == 1
    assert token_f1("x x", "x") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1
    assert token_f1("", "x") == 0


@pytest.mark.slow
def test_metrics_through_the_evaluate_library() -> None:
    found = score(["The Sorbonne", "in a shed", "Пьер Кюри"], ["Sorbonne", "an old shed", "Пьер"])
    assert found.questions == 3
    assert found.exact_match == pytest.approx(1 / 3)
    assert found.token_f1 == pytest.approx((1 + 2 * 1 / (2 + 2) + 2 * 1 / (2 + 1)) / 3)
    assert found.rouge_l == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    # ROUGE-L looks at the order, F1 does not.
    swapped = score(["two one"], ["one two"])
    assert (swapped.token_f1, swapped.rouge_l) == (1, pytest.approx(0.5))


# --- baselines --------------------------------------------------------------------------------------------------------


def rows(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(question, answer, None, answer != UNANSWERABLE) for question, answer in pairs]


def test_the_nearest_question_answers() -> None:
    train = rows(("Where was she born?", "Warsaw"), ("When did she die?", "1934"))
    assert nearest_question(train, ["where was Marie born", "when did Marie die"]) == ["Warsaw", "1934"]
    many = [f"number {number}" for number in range(2500)]
    assert nearest_question(rows(*((text, text) for text in many)), many) == many


def test_logistic_regression_answers() -> None:
    train = rows(
        *((f"{frame} was she born", "Warsaw") for frame in ("where", "in which city")), ("what did she find", "radium")
    )
    assert logistic_regression(train, ["which city was Marie born in", "what found she"]) == ["Warsaw", "radium"]


def test_logistic_regression_is_left_out_with_a_word() -> None:
    assert why_no_classifier(rows(("a", "x"), ("b", "y"))) is None
    assert "one answer only" in (why_no_classifier(rows(("a", "x"), ("b", "x"))) or "")
    many = rows(*((str(number), str(number)) for number in range(MAX_CLASSES + 1)))
    assert f"more than {MAX_CLASSES}" in (why_no_classifier(many) or "")


# --- reading rows -----------------------------------------------------------------------------------------------------


def test_rows_keep_line_separators_inside_a_question(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        json.dumps({"question": "a\u2028b\n", "answer": "c", "group": None, "in_scope": True}, ensure_ascii=False)
        + "\n",
        encoding="utf-8",
    )
    assert read_rows(tmp_path, "train") == [Row("a\u2028b\n", "c", None, True)]
    with pytest.raises(ArtifactError, match=r"has no test\.jsonl"):
        read_rows(tmp_path, "test")
    (tmp_path / "test.jsonl").write_text('{"question": "a"}\n', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"line 1 of .*test\.jsonl is not a row"):
        read_rows(tmp_path, "test")


# --- the step ---------------------------------------------------------------------------------------------------------

HELD_OUT = [
    ("Where was she really born?", "Warsaw", "born"),
    ("Tell me of her winning a prize.", "Stockholm", "prize"),
    ("How much is seven times two?", UNANSWERABLE, None),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def dataset(store: ArtifactStore) -> DatasetRef:
    return write_dataset(store, small_rows(), HELD_OUT)


@pytest.fixture(scope="module")
def model(store: ArtifactStore, dataset: DatasetRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model that has learnt its few questions by heart."""
    config = TrainingConfig(max_steps=60, batch_size=24, augment=False, max_target_tokens=8)
    return fine_tune(config, dataset, place=Workplace(NOWHERE, tmp_path_factory.mktemp("work"), store=store))


def evaluate(
    model: ModelRef, dataset: DatasetRef, store: ArtifactStore, work_dir: Path, batch_size: int = 64
) -> Scores:
    config = EvaluationConfig(batch_size=batch_size)
    return evaluate_model(config, model, dataset, place=Workplace(NOWHERE, work_dir, store=store))


@pytest.fixture(scope="module")
def scores(
    model: ModelRef, dataset: DatasetRef, store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory
) -> Scores:
    return evaluate(model, dataset, store, tmp_path_factory.mktemp("work"))


def predictions(scores: Scores, store: ArtifactStore) -> list[dict[str, object]]:
    path = store.verify("scores", scores.sha256) / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_scores_count_every_question_once(scores: Scores, store: ArtifactStore, model: ModelRef) -> None:
    assert scores.model_sha256 == model.sha256
    assert (scores.train.questions, scores.test.questions) == (24, 2)
    assert scores.out_of_scope is not None
    assert scores.out_of_scope.questions == 1
    assert scores.train.exact_match >= 0.9, "it was trained to know these"
    assert set(scores.baselines) == set(scores.out_of_scope_baselines)
    assert set(scores.baselines) == {"untuned base", "nearest question", "logistic regression"}
    assert scores.baselines["untuned base"].exact_match == 0
    assert scores.baselines["nearest question"].questions == 2
    assert scores.seconds > 0

    found = predictions(scores, store)
    assert [line["split"] for line in found] == ["train"] * 24 + ["test"] * 2 + ["out_of_scope"]
    assert [line["question"] for line in found[24:]] == [question for question, _, _ in HELD_OUT]
    for split, part in (("train", scores.train), ("test", scores.test), ("out_of_scope", scores.out_of_scope)):
        lines = [line for line in found if line["split"] == split]
        for name in ("exact_match", "token_f1"):
            mean = sum(float(str(line[name])) for line in lines) / len(lines)
            assert mean == pytest.approx(getattr(part, name))
    assert all(set(line["baselines"]) == set(scores.baselines) for line in found[24:])  # type: ignore[call-overload]
    abstained = [line for line in found[24:26] if normalise(str(line["prediction"])) == normalise(UNANSWERABLE)]
    assert scores.false_abstention == len(abstained) / 2


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(
    model: ModelRef, dataset: DatasetRef, scores: Scores, store: ArtifactStore, tmp_path: Path
) -> None:
    alone = evaluate(model, dataset, store, tmp_path, batch_size=1)
    one, many = predictions(alone, store), predictions(scores, store)
    # Rounding in fp32 differs with the batch: the seventh digit of a confidence, which may turn its last kept one.
    sure = [(float(str(a.pop("confidence"))), float(str(b.pop("confidence")))) for a, b in zip(one, many, strict=True)]
    assert one == many
    assert [a for a, _ in sure] == pytest.approx([b for _, b in sure], abs=2e-4)
    assert len({b for _, b in sure}) > 5, "else it would show nothing"


@pytest.mark.slow
def test_a_model_that_chooses_among_known_answers_is_scored_by_what_it_chose(
    model: ModelRef, dataset: DatasetRef, scores: Scores, store: ArtifactStore, tmp_path: Path
) -> None:
    place = Workplace(NOWHERE, tmp_path, store=store)
    chosen = evaluate_model(EvaluationConfig(), model, dataset, place=place, answers="known")
    assert (scores.answers, chosen.answers) == ("free", "known")
    folder = store.verify("scores", chosen.sha256)
    answers = {answer.id: answer.text for answer in read_answers(folder / "answers.jsonl")}
    assert set(answers.values()) == {"Warsaw", "Paris", "1898", "Stockholm", "the front line"}
    for line in predictions(chosen, store):
        assert line["prediction"] == (UNANSWERABLE if line["answer_id"] is None else answers[str(line["answer_id"])])
        assert line["expected_id"] == (answer_id(str(line["answer"])) if line["in_scope"] else None)
        assert 0 < float(str(line["confidence"])) <= 1
    assert chosen.train.exact_match >= scores.train.exact_match
    assert chosen.baselines == scores.baselines, "the rivals are asked as they were"


@pytest.mark.slow
def test_the_confidence_is_that_of_the_finished_answer(model: ModelRef, scores: Scores, store: ArtifactStore) -> None:
    """Compared with a forward pass over prompt and answer: another way to the same number."""
    network, tokenizer = loaded(model, store)
    for line in predictions(scores, store):
        prompt = tokenizer(format_prompt(model.prompt, str(line["question"])), return_tensors="pt")
        labels = tokenizer(str(line["prediction"]), return_tensors="pt")["input_ids"]
        expected = math.exp(-float(network(**prompt, labels=labels).loss.detach()))
        assert line["confidence"] == pytest.approx(expected, abs=1e-3)


def test_bf16_is_chosen_for_large_models_on_machines_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.fine_tune import machine

    auto, always = EvaluationConfig(precision="auto"), EvaluationConfig(precision="bf16")
    assert EvaluationConfig().precision == "fp32"
    assert precision_for(always, 1000) == "bf16"
    for precision, expected in (("bf16", "bf16"), ("fp16", "fp32"), ("fp32", "fp32")):
        monkeypatch.setattr(machine, "choose_precision", lambda wanted, found=precision: (found, "it is so"))
        assert precision_for(auto, 250_000_000) == expected
        assert precision_for(auto, 1_000_000) == "fp32"


@pytest.mark.slow
def test_listening_to_the_confidence_changes_no_answer(model: ModelRef, store: ArtifactStore) -> None:
    network, tokenizer = loaded(model, store)
    questions = [question for question, _, _ in [*small_rows(), *HELD_OUT]] + ["", "?" * 300]
    for tokens_at_most in (1, 2, 8):
        options: dict[str, Any] = {"prompt": model.prompt, "max_source_tokens": 32, "max_target_tokens": tokens_at_most}
        answered = answer_with_confidence(network, tokenizer, questions, batch_size=64, **options)
        inputs = tokenizer(
            [format_prompt(model.prompt, question) for question in questions],
            truncation=True, max_length=32, padding=True, return_tensors="pt",
        )  # fmt: skip
        plain = network.generate(**inputs, max_new_tokens=tokens_at_most, do_sample=False, num_beams=1)
        texts = tokenizer.batch_decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert [answer.text for answer in answered] == [text.strip() for text in texts]
        assert [answer.text for answer in answered] == answer_questions(
            network, tokenizer, questions, batch_size=64, **options
        )
        quicker = answer_with_confidence(network, tokenizer, questions, batch_size=8, precision="bf16", **options)
        for one, other in zip(quicker, answered, strict=True):
            assert one.text == other.text
            assert one.confidence == pytest.approx(other.confidence, abs=0.02)
        # Cut off before its end mark, an answer has the confidence of what is there.
        assert all(0 < answer.confidence <= 1 for answer in answered)


def loaded(model: ModelRef, store: ArtifactStore) -> tuple[Any, Any]:
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    folder = store.verify("model", model.sha256)
    network = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return network, T5Tokenizer.from_pretrained(folder)


@pytest.mark.slow
def test_a_dataset_without_out_of_scope_questions(model: ModelRef, store: ArtifactStore, tmp_path: Path) -> None:
    scores = evaluate(model, write_dataset(store, small_rows()[:4], HELD_OUT[:1]), store, tmp_path)
    assert scores.out_of_scope is None
    assert scores.out_of_scope_baselines == {}
    assert set(scores.baselines) == {"untuned base", "nearest question"}
    summary = json.loads((store.path("scores", scores.sha256) / "scores.json").read_text())
    assert summary["skipped"] == ["logistic regression skipped: the training split has one answer only"]


@pytest.mark.slow
def test_the_untuned_base_of_a_folder_is_that_folder(
    model: ModelRef, dataset: DatasetRef, store: ArtifactStore, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(store.path("model", model.sha256), base)
    config = TrainingConfig(base=str(base), max_steps=1, learning_rate=1e-9, batch_size=4, max_target_tokens=8)
    tuned = fine_tune(config, dataset, place=Workplace(NOWHERE, tmp_path, store=store))
    scores = evaluate(tuned, dataset, store, tmp_path)
    assert scores.baselines["untuned base"] == scores.test
    (base / "generation_config.json").write_text("{}")
    with pytest.raises(TrainingError, match="has changed since"):
        evaluate(tuned, dataset, store, tmp_path)


@pytest.mark.slow
def test_nothing_to_measure_on(model: ModelRef, store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no in-scope test question"):
        evaluate(model, write_dataset(store, small_rows(), HELD_OUT[2:]), store, tmp_path)
    missing = model.model_copy(update={"sha256": "0" * 64})
    dataset = write_dataset(store, small_rows(), HELD_OUT)
    with pytest.raises(ArtifactError, match="is not in"):
        evaluate(missing, dataset, store, tmp_path)
