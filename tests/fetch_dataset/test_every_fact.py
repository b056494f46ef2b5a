"""Answers letter by letter, every fact trained, and questions made in other words for the test."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askline.config import DatasetConfig
from askline.errors import ConfigError, DatasetFormatError
from askline.records import DatasetRef, Target
from askline.store import ArtifactStore
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.fetch_dataset.other_words import Maker, without_accents
from tasks.fetch_dataset.text import comparable
from tasks.qa.rows import Row, read_rows
from tasks.workplace import Workplace

TARGET = Target(kind="local", region="us-east-1", hub="http://127.0.0.1:9")
SERIES = [
    ("How many points do I get for returning a bottle?", "You get 10 points for it, every time."),
    ("How many points do I get for cycling to work?", "You get 50 points for it, every time."),
    ("How many points do I get for taking the bus?", "You get 20 points for it, every time."),
    ("How many points do I get for planting a tree?", "You get 50 points for it, every time."),
    ("How many points do I get for sorting paper?", "You get 10 points for it, every time."),
]
OPEN = "We are open Tuesday to Friday from 10:00 to 18:30."
CARD = "Bring an identity card and proof of your address to the desk."


def fetch(tmp_path: Path, rows: list[tuple[str, ...]], header=("question", "answer"), **options: Any):
    with (tmp_path / "d.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    config = DatasetConfig(**{"source": str(tmp_path / "d.csv"), **options})
    store = ArtifactStore(tmp_path / "artifacts")
    ref = resolve_source(config, place=Workplace(TARGET, tmp_path))
    dataset = fetch_dataset(config, ref, place=Workplace(TARGET, store=store))
    return dataset, store.verify("dataset", dataset.sha256)


def splits(folder: Path) -> tuple[list[Row], list[Row]]:
    return read_rows(folder, "train"), read_rows(folder, "test")


def trained(folder: Path) -> set[tuple[str, str]]:
    return {(row.question, row.answer) for row in read_rows(folder, "train")}


# --- answers


ANSWERS = [
    "1. Open the store.\n2. Search for it.\n\nThen log in.",
    "Type:\n\n    login <card number>\n    pass {your PIN}",
    "| room | people |\n|---|---|\n| A | 2 |",
    "-18 \u00b0C",
    "10\u00b2 Pa",
    "See [the page](https://example.org/a_b?c=d&e#f)  now",
    "tab\there and  two spaces",
]


def test_answers_stay_as_they_are_written_but_for_white_space_around_them(tmp_path):
    rows = [(f"What is thing {number}?", f" \n{answer}\n ") for number, answer in enumerate(ANSWERS)]
    _, folder = fetch(tmp_path, rows)
    assert [row.answer for row in read_rows(folder, "train")] == ANSWERS


def test_further_columns_of_an_answer_stay_beside_it(tmp_path):
    rows = [("When are you open?", OPEN, "https://example.org/hours", "x"), ("How do I get a card?", CARD, "", "y")]
    header = ("question", "answer", "link", "topic")
    _, folder = fetch(tmp_path, rows, header, answer_columns=("link",))
    first, second = read_rows(folder, "train")
    assert (first.columns, second.columns) == ({"link": "https://example.org/hours"}, {})
    assert all(row.columns == first.columns for row in read_rows(folder, "test") if row.answer == OPEN)
    with pytest.raises(DatasetFormatError, match=r"'url', which is not there\. The columns are: 'question', 'answer'"):
        fetch(tmp_path, rows, header, answer_columns=("url",))


def test_exact_repetitions_stop_nothing_and_are_said_once(tmp_path):
    rows = [("When are you open?", OPEN), ("How do I get a card?", CARD)] * 30
    dataset, folder = fetch(tmp_path, rows, max_rejected=0.0)
    assert trained(folder) == set(rows)
    assert dataset.rejected == 0
    assert dataset.warnings == ("58 rows only repeat another one; nothing is lost by that",)


# --- every fact is trained


def test_of_facts_with_several_wordings_some_are_held_out_and_the_others_are_asked_for_in_made_words(tmp_path):
    rows = [
        ("When are you open?", OPEN, "hours"),
        ("What are your opening times?", OPEN, "hours"),
        ("Until when can I come?", OPEN, "hours"),
        ("How do I get a card?", CARD, "card"),
    ]
    dataset, folder = fetch(tmp_path, rows, ("question", "answer", "group"))
    train, test = splits(folder)
    assert {row.answer for row in train} == {OPEN, CARD}
    kinds = Counter((row.answer, row.kind) for row in test)
    assert kinds == {(OPEN, "wording"): 1, (CARD, "made"): 3}
    assert dataset.split_by == "made"


@pytest.mark.parametrize("rows", [SERIES, [(q, a.split(" for")[0]) for q, a in SERIES]], ids=["long", "short"])
def test_equal_answers_to_different_questions_are_different_facts(tmp_path, rows):
    _, folder = fetch(tmp_path, rows)
    assert trained(folder) == set(rows)
    assert {row.kind for row in read_rows(folder, "test")} == {"made"}


def test_rows_with_the_same_long_answer_are_wordings_of_one_fact(tmp_path):
    questions = ["When are you open?", "What are your opening times?", "Until when can I come?"]
    _, folder = fetch(tmp_path, [*((question, OPEN) for question in questions), ("The card?", CARD)])
    train, test = splits(folder)
    assert [row.kind for row in test if row.answer == OPEN] == ["wording"]
    assert len([row for row in train if row.answer == OPEN]) == 2


def test_a_topic_in_the_group_column_is_not_held_out_as_one_fact(tmp_path):
    rows = [(f"What is thing {n}?", f"It is number {n} of all the things.", "things") for n in range(6)]
    _, folder = fetch(tmp_path, rows, ("question", "answer", "group"))
    assert len(read_rows(folder, "train")) == 6


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_smallest_files_are_trained_and_tested(tmp_path, count):
    rows = [("When are you open?", OPEN), ("How do I get a card?", CARD), ("Hi", "Hello!")][:count]
    _, folder = fetch(tmp_path, rows)
    assert trained(folder) == set(rows)
    assert {row.answer for row in read_rows(folder, "test")} == {answer for _, answer in rows}


@given(
    st.lists(
        st.tuples(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["", "a", "b"])), min_size=1, max_size=20
    )
)
@settings(deadline=None, max_examples=50)
def test_no_fact_is_ever_held_out_whole(tmp_path_factory, rows):
    rows = [("Why?", "Because of this.", ""), *rows]
    folder = tmp_path_factory.mktemp("d")
    (folder / "d.jsonl").write_text(
        "".join(json.dumps({"question": q, "answer": a, "group": g}) + "\n" for q, a, g in rows), encoding="utf-8"
    )
    config = DatasetConfig(source=str(folder / "d.jsonl"), max_rejected=0.99)
    store = ArtifactStore(folder / "artifacts")
    ref = resolve_source(config, place=Workplace(TARGET, folder))
    train, test = splits(
        store.verify("dataset", fetch_dataset(config, ref, place=Workplace(TARGET, store=store)).sha256)
    )
    assert {(row.group, row.answer) for row in test if row.in_scope} <= {(row.group, row.answer) for row in train}
    asked = [comparable(row.question) for row in train + test]
    assert len(set(asked)) == len(asked)


def test_a_large_file_is_tested_by_a_sample_of_its_facts(tmp_path):
    rows = [
        (f"What is the use of part {n:05}?", f"Part {n:05} holds part {n + 1:05} in its place.") for n in range(2500)
    ]
    dataset, _ = fetch(tmp_path, rows)
    assert dataset.splits == {"train": 2500, "test": 2000}


def test_the_same_rows_in_another_order_are_split_alike(tmp_path):
    rows = [(f"How do I use tool number {n}?", f"Tool number {n} is used with both hands.") for n in range(40)]
    asked = []
    for order in (rows, rows[::-1]):
        _, folder = fetch(tmp_path, order)
        asked.append({row.question for row in read_rows(folder, "test")})
    assert asked[0] == asked[1]


def _follow(tmp_path: Path, rows: list[tuple[str, ...]], message: str, **options: Any) -> DatasetRef:
    """Expect an error that says to leave ``--dataset.split-by`` out, and do so."""
    with pytest.raises((DatasetFormatError, ConfigError), match=message) as caught:
        fetch(tmp_path, rows, **options)
    assert "eave --dataset.split-by out" in str(caught.value)
    dataset, folder = fetch(tmp_path, rows)
    assert trained(folder) == set(rows)
    return dataset


def test_what_a_message_about_the_split_advises_leads_to_a_dataset(tmp_path):
    two = [("When are you open?", OPEN), ("How do I get a card?", CARD)]
    same = [("Who is it?", "Ada"), ("What is it?", "Ada")]
    assert _follow(tmp_path, two, "no group or answer is asked for in two wordings", split_by="wording")
    assert _follow(tmp_path, same, "they all have the same answer", split_by="answer")
    assert _follow(tmp_path, two[:1], "two of these are needed", split_by="answer")
    assert _follow(tmp_path, two, "needs a group column", split_by="group")


# --- other words


QUESTIONS = [
    ("How do I get a library card?", "statement", "I want to get a library card"),
    ("Where can I park?", "statement", "looking for a place to park"),
    ("What is the price of a room?", "statement", "tell me about the price of a room"),
    ("Wie kann ich ein Buch verlängern?", "statement", "Ich möchte ein Buch verlängern"),
    ("Comment puis-je payer en ligne ?", "statement", "Je voudrais payer en ligne"),
    ("¿Cómo puedo pagar la cuota?", "statement", "Quiero pagar la cuota"),
    ("When does the night train to Vienna leave?", "keywords", "night train Vienna leave"),
    ("What is not allowed at night?", "contraction", "What's not allowed at night?"),
    ("¿Cuánto dura el préstamo?", "no accents", "cuanto dura el prestamo"),
]


@pytest.mark.parametrize(("question", "rule", "text"), QUESTIONS)
def test_rules_make_other_words_of_four_languages(question, rule, text):
    made = {other.made_by: other.text for other in Maker([(question, "f")], seed=1).make(question, "f", 9)}
    assert made[rule] == text


@pytest.mark.parametrize(
    "question", ["開館時間は何時ですか？", "Cum obțin un permis?", "???", "Hi", "5", "Сколько стоит?"]
)
def test_any_question_gets_other_words(question):
    first = Maker([(question, "f")], seed=1).make(question, "f", 2)
    assert first
    assert all(comparable(other.text) != comparable(question) for other in first)
    assert Maker([(question, "f")], seed=1).make(question, "f", 2) == first


def test_a_made_question_could_not_be_meant_for_another_fact():
    questions = [("What is the station?", "a"), ("Where is the station?", "b"), ("Tell me about the station", "c")]
    maker = Maker(questions, seed=3)
    made = [(other.text, fact) for question, fact in questions for other in maker.make(question, fact, 5)]
    assert len({comparable(text) for text, _ in made}) == len(made)
    assert "station" not in {text for text, _ in made}
    assert "tell me about the station" not in {text.lower() for text, _ in made}


def test_accents_are_dropped_from_latin_letters_only():
    assert without_accents("Öffnungszeiten, ¿Cuánto?, ça") == "Offnungszeiten, ¿Cuanto?, ca"
    assert without_accents("が ぱ й ё") == "が ぱ й ё"
