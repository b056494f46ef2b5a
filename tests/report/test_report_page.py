"""The page of a run, as Chromium shows it, and the pictures in it."""

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import chromium
from support.report_records import API, ENDPOINT, PACKAGE, smoke
from support.tiny_datasets import write_dataset

from askline.config import HubConfig, PipelineConfig
from askline.records import (
    ChampionRef,
    Comparison,
    DatasetRef,
    Gate,
    ModelRef,
    Paired,
    PipelineReport,
    RunReport,
    Scores,
    SplitScores,
    Target,
)
from askline.store import ArtifactStore
from tasks.push_to_hub.model_card import card_pictures, model_card
from tasks.report import curves
from tasks.report.page import page

NASTY = (
    '<script>document.title = "broken in"</script><img src="http://example.com/x.png" onerror="alert(1)"> & "quotes"'
)
UNANSWERABLE = "I don't know"
SOME = SplitScores(questions=60, exact_match=0.5, token_f1=0.625, rouge_l=0.6)
PAIRED = Paired(
    questions=60,
    champion=0.4,
    challenger=0.5,
    only_champion=3,
    only_challenger=9,
    p_better=0.073,
    p_worse=0.98,
    low=0.01,
    high=0.19,
)


def log(steps: int = 120) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "step": n,
            "epoch": n / 10,
            "loss": 3 * math.exp(-n / 40) + 0.1 * (n % 3),
            "learning_rate": 1e-3 * (1 - n / 200),
        }
        for n in range(1, steps + 1)
    ]
    return rows


