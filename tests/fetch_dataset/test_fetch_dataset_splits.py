"""Columns, cleaning, splitting and the profile of fetch-dataset."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError
from askline.records import DatasetRef, Target
from askline.store import ArtifactStore
from tasks.fetch_dataset.cleaning import Example
from tasks.fetch_dataset.columns import find_columns
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, profile_tokens, resolve_source
from tasks.fetch_dataset.profile import quantiles
from tasks.fetch_dataset.splitting import split_examples
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.text import comparable, tidy, word_set
from tasks.fetch_dataset.values import cell_text
from tasks.qa.rows import Row, read_rows
from tasks.workplace import Workplace

TARGET = Target(kind="local", region="us-east-1", hub="http://127.0.0.1:9")
PLACES = ["Rome", "Paris", "Oslo", "Lima", "Cairo", "Quito", "Seoul", "Riga", "Accra", "Baku"]
WORDINGS = [
    "Where is thing {}?",
    "In which city is thing {}?",
    "Thing {} stands where?",
    "Tell me the town of thing {}",
    "{}?",
]
FACTS = [(w.format(n), place, f"f{n}") for n, place in enumerate(PLACES) for w in WORDINGS]


def fetch(tmp_path: Path, rows: list[tuple[str, ...]], header=("question", "answer"), **options: Any):
    tmp_path.mkdir(parents=True, exist_ok=True)
    with (tmp_path / "d.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    config = DatasetConfig(**{"source": str(tmp_path / "d.csv"), **options})
    store = ArtifactStore(tmp_path / "artifacts")
    ref = resolve_source(config, place=Workplace(TARGET, tmp_path))
    dataset = fetch_dataset(config, ref, place=Workplace(TARGET, store=store))
    return dataset, store.verify("dataset", dataset.sha256)


def splits(folder: Path) -> tuple[list[Row], list[Row]]:
    return read_rows(folder, "train"), read_rows(folder, "test")


def reasons(folder: Path) -> list[tuple[int, str]]:
    lines = (folder / "rejected.jsonl").read_text(encoding="utf-8").split("\n")
    return [(row["row"], row["reason"]) for row in map(json.loads, filter(None, lines))]


# --- columns


def headed(columns):
    """A table of these columns without rows."""
    return Table("f", "csv", tuple(columns), [])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "Question", "ANSWER"], ("Question", "ANSWER", None)),
        (["Frage", "Antwort", "Fact ID"], ("Frage", "Antwort", "Fact ID")),
        (["pregunta", "respuesta"], ("pregunta", "respuesta", None)),
        (["prompt", "completion"], ("prompt", "completion", None)),
        (["question", "input", "answer", "output"], ("question", "answer", None)),
        (["Question-Text", "label"], ("Question-Text", "label", None)),
        (["問題", "答案"], ("問題", "答案", None)),
        (["q", "a", "group"], ("q", "a", "group")),
        (["question", "answer", "group", "fact"], ("question", "answer", None)),
    ],
)
def test_columns_are_found_by_their_names(columns, expected):
    found = find_columns(headed(columns), DatasetConfig())
    assert (found.question, found.answer, found.group) == expected


def test_named_columns_win():
    config = DatasetConfig(question_column="TITLE", answer_column="input", group_column="id")
    found = find_columns(headed(["id", "title", "question", "input", "answer"]), config)
    assert (found.question, found.answer, found.group) == ("title", "input", "id")
    half = find_columns(headed(["frage", "question", "answer"]), DatasetConfig(question_column="frage"))
    assert (half.question, half.answer) == ("frage", "answer")


def test_columns_that_differ_in_case_only_have_to_be_written_exactly():
    columns = ["Text", "text", "answer"]
    assert find_columns(headed(columns), DatasetConfig(question_column="text")).question == "text"
    with pytest.raises(DatasetFormatError, match="differ from it only in case"):
        find_columns(headed(columns), DatasetConfig(question_column="TEXT"))


def test_what_a_cell_says():
    assert cell_text({"text": ["one", "two"], "answer_start": [1, 2]}, "-") == "one"
    assert cell_text({"text": []}, "-") == "-"
    assert cell_text([], "-") == cell_text(None, "-") == cell_text(float("nan"), "-") == ""
    assert [cell_text(value, "-") for value in (True, 7, 7.0, 7.5, ["x"], [{"text": "y"}])] == [
        "true", "7", "7", "7.5", "x", "y",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="an object with the keys 'a'"):
        cell_text({"a": 1}, "-")


# --- text


def test_comparable_ignores_what_does_not_matter_and_keeps_what_does():
    assert comparable("  Who WAS  he ?!") == comparable("who was he")
    assert comparable("I don’t know.") == comparable("I don't know")
    assert comparable("What is 2+2?") != comparable("What is 2-2?")
    assert comparable("What is C#?") != comparable("What is C?") != comparable("What is C++?")
    assert comparable("??") == "??"
    assert word_set("Who was the queen's son?") == word_set("the queen's son: who was?")


@given(st.text())
def test_tidy_is_stable(text):
    assert tidy(tidy(text)) == tidy(text)
    assert "\x00" not in tidy(text)


# --- cleaning


def test_blanks_duplicates_conflicts_and_long_rows_are_rejected_with_their_reasons(tmp_path):
    rows = [
        ("Where is Rome?", "Italy"),
        ("where is  ROME", "italy."),
        ("Where is Rome?", "Spain"),
        ("", "x"),
        ("\u00a0\t", "x"),
        ("Who?", ""),
        ("a" * 10_001, "x"),
        ("Long?", "b" * 10_001),
        ("Where is Oslo?", "Norway"),
        ("Where is Lima?", "Peru"),
    ]
    dataset, folder = fetch(tmp_path, rows, max_rejected=0.9)
    assert reasons(folder) == [
        (2, "duplicate"),
        (3, "conflicting answer"),
        (4, "blank question"),
        (5, "blank question"),
        (6, "blank answer"),
        (7, "question too long"),
        (8, "answer too long"),
    ]
    train, _ = splits(folder)
    assert {(row.question, row.answer) for row in train} == {rows[0], rows[8], rows[9]}
    assert dataset.rejected == 6
    assert any("conflicting answers: d.csv, line 4" in warning and "'Italy'" in warning for warning in dataset.warnings)
    found = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    assert (found["duplicates"], found["conflicts"], found["rejected"], found["rows_read"]) == (1, 1, 6, 10)
    assert found["rejected_by_reason"]["blank question"] == 2


def test_out_of_scope_answers_are_recognised_and_written_alike(tmp_path):
    rows = [*[(q, a) for q, a, _ in FACTS], ("Who am I?", "i don’t know."), ("What is love?", "I DON'T KNOW")]
    _, folder = fetch(tmp_path, rows)
    train, test = splits(folder)
    beyond = [row for row in train + test if not row.in_scope]
    assert {row.answer for row in beyond} == {"I don't know"}
    assert len(beyond) == 2
    _, folder = fetch(tmp_path, rows, unanswerable="unknown")
    assert all(row.in_scope for rows in splits(folder) for row in rows)


def test_a_test_question_never_stands_in_training(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    train = [(f"What is item {n}?", f"It is {n}") for n in range(30)]
    held = [("what is ITEM 3", "It is 3"), ("What is item 4 ?", "another answer"), ("What is new?", "this")]
    for name, rows in (("train.csv", train), ("validation.csv", [*train[5:6], held[0]]), ("test.csv", held)):
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([("question", "answer"), *rows])
    dataset, artifact = fetch(tmp_path / "x", [("a", "b")], source=str(folder), max_rejected=0.2)
    assert dataset.splits == {"train": 27, "validation": 1, "test": 3}
    lines = [json.loads(line) for line in (artifact / "rejected.jsonl").read_text().splitlines()]
    assert [(row["split"], row["row"], row["reason"]) for row in lines] == [
        ("train", 4, "question held out"),
        ("train", 5, "question held out"),
        ("train", 6, "question held out"),
        ("validation", 2, "question held out"),
    ]
    assert "test.csv, line 2 (test) asks the same" in lines[0]["detail"]


# --- splitting


def keys(rows: list[Row], kind: str) -> set[str | None]:
    return {row.group if kind == "group" else comparable(row.answer) for row in rows if row.in_scope}


def test_group_and_answer_keep_facts_apart(tmp_path):
    header = ("question", "answer", "fact")
    for expected in ("group", "answer"):
        dataset, folder = fetch(tmp_path, FACTS, header, split_by=expected)
        train, test = splits(folder)
        assert dataset.split_by == expected
        assert not keys(train, expected) & keys(test, expected)
        assert len(test) == 10
        assert len(train) == 40
        assert any("every fact is trained and asked for in new words" in warning for warning in dataset.warnings)
    assert any("'fact'" in warning for warning in dataset.warnings)


def test_wording_holds_out_some_of_every_fact(tmp_path):
    dataset, folder = fetch(tmp_path, FACTS, ("question", "answer", "fact"), split_by="wording")
    train, test = splits(folder)
    assert dataset.split_by == "wording"
    assert Counter(row.group for row in test) == {f"f{n}": 1 for n in range(10)}
    assert keys(train, "group") == keys(test, "group")


def test_a_fact_with_one_wording_stays_in_training_under_wording(tmp_path):
    rows = [
        ("Where is Rome?", "Italy"),
        ("Rome is where?", "Italy"),
        ("In which land is Rome?", "Italy"),
        ("Oslo?", "Norway"),
    ]
    _, folder = fetch(tmp_path, rows, split_by="wording")
    train, test = splits(folder)
    assert keys(test, "answer") == {"italy"}
    assert "norway" in keys(train, "answer")
    with pytest.raises(DatasetFormatError, match="no group or answer is asked for in two wordings"):
        fetch(tmp_path, rows[2:], split_by="wording")


def test_questions_of_the_same_words_do_not_fall_on_two_sides(tmp_path):
    rows = [(f"Is thing {n} red or blue?", f"red {n}") for n in range(30)]
    rows += [(f"Blue or red: is thing {n}?", f"blue {n}") for n in range(30)]
    for split_by in ("answer", "wording"):
        if split_by == "wording":
            rows += [(f"Say, thing {n}, is it red?", f"red {n}") for n in range(30)]
        _, folder = fetch(tmp_path, rows, split_by=split_by, max_rejected=0.5)
        train, test = splits(folder)
        assert test
        assert not {word_set(row.question) for row in train} & {word_set(row.question) for row in test}


def example(question: str, answer: str = "a", group: str | None = None, in_scope: bool = True) -> Example:
    return Example(question, answer, group, in_scope, SourceRow("f", 1, 2, {}))


facts = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 5), st.booleans()), min_size=12, max_size=60, unique_by=lambda f: f[:2]
)


@given(facts, st.sampled_from(["group", "answer", "wording"]), st.floats(0.05, 0.6), st.integers(0, 5), st.randoms())
@settings(deadline=None)
def test_splits_are_whole_seeded_and_stable_under_row_order(rows, by, fraction, seed, random):
    examples = [
        example(
            f"Question {chr(97 + wording)} about {fact}", f"answer {fact % 5}", f"group {fact}", not beyond or fact < 3
        )
        for fact, wording, beyond in rows
    ]
    try:
        train, test = split_examples(examples, by=by, test_fraction=fraction, seed=seed)
    except DatasetFormatError:
        return
    assert {id(item) for item in train} | {id(item) for item in test} == {id(item) for item in examples}
    assert len(train) + len(test) == len(examples)
    in_train, in_test = ([item for item in side if item.in_scope] for side in (train, test))
    assert in_train
    assert in_test
    fact = (lambda item: item.answer) if by == "answer" else (lambda item: item.group)
    shared = {fact(item) for item in in_train} & {fact(item) for item in in_test}
    assert shared == {fact(item) for item in in_test} if by == "wording" else not shared
    beyond_total = sum(not item.in_scope for item in examples)
    if beyond_total > 1:
        beyond_test = sum(not item.in_scope for item in test)
        assert 1 <= beyond_test < beyond_total
        assert abs(beyond_test - fraction * beyond_total) <= 1
    shuffled = list(examples)
    random.shuffle(shuffled)
    again = split_examples(shuffled, by=by, test_fraction=fraction, seed=seed)
    assert {id(item) for item in again[1]} == {id(item) for item in test}


def test_another_seed_splits_otherwise_and_new_rows_move_few():
    examples = [example(f"What is {n}?", f"answer {n}") for n in range(200)]

    def held(items: list[Example], seed: int) -> set[str]:
        return {item.question for item in split_examples(items, by="answer", test_fraction=0.2, seed=seed)[1]}

    assert len(held(examples, 1)) == 40
    assert held(examples, 1) != held(examples, 2)
    assert len(held(examples, 1) - held([*examples, example("What is new?", "new")], 1)) <= 1


def test_the_share_that_is_held_out_is_said_where_it_differs(tmp_path):
    rows = [(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(40)]
    dataset, _ = fetch(tmp_path, rows, split_by="answer")
    assert dataset.splits == {"train": 20, "test": 20}
    assert any(warning.startswith("50% of the rows are held out, not 20%") for warning in dataset.warnings)


# --- profile


def test_quantiles_are_values_of_the_data():
    assert quantiles([]) == {}
    assert quantiles([5]) == {"min": 5, "p50": 5, "p90": 5, "p95": 5, "p99": 5, "max": 5}
    assert quantiles(range(1, 101)) == {"min": 1, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


def test_the_profile_counts_what_is_there(tmp_path):
    rows = [*FACTS, ("Who am I?", "I don't know", ""), ("What is love?", "I don't know", "")]
    _, folder = fetch(tmp_path, rows, ("question", "answer", "fact"))
    found = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    train, test = splits(folder)
    for split, kept in (("train", train), ("test", test)):
        numbers = found["splits"][split]
        assert numbers["rows"] == len(kept)
        assert numbers["in_scope"] + numbers["out_of_scope"] == len(kept)
        assert numbers["question_characters"]["max"] == max(len(row.question) for row in kept)
        assert numbers["question_words"]["min"] == min(len(row.question.split()) for row in kept)
        assert numbers["distinct_answers"] == len({row.answer for row in kept})
    assert found["group_column"] == "fact"
    assert found["files"][0]["columns"] == ["question", "answer", "fact"]


def test_token_lengths_and_what_would_be_truncated():
    calls = []

    def tokenizer(texts: list[str]) -> dict[str, Any]:
        calls.append(len(texts))
        return {"input_ids": [[*text.split(), "</s>"] for text in texts]}

    found = profile_tokens(
        ["a b c"] * 1500 + ["a b c d e f"] * 500,
        ["x"] * 1900 + ["x y z"] * 100,
        tokenizer,
        prompt="question: {question} answer:",
        max_source_tokens=6,
        max_target_tokens=3,
    )
    assert found["source_tokens"] == {"min": 6, "p50": 6, "p90": 9, "p95": 9, "p99": 9, "max": 9}
    assert found["target_tokens"]["max"] == 4
    assert (found["source_truncated"], found["target_truncated"]) == (0.25, 0.05)
    assert calls == [1000, 1000, 1000, 1000]


def test_records_and_progress(tmp_path):
    (tmp_path / "d.csv").write_text("question,answer\n" + "".join(f"What is {n}?,{n}\n" for n in range(10)))
    config = DatasetConfig(source=str(tmp_path / "d.csv"))
    heard: list[float] = []
    ref = resolve_source(config, place=Workplace(TARGET, tmp_path))
    store = ArtifactStore(tmp_path / "artifacts")
    dataset = fetch_dataset(
        config,
        ref,
        place=Workplace(TARGET, store=store, progress=lambda share, message="": heard.append(share)),
    )
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert DatasetRef.model_validate_json(dataset.model_dump_json()) == dataset
    assert not list((tmp_path / "artifacts" / "dataset").glob(".draft-*"))
