"""The sample dataset keeps what its data card says."""

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

DATA = Path(__file__).parents[2] / "data"
UNANSWERABLE = "I don't know"
OUT_OF_SCOPE = "out-of-scope"
Row = dict[str, str]


def read(split: str) -> list[Row]:
    with (DATA / "biography" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return {split: read(split) for split in ("train", "test")}


@pytest.fixture(scope="module")
def rows(splits: dict[str, list[Row]]) -> list[Row]:
    return [*splits["train"], *splits["test"]]


def wordings(rows: list[Row]) -> Counter[str]:
    return Counter(row["fact"] for row in rows if row["fact"] != OUT_OF_SCOPE)


def normalised(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.casefold()))


def test_every_fact_has_nine_training_and_two_test_wordings(splits: dict[str, list[Row]]) -> None:
    train, test = wordings(splits["train"]), wordings(splits["test"])
    assert 90 <= len(train) <= 115
    assert train.keys() == test.keys()
    assert {fact: count for fact, count in train.items() if count != 9} == {}
    assert {fact: count for fact, count in test.items() if count != 2} == {}


def test_one_fact_has_one_answer(rows: list[Row]) -> None:
    answers = defaultdict(set)
    for row in rows:
        answers[row["fact"]].add(row["answer"])
    assert {fact: found for fact, found in answers.items() if len(found) > 1} == {}


def test_few_facts_share_an_answer(rows: list[Row]) -> None:
    facts = defaultdict(set)
    for row in rows:
        facts[row["answer"]].add(row["fact"])
    shared = {answer: found for answer, found in facts.items() if len(found) > 1}
    assert len(shared) <= 5
    assert all(len(found) == 2 for found in shared.values())


def test_no_question_is_asked_twice_within_or_across_the_splits(rows: list[Row]) -> None:
    counts = Counter(normalised(row["question"]) for row in rows)
    assert [question for question, count in counts.items() if count > 1] == []


def test_out_of_scope_rows_and_only_they_have_the_unanswerable_answer(splits: dict[str, list[Row]]) -> None:
    for split, smallest, largest in (("train", 85, 100), ("test", 55, 65)):
        unanswerable = [row for row in splits[split] if row["answer"] == UNANSWERABLE]
        assert smallest <= len(unanswerable) <= largest
        assert {row["fact"] for row in unanswerable} == {OUT_OF_SCOPE}


def test_answers_are_one_to_six_words(rows: list[Row]) -> None:
    assert [row["answer"] for row in rows if not 1 <= len(row["answer"].split()) <= 6] == []


def test_cells_are_clean(rows: list[Row]) -> None:
    for row in rows:
        assert list(row) == ["question", "answer", "fact"]
        for cell in row.values():
            assert cell
            assert cell == " ".join(cell.split())
            assert unicodedata.is_normalized("NFC", cell)
            assert not set(cell) & set("‘’“”„«»`´\u037e\uff1f")
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["fact"])
        assert row["question"][-1] in "?."
        assert row["question"][0].isupper()


def test_rows_of_a_fact_stand_together(splits: dict[str, list[Row]]) -> None:
    for split in splits.values():
        facts = [row["fact"] for row in split]
        runs = [fact for fact, before in zip(facts, [None, *facts], strict=False) if fact != before]
        assert len(runs) == len(set(runs))


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_are_plain_utf8_with_unix_line_ends(split: str) -> None:
    content = (DATA / "biography" / f"{split}.csv").read_bytes()
    assert not content.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in content
    assert content.endswith(b"\n")
    content.decode("utf-8")


def test_the_data_card_tells_the_truth(splits: dict[str, list[Row]]) -> None:
    _, front_matter, body = (DATA / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front_matter)
    (config,) = card["configs"]
    files = {entry["split"]: DATA / entry["path"] for entry in config["data_files"]}
    assert files.keys() == splits.keys()
    assert all(path.is_file() for path in files.values())
    assert card["license"] == "cc0-1.0"
    assert card["language"] == ["en"]

    train, test = splits["train"], splits["test"]
    facts = len(wordings(train))
    asked = [sum(wordings(split).values()) for split in (train, test)]
    declined = [len(split) - count for split, count in zip((train, test), asked, strict=True)]
    assert f"| facts | {facts} | the same {facts} |" in body
    assert f"| {asked[0]} (9 wordings a fact) | {asked[1]} (2 other wordings a fact) |" in body
    assert f"| out-of-scope questions | {declined[0]} | {declined[1]} |" in body
    assert f"| rows | {len(train):,} | {len(test):,} |" in body
    assert f"{sum(declined)} out-of-scope questions" in body