def made(store: ArtifactStore) -> dict[str, Any]:
    """The artifacts and records of a run whose data is out to break the page."""
    dataset = write_dataset(store, [("Seen?", "yes", None)], [(NASTY, "yes", None)], location="/data/<b>.csv")
    folder = store.path("dataset", dataset.sha256)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    about = {"min": 1, "p50": 5, "p95": 9, "max": 12}
    with store.new("dataset") as draft:
        for name, content in files.items():
            (draft.folder / name).write_bytes(content)
        (draft.folder / "profile.json").write_text(json.dumps({"splits": {"test": {"question_words": about}}}))
        dataset = dataset.model_copy(update={"sha256": draft.commit(), "warnings": ("line 7 contradicts line 3",)})
    with store.new("model") as draft:
        (draft.folder / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log()))
        measured = [{"step": 60, "exact_match": 0.3}, {"step": 120, "exact_match": 0.5}]
        (draft.folder / "validation_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in measured))
        (draft.folder / "askline.json").write_text(json.dumps({"versions": {"torch": "2"}}))
        model = ModelRef(
            sha256=draft.commit(),
            base="scratch",
            base_revision=None,
            dataset_sha256=dataset.sha256,
            prompt="question: {question} answer:",
            parameters=1_500_000,
            steps=120,
            epochs=12,
            train_loss=0.1,
            precision="fp32",
            seconds=80,
            max_source_tokens=128,
            max_target_tokens=64,
            choices=("fp32: this processor has no bf16",),
            rates={"tokens_per_second": 5000.0, "mfu": 0.4},
        )
    lines = [
        {
            "split": "test",
            "question": NASTY if n == 0 else f"Question {n}?",
            "answer": "right",
            "prediction": "right" if n % 2 else f"wrong {n}",
            "confidence": 0.3 + 0.6 * (n % 2) + n / 1000,
            "exact_match": float(n % 2),
            "token_f1": float(n % 2),
            "in_scope": True,
            "baselines": {"nearest question": "near"},
        }
        for n in range(60)
    ]
    with store.new("scores") as draft:
        (draft.folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        scores = Scores(
            sha256=draft.commit(),
            model_sha256=model.sha256,
            train=SOME,
            test=SOME,
            out_of_scope=None,
            false_abstention=0.0,
            baselines={"nearest question": SOME},
            seconds=1,
        )
    return {"dataset": dataset, "model": model, "scores": scores}


def compared(store: ArtifactStore) -> Comparison:
    line = {"question": NASTY, "answer": "right", "in_scope": True, "champion": "old", "challenger": "right"}
    with store.new("comparison") as draft:
        text = json.dumps(line | {"champion_right": False, "challenger_right": True}) + "\n"
        (draft.folder / "answers.jsonl").write_text(text)
        sha256 = draft.commit()
    champion = ChampionRef(
        mlkey="biography",
        endpoint="serv-hf-endpoint-biography",
        model_version="0123456789ab",
        archive_sha256="a" * 64,
        dataset="old.csv@1",
        promoted_at="2026-01-01T00:00:00+00:00",
        run_id="run-0",
    )
    return Comparison(
        champion=champion,
        verdict="unproven",
        reason="not proven better than the champion",
        overall=PAIRED,
        in_scope=PAIRED,
        sha256=sha256,
        notes=("it may have seen them",),
    )


def about(state: Any, tmp_path: Path) -> dict[str, Any]:
    return {
        "run_id": "run-1",
        "run_name": f"data → biography {NASTY}",
        "state": state,
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 12.3,
        "target": Target(kind="local", region="us-east-1", prefect_ui="http://127.0.0.1:4200"),
        "config": PipelineConfig(state_dir=tmp_path).model_dump(mode="json"),
        "steps": {"fine-tune": 80.0, "evaluate": 7.5},
    }


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def reports(store: ArtifactStore, tmp_path: Path) -> dict[str, RunReport]:
    records = made(store)
    refused = Gate(passed=False, reasons=("not proven better than the champion",), comparison=compared(store))
    deployed = {
        "gate": Gate(passed=True),
        "package": PACKAGE,
        "endpoint": ENDPOINT,
        "api": API,
        "smoke": smoke(NASTY),
    }
    failed = {"dataset": records["dataset"], "error": f"there is no role: {NASTY}"}
    return {
        "Promoted": PipelineReport(**about("Promoted", tmp_path), **records, **deployed),
        "NotPromoted": PipelineReport(**about("NotPromoted", tmp_path), **records, gate=refused),
        "Failed": RunReport(**about("Failed", tmp_path), **failed),
    }


@pytest.fixture
def opened(reports: dict[str, RunReport], store: ArtifactStore, tmp_path: Path) -> Iterator[Any]:
    if chromium.BINARY is None:
        pytest.skip("no Chromium on this machine")
    with chromium.browser(tmp_path / "profile") as running, running.page() as tab:

        def show(state: str, **look: Any) -> chromium.Page:
            file = tmp_path / f"{state}.html"
            if not file.exists():
                file.write_text(page(reports[state], store), encoding="utf-8")
            tab.look(**look)
            tab.open(file.as_uri())
            return tab

        yield show


@pytest.mark.slow
def test_the_page_in_chromium(opened: Any, reports: dict[str, RunReport]) -> None:
    for state in reports:
        for width, dark in ((1280, False), (390, True)):
            tab = opened(state, width=width, dark=dark)
            assert tab.console == []
            assert not [url for url in tab.requested if not url.startswith(("file:", "data:"))]
            assert tab.value("document.title").endswith(f": {state}")
            assert tab.text_of("dataset")
            # Nothing sticks out sideways, whatever the data holds.
            assert tab.value("document.documentElement.scrollWidth <= innerWidth")
            assert tab.value("document.scripts.length") == 1
            assert tab.value("document.images.length") == 0
            brightness = tab.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
            assert (int(brightness) < 60) == dark
            for anchor in tab.value("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))"):
                assert tab.value(f"document.getElementById('{anchor}') !== null")

    tab = opened("Promoted")
    assert "curl --location" in tab.text_of("api")
    assert NASTY in tab.text_of("wrong-answers")
    assert tab.value("document.querySelectorAll('#training svg').length") == 1
    assert tab.value("document.querySelectorAll('#confidence svg').length") == 1
    assert "exact match" in tab.text_of("training")
    assert "5,000 tokens a second, 40.0 % of the machine's" in tab.text_of("training")
    assert "no bf16" in tab.text_of("choices")
    tab.value("document.querySelectorAll('.sortable th button')[2].click()")
    column = "[...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[2].textContent)"
    found = tab.value(column)
    assert len(found) == 30
    assert found == sorted(found, key=lambda text: int(text.split()[1]))
    tab.value("document.querySelectorAll('.sortable th button')[2].click()")
    assert tab.value(column) == found[::-1]

    tab = opened("NotPromoted")
    said = tab.text_of("champion")
    assert "0123456789ab" in said
    assert "+10.0 (+1.0 to +19.0)" in said
    assert "Only the challenger is right (1)" in said
    assert not tab.value("document.getElementById('api')")

    tab = opened("Failed")
    assert "there is no role" in tab.value("document.querySelector('.reasons').textContent")
    assert not tab.value("document.getElementById('scores')")


def test_what_an_artifact_would_have_told_is_left_out(reports: dict[str, RunReport], tmp_path: Path) -> None:
    text = page(reports["Promoted"], ArtifactStore(tmp_path / "empty"))
    assert "Not shown: the scores artifact" in text
    assert "curl --location" in text


def test_the_same_figures_give_the_same_picture() -> None:
    first, second = curves.training(log()), curves.training(log())
    assert first is not None
    assert second is not None
    assert first.svg() == second.svg()
    assert first.png() == second.png()
    assert first.inline() == second.inline()
    assert not re.search(r"20\d\d-\d\d-\d\d", first.svg())


def test_a_picture_in_a_page_takes_its_colours_and_keeps_its_names_to_itself() -> None:
    picture = curves.training(log())
    assert picture is not None
    inline = picture.inline()
    root = ET.fromstring(inline.replace("xlink:href", "href"))
    assert "currentColor" in inline
    assert "var(--first)" in inline
    assert not re.search(r"#(111111|0b6e99)", inline)
    names = {element.get("id") for element in root.iter()} - {None}
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', inline))
    assert used <= names
    assert all(str(name).startswith("training-") for name in names)


@pytest.mark.parametrize("entries", [[], [{}], [{"step": 1, "loss": 2.0}]])
def test_nothing_is_drawn_from_nothing(entries: list[dict[str, Any]]) -> None:
    assert curves.training(entries) is None
    assert curves.coverage([0.5], [True]) is None


def test_a_long_training_makes_no_heavy_picture() -> None:
    picture = curves.training([{"step": n, "loss": 1 / n} for n in range(1, 20_001)])
    assert picture is not None
    assert len(picture.inline()) < 100_000


def test_the_model_card_shows_the_pictures_beside_it(store: ArtifactStore) -> None:
    records = made(store)
    model, scores, dataset = records["model"], records["scores"], records["dataset"]
    assert isinstance(dataset, DatasetRef)
    pictures = card_pictures(model, scores, store)
    card = model_card(
        HubConfig(), model, scores, dataset, mlkey="biography", repo_id="me/it", tag="v-1", store=store, language="en"
    )
    assert set(pictures) == {"training.png", "coverage.png"}
    for name, content in pictures.items():
        assert f"]({name})" in card
        assert content.startswith(b"\x89PNG")
