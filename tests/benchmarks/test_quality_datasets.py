"""The datasets of the quality benchmark keep what their data cards say, and what they say is true."""

import csv
import re
import unicodedata
from collections import Counter, defaultdict

import pytest
import yaml

from benchmarks.quality_data import FOLDERS, UNANSWERABLE, read_dataset, split_by_wording

OUT_OF_SCOPE = "out-of-scope"
NAMES = ("elements", "computing")
WORDINGS = {"elements": (9, 2), "computing": (8, 2)}
Row = dict[str, str]

#: The periodic table as far as uranium, in its order.
TABLE = re.findall(
    "[A-Z][a-z]?",
    "HHeLiBeBCNOFNeNaMgAlSiPSClArKCaScTiVCrMnFeCoNiCuZnGaGeAsSeBrKrRbSrYZrNbMoTcRuRhPdAgCdInSnSbTeIXeCsBaLaCePrNdPmSm"
    "EuGdTbDyHoErTmYbLuHfTaWReOsIrPtAuHgTlPbBiPoAtRnFrRaAcThPaU",
)
#: Symbols that are not how the English name begins.
LATIN = {"Na": "sodium", "K": "potassium", "Fe": "iron", "Cu": "copper", "Ag": "silver", "Au": "gold", "Hg": "mercury"}
LATIN |= {"Pb": "lead"}
FAMILIES = {
    "Alkali metals": ("Li", "Na", "K"),
    "Alkaline earth metals": ("Mg", "Ca"),
    "Halogens": ("F", "Cl", "I"),
    "Noble gases": ("He", "Ne", "Ar"),
}


def read(name: str, split: str) -> list[Row]:
    with (FOLDERS[name] / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def both(name: str) -> list[Row]:
    return [*read(name, "train"), *read(name, "test")]


def answers(name: str) -> dict[str, str]:
    return {row["fact"]: row["answer"] for row in both(name)}


def counts(rows: list[Row]) -> Counter[str]:
    return Counter(row["fact"] for row in rows if row["fact"] != OUT_OF_SCOPE)


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_has_its_wordings_in_both_splits(name: str) -> None:
    for split, expected in zip(("train", "test"), WORDINGS[name], strict=True):
        assert set(counts(read(name, split)).values()) == {expected}
    assert counts(read(name, "train")).keys() == counts(read(name, "test")).keys()


@pytest.mark.parametrize("name", NAMES)
def test_one_fact_has_one_answer_and_no_question_comes_twice(name: str) -> None:
    found = defaultdict(set)
    for row in both(name):
        found[row["fact"]].add(row["answer"])
    assert [fact for fact, given in found.items() if len(given) > 1] == []
    # Case counts: "Which element is Co?" is not "Which element is CO?".
    asked = Counter(" ".join(re.findall(r"\w+", row["question"])) for row in both(name))
    assert [question for question, count in asked.items() if count > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_out_of_scope_rows_and_only_they_have_the_unanswerable_answer(name: str) -> None:
    assert {row["fact"] for row in both(name) if row["answer"] == UNANSWERABLE} == {OUT_OF_SCOPE}
    assert {row["answer"] for row in both(name) if row["fact"] == OUT_OF_SCOPE} == {UNANSWERABLE}


@pytest.mark.parametrize("name", NAMES)
def test_cells_and_files_are_clean_and_small(name: str) -> None:
    for row in both(name):
        assert list(row) == ["question", "answer", "fact"]
        for cell in row.values():
            assert cell
            assert cell == " ".join(cell.split())
            assert unicodedata.is_normalized("NFC", cell)
            assert not set(cell) & set("‘’“”„«»`´")
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["fact"])
        assert row["question"][-1] in "?."
    content = b"".join((FOLDERS[name] / f"{split}.csv").read_bytes() for split in ("train", "test"))
    assert b"\r" not in content
    assert len(content) < 120_000


def test_answers_of_the_help_page_are_sentences_of_three_to_fifteen_words() -> None:
    assert [a for fact, a in answers("computing").items() if not 3 <= len(a.split()) <= 15] == []


def test_elements_are_where_the_periodic_table_has_them() -> None:
    known = answers("elements")
    elements = {fact.removesuffix("-symbol") for fact in known if re.fullmatch(r"[a-z]+-symbol", fact)}
    assert len(elements) == 28
    for element in elements:
        symbol = known[f"{element}-symbol"]
        assert TABLE.index(symbol) + 1 == int(known[f"{element}-number"])
        assert known[f"{element}-by-symbol"].lower() == element
        assert LATIN.get(symbol) == element or (symbol not in LATIN and element.startswith(symbol[0].lower()))
    for fact, family in known.items():
        if fact.endswith("-family"):
            assert known[fact.replace("-family", "-symbol")] in FAMILIES[family]


def test_an_answer_by_symbol_names_the_symbol_of_its_question() -> None:
    known = answers("elements")
    for row in both("elements"):
        element, _, kind = row["fact"].partition("-")
        if kind == "by-symbol":
            assert re.search(rf"\b{known[f'{element}-symbol']}\b", row["question"])
        elif row["fact"] != OUT_OF_SCOPE:
            assert element in row["question"].lower()


@pytest.mark.parametrize("name", NAMES)
def test_the_data_card_tells_the_truth(name: str) -> None:
    _, front_matter, body = (FOLDERS[name] / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front_matter)
    assert card["license"] == "cc0-1.0"
    assert all((FOLDERS[name] / entry["path"]).is_file() for entry in card["configs"][0]["data_files"])
    train, test = read(name, "train"), read(name, "test")
    facts = len(counts(train))
    asked = [sum(counts(rows).values()) for rows in (train, test)]
    more, fewer = WORDINGS[name]
    assert f"| facts | {facts} | the same {facts} |" in body
    assert f"| {asked[0]:,} ({more} wordings a fact) | {asked[1]:,} ({fewer} other wordings a fact) |" in body
    assert f"| out-of-scope questions | {len(train) - asked[0]} | {len(test) - asked[1]} |" in body
    assert f"| rows | {len(train):,} | {len(test):,} |" in body


@pytest.mark.parametrize("name", FOLDERS)
def test_a_split_keeps_every_row_once_and_every_fact_on_both_sides(name: str) -> None:
    train, test = split_by_wording(name, 5)
    assert sorted(train + test) == sorted(read_dataset(name))
    assert {row.group for row in train} == {row.group for row in test}
    assert set(Counter(row.group for row in test if row.in_scope).values()) == {2}
    assert (train, test) == split_by_wording(name, 5)
    assert test != split_by_wording(name, 6)[1]


def test_a_split_of_the_elements_holds_out_the_same_sentences_for_all_of_them() -> None:
    train, test = split_by_wording("elements", 5)

    def sentences(rows: list) -> set[str]:
        # Only the element differs; those that were first isolated have sentences of their own.
        rows = [row for row in rows if row.in_scope and row.group.endswith("-number")]
        return {re.sub(row.group.partition("-")[0], "X", row.question.lower()) for row in rows}

    assert len(sentences(test)) == 2
    assert not sentences(train) & sentences(test)
