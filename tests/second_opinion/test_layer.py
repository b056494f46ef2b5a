"""The linear layer and the texts that stand for the answers, as the container reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_encoder import tiny_encoder

from inference.second_opinion import LAYER, TOKENIZER, SecondOpinion, spread_out
from tasks.qa.rows import Row
from tasks.second_opinion.bert_graph import write_bert
from tasks.second_opinion.everyday import everyday
from tasks.second_opinion.layer import (
    MAX_CLASSES,
    Text,
    _by_means,
    _spread,
    fit_layer,
    sentences,
    texts_for,
    write_layer,
)

HOURS, CARD = "We are open from ten to six. On Sundays we are closed.", "Bring an identity card to the desk."
ANSWERS = [HOURS, CARD]
TRAIN = [
    Row("when is it open", HOURS, None, True),
    Row("how long is it open", HOURS, None, True),
    Row("a card", CARD, None, True),
    Row("how may I keep a card", CARD, None, True),
    Row("what does it cost", "I don't know", None, False),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("opinion")
    checkpoint = tiny_encoder(folder / "checkpoint")
    write_bert(checkpoint, folder)
    (folder / TOKENIZER).write_bytes((checkpoint / "tokenizer.json").read_bytes())
    write(folder, ["hours", "card"])
    return folder


def embed(folder: Path, texts: Sequence[str]) -> Any:
    from inference.second_opinion import Encoder

    return Encoder(folder, 64).embed(texts)


def write(folder: Path, ids: list[str]) -> None:
    layer = fit_layer(TRAIN, ids, ANSWERS, ["x"], lambda texts: embed(folder, texts))
    write_layer(layer, folder, prefix="", max_tokens=64)


def test_a_known_question_is_taken_for_itself(folder: Path) -> None:
    opinions = SecondOpinion(folder, ["hours", "card"]).opinion([row.question for row in TRAIN])
    asked = [row for row in TRAIN if row.in_scope]
    for row, opinion in zip(asked, opinions, strict=False):
        assert ANSWERS[opinion.nearest_answer] == row.answer
        assert ANSWERS[int(np.argmax(opinion.log_probabilities))] == row.answer
        assert opinion.nearest_cosine == pytest.approx(1.0, abs=0.02)


def test_a_matched_question_is_the_answers_own_and_its_text_is_kept(folder: Path) -> None:
    second = SecondOpinion(folder, ["hours", "card"])
    opinion = second.opinion(["a card"])[0]
    assert second.questions[opinion.matched[1]] == "a card"
    assert second.questions[opinion.matched[0]] in ("when is it open", "how long is it open")


def test_the_probabilities_and_none_of_them_add_up_to_one(folder: Path) -> None:
    for opinion in SecondOpinion(folder, ["hours", "card"]).opinion(["when", "x", "what does it cost"]):
        total = np.exp(opinion.log_probabilities).sum() + np.exp(opinion.none_log_probability)
        assert total == pytest.approx(1.0, abs=1e-6)


def test_an_out_of_scope_training_question_is_about_none_of_them(folder: Path) -> None:
    opinion = SecondOpinion(folder, ["hours", "card"]).opinion(["what does it cost"])[0]
    assert opinion.none_log_probability > opinion.log_probabilities.max()


def test_opinions_come_in_the_order_of_the_ids_that_are_asked_for(folder: Path) -> None:
    there, turned = (
        SecondOpinion(folder, ids).opinion(["a card"])[0] for ids in (["hours", "card"], ["card", "hours"])
    )
    assert (there.log_probabilities == turned.log_probabilities[::-1]).all()
    assert there.nearest_answer == 1
    assert turned.nearest_answer == 0


def test_an_answer_that_the_layer_does_not_know_is_never_likely(folder: Path) -> None:
    opinion = SecondOpinion(folder, ["hours", "new", "card"]).opinion(["a card"])[0]
    assert int(np.argmax(opinion.log_probabilities)) == 2
    assert opinion.cosines[1] == -1
    assert opinion.matched[1] == -1


def test_an_empty_looking_question_has_an_opinion_too(folder: Path) -> None:
    assert np.isfinite(SecondOpinion(folder, ["hours", "card"]).opinion(["\u200b", "?"])[0].log_probabilities).all()


def test_the_same_rows_give_the_same_bytes(folder: Path) -> None:
    before = (folder / LAYER).read_bytes()
    write(folder, ["hours", "card"])
    assert (folder / LAYER).read_bytes() == before


def test_a_damaged_layer_is_told_as_what_it_is(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / LAYER).write_bytes(b"not a layer")
    with pytest.raises(RuntimeError, match="does not hold a whole second opinion"):
        SecondOpinion(tmp_path, ["hours"])


def test_sentences_stand_beside_the_questions_of_a_fact_with_few_wordings_only() -> None:
    many = [Row(f"question {number}", HOURS, None, True) for number in range(6)] + TRAIN[2:3]
    texts = texts_for(many, ANSWERS, few=5)
    assert [text.text for text in texts if not text.is_question] == [CARD]


def test_a_short_answer_is_no_sentence_to_liken_a_question_to() -> None:
    assert sentences("7 November 1867") == []
    assert sentences(HOURS) == ["We are open from ten to six.", "On Sundays we are closed."]
    assert sentences("図書館は十時から開いています。日曜日は休みです。") == [
        "図書館は十時から開いています。",
        "日曜日は休みです。",
    ]


def test_of_too_many_texts_every_answer_keeps_as_many() -> None:
    texts = [Text(f"{number}", number % 2 if number < 4 else 0, True) for number in range(10)]
    assert [text.text for text in _spread(texts, 4)] == ["0", "1", "2", "3"]


def test_with_very_many_answers_the_means_of_their_questions_stand_in() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(MAX_CLASSES + 1, 32))
    weights, bias = _by_means(directions, np.arange(len(directions)), len(directions))
    asked = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert ((asked @ weights.T + bias).argmax(axis=1) == np.arange(len(directions))).mean() > 0.99


def test_the_everyday_questions_fall_into_two_halves_that_share_none() -> None:
    pool = everyday()
    assert not set(pool.fitting) & set(pool.asking)
    assert min(len(pool.fitting), len(pool.asking)) > 100


def test_a_question_that_the_data_asks_is_not_everyday() -> None:
    pool = everyday()
    known = pool.fitting[0]
    assert known not in everyday([known.upper() + "!"]).fitting


def test_what_all_texts_share_does_not_tell_answers_apart() -> None:
    rng = np.random.default_rng(0)
    subject = np.full(16, 0.25)
    own = rng.normal(size=(40, 16)) * 0.1
    texts = subject + own
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    layer = fit_layer(
        [Row(f"{n}", f"answer {n}", None, True) for n in range(39)],
        [f"{n}" for n in range(39)],
        [f"answer {n}" for n in range(39)],
        ["39"],
        lambda asked: np.stack([texts[int(text.split()[0])] for text in asked]).astype(np.float32),
    )
    others = ~np.eye(40, dtype=bool)
    before = texts @ texts.T
    spread = spread_out(texts, layer.mean, layer.turn)
    assert before[others].mean() > 0.7
    assert abs((spread @ spread.T)[others].mean()) < 0.1
    np.testing.assert_allclose(np.linalg.norm(spread, axis=1), 1.0, rtol=1e-6)
