"""Corrections from the question log beside a dataset with splits of its own."""

from pathlib import Path

from support.tiny_datasets import NOWHERE

from askline.config import DatasetConfig
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.qa.rows import read_rows
from tasks.workplace import Workplace


def fetched(folder: Path, feedback: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Return the answers of training and test by their questions, and the rejected rows, of a dataset with feedback."""
    data = folder / "data"
    data.mkdir()
    train = [f"What is the sign of number {n}?,S{n}" for n in range(20)]
    (data / "train.csv").write_text("\n".join(["question,answer", *train, ""]))
    (data / "test.csv").write_text("question,answer\nWhere was she born?,Krakow\nWhen was she born?,1867\n")
    (data / "train-feedback.csv").write_text(feedback)
    place = Workplace(NOWHERE, folder / "state")
    config = DatasetConfig(source=str(data))
    dataset = fetch_dataset(config, resolve_source(config, place=place), place=place)
    artifact = place.store.verify("dataset", dataset.sha256)
    trained, tested = ({row.question: row.answer for row in read_rows(artifact, name)} for name in ("train", "test"))
    return trained, tested, (artifact / "rejected.jsonl").read_text()


def test_a_correction_of_a_held_out_question_corrects_it_there(tmp_path: Path) -> None:
    trained, tested, rejected = fetched(
        tmp_path, "question,answer,source,request_id\nwhere was she born,Warsaw,corrected,r-1\n"
    )
    assert tested == {"Where was she born?": "Warsaw", "When was she born?": "1867"}
    assert not any("born" in question for question in trained)
    assert "question held out" in rejected
    assert "has this answer now" in rejected


def test_a_row_that_is_no_correction_changes_no_held_out_answer(tmp_path: Path) -> None:
    feedback = "question,answer,source,request_id\nWhere was she born?,Paris,a friend,\n"
    _, tested, rejected = fetched(tmp_path, feedback)
    assert tested["Where was she born?"] == "Krakow"
    assert "question held out" in rejected


def test_a_correction_of_a_trained_question_is_trained(tmp_path: Path) -> None:
    feedback = "question,answer,source,request_id\nWhat is the sign of number 3?,Three,corrected,r-2\n"
    trained, _, _ = fetched(tmp_path, feedback)
    assert trained["What is the sign of number 3?"] == "Three"
