"""What a person reads at the end of a run."""

import json
import shlex
from pathlib import Path

import pytest
from support.report_records import API, ENDPOINT, PACKAGE, smoke

from askline.config import PipelineConfig
from askline.records import (
    DatasetRef,
    Gate,
    ModelRef,
    Run,
    Scores,
    SourceRef,
    SplitScores,
    Target,
    UploadRef,
)
from askline.store import ArtifactStore
from tasks.report import markdown
from tasks.report.report import Findings, summary, write_report
from tasks.report.words import size, words

QUESTION = 'Who is O\'Brien | "the one"?\nReally?'
DATASET = DatasetRef(
    sha256="d" * 64,
    source=SourceRef(kind="hub", location="owner/name", revision="c" * 40),
    splits={"train": 1000, "test": 2},
    rejected=3,
    question_column="q",
    answer_column="a",
    split_by="existing",
    unanswerable="I don't know",
    warnings=("line 7 contradicts line 3",),
)
MODEL = ModelRef(
    sha256="e" * 64,
    base="scratch",
    base_revision=None,
    dataset_sha256=DATASET.sha256,
    prompt="{question}",
    parameters=1_500_000,
    steps=400,
    epochs=25.0,
    train_loss=0.157,
    precision="fp32",
    seconds=80.0,
    max_source_tokens=128,
    max_target_tokens=64,
)
SOME = SplitScores(questions=2, exact_match=0.5, token_f1=0.625, rouge_l=0.6)
UPLOAD = UploadRef(bucket="b", key="k", uri="s3://b/k", archive_sha256="a" * 64, version_id=None, reused=False)


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    lines = [
        {"split": "test", "question": QUESTION, "answer": "A", "prediction": "A", "exact_match": 1.0},
        {"split": "test", "question": "Where?\u2028", "answer": "Here", "prediction": "There", "exact_match": 0.0},
        {"split": "train", "question": "Seen?", "answer": "Yes", "prediction": "No", "exact_match": 0.0},
    ]
    with ArtifactStore(tmp_path / "artifacts").new("scores") as draft:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (draft.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
        sha256 = draft.commit()
    target = Target(kind="local", region="us-east-1", prefect_ui="http://127.0.0.1:4200")
    config = PipelineConfig(state_dir=tmp_path)
    found = Findings(config, Run(run_id="run-1", state_dir=tmp_path, target=target))
    found.keep(DATASET)
    found.keep(MODEL)
    found.keep(
        Scores(
            sha256=sha256,
            model_sha256=MODEL.sha256,
            train=SOME,
            test=SOME,
            out_of_scope=None,
            false_abstention=0.0,
            baselines={"nearest question": SOME},
            seconds=1.0,
        )
    )
    return found


def promoted(found: Findings) -> Findings:
    for record in (Gate(passed=True), PACKAGE, UPLOAD, ENDPOINT, API, smoke(QUESTION)):
        found.keep(record)
    return found


def test_the_summary_names_what_a_person_wants_to_know(found):
    said = summary(write_report(promoted(found), "Promoted"))
    for part in ("62.5 %", "nearest question", "7.7 MB", "a" * 64, API.url, "flow-run/run-1", "make stop", "line 7"):
        assert part in said
    assert "✗ There   (right: Here)" in said
    assert "Seen?" not in said


def test_the_report_is_kept_and_reads_back(found, tmp_path):
    report = write_report(promoted(found), "Promoted")
    kept = tmp_path / "runs" / "run-1" / "report.json"
    assert json.loads(kept.read_text(encoding="utf-8"))["package"]["archive_sha256"] == "a" * 64
    assert type(report).model_validate_json(kept.read_text(encoding="utf-8")) == report
    assert sorted(path.name for path in kept.parent.iterdir()) == ["report.html", "report.json"]


def test_a_run_that_was_not_promoted_says_why(found):
    found.keep(Gate(passed=False, reasons=("exact match is 1 %",)))
    said = summary(write_report(found, "NotPromoted"))
    assert "Not promoted" in said
    assert "exact match is 1 %" in said
    assert "curl" not in said


def test_the_curl_is_one_shell_command_whatever_the_question_holds():
    words_of_it = shlex.split(markdown.curl(API, "biography", QUESTION))
    assert words_of_it[0] == "curl"
    assert json.loads(words_of_it[-1]) == {"MLKey": "biography", "question": QUESTION}


def test_a_table_survives_bars_and_line_breaks():
    lines = markdown.table(["a"], [[QUESTION]]).splitlines()
    assert len(lines) == 3
    assert "\\|" in lines[2]


def test_wrong_answers_are_those_of_unseen_questions(found):
    scores = found.report("NotPromoted", "x").scores if found.keep(Gate(passed=False)) else None
    rows = markdown.wrong_answers(scores, ArtifactStore(found.run.state_dir / "artifacts"))
    assert [row["model's answer"] for row in rows] == ["There"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (7_700_000, "7.7 MB"), (4_200_000_000, "4.20 GB")]
)
def test_sizes_are_in_decimal_units(count, text):
    assert size(count) == text


def test_every_record_of_a_step_has_words():
    for record in (DATASET, MODEL, API, ENDPOINT, smoke(QUESTION), PACKAGE, UPLOAD, Gate(passed=True)):
        assert words(record) != type(record).__name__
