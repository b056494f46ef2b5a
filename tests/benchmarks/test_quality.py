"""The quality benchmark: which trainings it does, what it takes for a gain, and that the docs quote its figures."""

import json
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from benchmarks import quality_measures
from benchmarks.quality import RESULTS, jobs_for, parse_devices, read_results, update_page, work, write_results
from benchmarks.quality_data import FOLDERS, split_by_wording
from benchmarks.quality_measures import MEASURES, VARIANTS, Measure, Variant
from benchmarks.quality_table import difference, tables, verdict

MEASURE = Measure("mixed wordings", "no-mixing", "default")
PAGE = Path(__file__).parents[2] / "docs" / "training-quality.md"


def rows(figures: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Rows of {dataset: {variant: [exact match of each seed]}}."""
    return [
        {"dataset": dataset, "variant": variant, "seed": seed, "em": em, "f1": em, "out_of_scope": 0.5}
        | {"false_abstention": 0.0}
        for dataset, variants in figures.items()
        for variant, found in variants.items()
        for seed, em in enumerate(found)
    ]


def measured(*afters: list[float]) -> list[dict[str, Any]]:
    """Before each measure 0.5, 0.6 and 0.7; after it what is given, for each dataset."""
    pairs = zip(FOLDERS, afters, strict=False)
    return rows({name: {"no-mixing": [0.5, 0.6, 0.7], "default": after} for name, after in pairs})


def test_seeds_are_done_one_after_the_other_and_what_is_only_asked_otherwise_shares_a_training() -> None:
    jobs = jobs_for(["default", "beams", "ema"], ["elements", "computing"], [1, 2], [])
    assert jobs == [
        (dataset, names, seed)
        for seed in (1, 2)
        for names in (("default", "beams"), ("ema",))
        for dataset in ("elements", "computing")
    ]


def test_what_is_known_is_not_trained_again() -> None:
    done = rows({"elements": {"default": [0.5], "ema": [0.5]}})
    assert jobs_for(["default", "beams", "ema"], ["elements"], [0], done) == [("elements", ("beams",), 0)]


def test_each_process_gets_its_device() -> None:
    assert parse_devices("cpu", 3) == ["cpu"] * 3
    assert parse_devices("cuda:2,cpu:1", 1) == ["cuda", "cuda", "cpu"]


def test_no_training_is_begun_after_the_deadline() -> None:
    assert work([("elements", ("default",), 1)], ["cpu"], 0.0, lambda found: None) == 0


def test_a_difference_is_between_the_same_seeds() -> None:
    found = rows({"elements": {"no-mixing": [0.5, 0.6, 0.7], "default": [0.6, 0.7, 0.8, 0.1]}})
    change = difference(found, "elements", MEASURE, "em")
    assert change is not None
    assert change.mean == pytest.approx(0.1)
    assert change.before == [0.5, 0.6, 0.7]


def test_seeds_that_agree_by_luck_do_not_make_an_error_of_nothing() -> None:
    lucky = measured([0.51, 0.61, 0.71])
    assert difference(lucky, "biography", MEASURE, "em").error == pytest.approx(0.0)  # type: ignore[union-attr]
    others = rows({"biography": {"no-synonyms": [0.9, 0.2, 0.5]}})
    change = difference(lucky + others, "biography", MEASURE, "em")
    assert change is not None
    assert change.error > 0.05
    assert change.sign == 0


@pytest.mark.parametrize(
    ("afters", "says"),
    [
        (([0.60, 0.71, 0.80], [0.61, 0.70, 0.80], [0.51, 0.59, 0.70]), "yes"),
        (([0.60, 0.71, 0.80], [0.61, 0.70, 0.80], [0.40, 0.51, 0.60]), "no"),
        (([0.60, 0.71, 0.80], [0.51, 0.59, 0.70], [0.51, 0.59, 0.70]), "not shown"),
        (([0.60, 0.71, 0.80],), "not shown"),
    ],
)
def test_a_measure_earns_its_place_by_two_gains_and_no_loss(afters: tuple[list[float], ...], says: str) -> None:
    assert verdict(measured(*afters), MEASURE) == says


def test_one_seed_shows_nothing() -> None:
    found = rows({name: {"no-mixing": [0.1], "default": [0.9]} for name in FOLDERS})
    assert verdict(found, MEASURE) == "not shown"


def test_results_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "results" / "quality.json"
    found = rows({"computing": {"ema": [0.5]}, "biography": {"default": [0.25, 0.75]}})
    assert read_results(path) == []
    write_results(path, found)
    assert read_results(path) == found[1:] + found[:1]
    assert [each.name for each in path.parent.iterdir()] == ["quality.json"]


def test_measures_compare_variants_that_there_are() -> None:
    assert {name for measure in MEASURES for name in (measure.before, measure.after)} == set(VARIANTS)


def test_what_is_not_in_the_product_any_more_is_not_trained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.quality", "--only", "rephrase"],
        cwd=RESULTS.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'rephrase' is none of default, plain" in done.stderr


def test_results_are_of_these_variants_and_each_once() -> None:
    found = read_results(RESULTS)
    keys = [(row["dataset"], row["variant"], row["seed"]) for row in found]
    assert len(keys) == len(set(keys))
    assert {variant for _, variant, _ in keys} <= set(VARIANTS)
    assert {dataset for dataset, _, _ in keys} == set(FOLDERS)


def test_the_page_quotes_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    update_page(page, read_results(RESULTS))
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_a_page_without_a_place_for_a_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no place for the table 'exact-match'"):
        update_page(page, [])


def test_the_table_has_a_line_for_every_dataset_and_names_what_is_not_measured() -> None:
    table = tables(measured([0.6, 0.7, 0.8]))["exact-match"].splitlines()
    assert table[2].startswith("| mixed wordings, 30 % | biography | 60.0 ± 10.0 | 70.0 ± 10.0 | **+10.0 ± ")
    assert [line.split("|")[2].strip() for line in table[2:5]] == list(FOLDERS)
    assert table[5] == ""
    assert table[6].startswith("Not measured yet: ")
    assert all((measure.title in table[6]) == (measure.before != "no-mixing") for measure in MEASURES)


@pytest.mark.slow
def test_a_run_trains_once_and_asks_greedily_and_with_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.quality_run import train_and_ask

    short = MappingProxyType({"steps": 2})
    monkeypatch.setitem(quality_measures.VARIANTS, "default", Variant(short, ema=0.9))
    monkeypatch.setitem(quality_measures.VARIANTS, "beams", Variant(short, beams=2))
    train, test = split_by_wording("computing", 7)
    greedy, beams = train_and_ask(train[:40] + train[-10:], test[:5] + test[-5:], ("default", "beams"), 7)
    assert (greedy["variant"], beams["variant"]) == ("default", "beams")
    assert greedy["seconds"] == beams["seconds"]
    assert 0 <= greedy["em"] <= greedy["f1"] <= 1
    assert json.loads(json.dumps(greedy)) == greedy
