"""Answering a file of questions: the endpoint's answers, in order, whoever interrupts it."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from support.tiny_package import QUESTIONS, Tiny, package, tiny  # noqa: F401

from askline.clients import aws_client
from askline.config import DatasetConfig
from askline.errors import ArtifactError, BusyError, CloudError, ConfigError, DatasetError, PackageError
from askline.records import PackageRef, Run, Target
from askline.store import ArtifactStore
from flows.batch_answer import main
from local_cloud import keys
from tasks.ask.answer import Answer
from tasks.ask.package import PackagedEngine
from tasks.batch_answer import batch_answer as core
from tasks.batch_answer.answers import check_output, kept_parts, write_output
from tasks.batch_answer.questions import read_questions
from tasks.deploy_serverless.served_package import Deployed, unpacked
from tasks.package.package import ARCHIVE
from tasks.workplace import Workplace

MLKEY = "batch-answer-test"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", 'question\nWhere?\n"Who, and when?"\n'),
        ("q.csv", "id;Frage\n1;Where?\n2;Who, and when?\n"),
        ("q.csv", "question\nWhere?\nWho, and when?\n"),
        ("q.csv", 'id,what\n1,Where?\n2,"Who, and when?"\n'),
        ("q.txt", "Where?\nWho, and when?\n"),
        ("q.jsonl", '{"question": "Where?"}\n{"question": "Who, and when?", "id": 2}\n'),
        ("q.json", '[{"prompt": "Where?"}, {"prompt": "  Who,\\nand when? "}]'),
    ],
)
def test_a_file_of_questions_needs_no_answers(tmp_path: Path, name: str, text: str) -> None:
    assert read_questions(written(tmp_path, name, text), DatasetConfig()).texts == ["Where?", "Who, and when?"]


@pytest.mark.parametrize(
    ("text", "config", "said"),
    [
        ("", {}, "is empty"),
        ("question\n", {}, "no rows below its header"),
        ("one,two\na,b\n", {}, r"--dataset.question-column. The columns are: 'one' \(a\), 'two' \(b\)"),
        ("id,what\n1,Where?\n", {"question_column": "who"}, "'who' is not there. The columns are: 'id', 'what'"),
        ("question,prompt,questions\na,b,c\n", {}, "could each be the question column"),
        ('question\n" "\n""\n', {}, "asks nothing"),
        ('question\nWhere?\n"Who"s\n', {}, "1 rows of q.csv cannot be read, .* line 3: expected ','"),
        ("question\nx\n" + "y" * 20_001 + "\n", {}, "line 3: a question of 20001 characters"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused(tmp_path: Path, text: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_questions(written(tmp_path, "q.csv", text), DatasetConfig(**config))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not there"):
        read_questions(tmp_path / "q.csv", DatasetConfig())
    with pytest.raises(DatasetError, match="is a folder"):
        read_questions(tmp_path, DatasetConfig())
    half = written(tmp_path, "q.jsonl", '{"question": "a\\ud83d"}\n')
    with pytest.raises(DatasetError, match="half of a surrogate pair"):
        read_questions(half, DatasetConfig())


# --- writing ----------------------------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_their_columns(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "question": "Where?", "answer": "Rome", "tags": ["a", "é"], "share": float("nan")},
        {"id": 8, "question": " "},
        {"id": 9, "question": "Who?", "answer": None, "tags": None, "share": 0.5},
    ]
    source = written(tmp_path, "q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    questions = read_questions(source, DatasetConfig())
    answers = {"Who?": Answer('she said "no", twice\nor so', 0.25), "Where?": Answer("Paris", None)}
    for name in ("a.csv", "a.jsonl"):
        write_output(tmp_path / name, questions, answers, "v1")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    assert list(found[0]) == [
        "id",
        "question",
        "input_answer",
        "tags",
        "share",
        "answer",
        "confidence",
        "model_version",
    ]
    assert [list(row.values()) for row in found] == [
        ["7", "Where?", "Rome", '["a", "é"]', "", "Paris", "", "v1"],
        ["8", " ", "", "", "", "", "", ""],
        ["9", "Who?", "", "", "0.5", 'she said "no", twice\nor so', "0.25", "v1"],
    ]
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {
        **rows[0], "answer": "Paris", "input_answer": "Rome", "share": None, "confidence": None, "model_version": "v1"
    }  # fmt: skip
    assert lines[1] == {"id": 8, "question": " ", "answer": None, "confidence": None, "model_version": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "q.jsonl"]


def test_known_answers_come_with_columns_of_their_own(tmp_path: Path) -> None:
    source = written(tmp_path, "q.csv", "question,answer_id\nWhere?,5\nWho?,6\n")
    known = {"answer_id": "5dd272b4f316", "finish_reason": "known", "matched_question": "", "alternatives": ""}
    answers = {
        "Where?": Answer("Paris", 0.9, known=known | {"answer_link": "https://example.org"}),
        "Who?": Answer("I don't know", 0.1, known=known | {"answer_id": "", "finish_reason": "declined"}),
    }
    write_output(tmp_path / "a.csv", read_questions(source, DatasetConfig()), answers, "v1")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["input_answer_id"], first["answer_id"], first["answer_link"]) == (
        "5", "5dd272b4f316", "https://example.org"
    )  # fmt: skip
    assert (second["answer_id"], second["finish_reason"], second["answer_link"]) == ("", "declined", "")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    source, there = written(tmp_path, "q.csv", "question\nx\n"), written(tmp_path, "a.csv", "mine")
    for out, said in (
        (tmp_path / "a.txt", "neither .csv nor .jsonl"),
        (source, "is the file of questions itself"),
        (there, "is there already.* --overwrite"),
        (tmp_path / "no" / "a.csv", "there is no folder"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_output(out, source, overwrite=False)
    check_output(there, source, overwrite=True)
    with pytest.raises(ConfigError, match="cannot write"), kept_parts(Path("/proc/a.csv")):
        pass
    with kept_parts(tmp_path / "b.csv"):
        with pytest.raises(BusyError, match="another process is answering into"), kept_parts(tmp_path / "b.csv"):
            pass
        assert (tmp_path / "b.csv.parts").is_dir()
    assert not (tmp_path / "b.csv.parts").exists()


def test_a_damaged_part_is_no_part(tmp_path: Path) -> None:
    answers = [Answer("Paris", 0.5), Answer("I", None)]
    with kept_parts(tmp_path / "a.csv") as parts:
        assert parts.read("p", 2) is None
        parts.write("p", answers)
        assert parts.read("p", 2) == answers
        assert parts.read("p", 3) is None
        (tmp_path / "a.csv.parts" / "p.json").write_text('[["Par')
        assert parts.read("p", 2) is None


# --- answering --------------------------------------------------------------------------------------------------------


@pytest.fixture
def deployed(package: PackageRef) -> Deployed:  # noqa: F811
    return Deployed(
        mlkey=MLKEY,
        model_version=package.model_sha256[:12],
        archive_sha256=package.archive_sha256,
        archive_uri=None,
    )


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Run:  # noqa: F811
    """A run whose artifacts hold the package."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "artifacts").symlink_to(tiny.store.root)
    return Run(run_id="r", state_dir=tmp_path / "state", target=Target(kind="aws", region="us-east-1"))


@pytest.mark.slow
def test_the_packages_own_answers(deployed: Deployed, package: PackageRef, run: Run) -> None:  # noqa: F811
    """The address of the package artifact follows from what the registry knows, and the package answers."""
    assert deployed.package_sha256 == package.sha256
    with core.open_engine(deployed, run) as engine:
        found = engine.ask(list(QUESTIONS))
        assert [answer.text for answer in found] == list(QUESTIONS.values())
        assert all(answer.confidence is not None and 0 < answer.confidence <= 1 for answer in found)
        assert engine.ask(["Where\u2028was  she {born}?"]) == engine.ask(["Where was she {born}?"])
        os.kill(engine._process.pid, signal.SIGKILL)
        with pytest.raises(PackageError, match="signal 9") as caught:
            engine.ask(["Who?"])
        assert caught.value.retryable
        assert not engine.is_alive


@pytest.mark.slow
def test_a_package_that_does_not_load_says_why(deployed: Deployed, run: Run, tmp_path: Path) -> None:
    from tasks.workplace import store_of

    folder = unpacked(deployed, place=Workplace(run.target, tmp_path, store=store_of(run)))
    assert folder == unpacked(deployed, place=Workplace(run.target, tmp_path, store=ArtifactStore(tmp_path / "none")))
    (folder / "encoder.onnx").write_bytes(b"")
    with pytest.raises(PackageError, match=r"encoder\.onnx is not the one that was packed"):
        PackagedEngine(folder)


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.slow
def test_an_interrupted_call_goes_on(
    deployed: Deployed, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "PART", 5)
    rows = "".join(f'"{question}"\n' for question in [*QUESTIONS, *list(QUESTIONS)[:3]])
    source, out = written(tmp_path, "q.csv", f"question\n{rows}"), tmp_path / "a.csv"
    asked: list[int] = []

    def answer(stop_after: int | None) -> core.BatchAnswered:
        with kept_parts(out) as parts:
            given = core.Job(read_questions(source, DatasetConfig()), out, parts, deployed, run)

            def ask(those: Sequence[Sequence[str]]) -> Iterator[tuple[int, list[Answer]]]:
                asked.append(sum(map(len, those)))
                for number, found in core.here(given)(those):
                    if number == stop_after:
                        raise Interrupted
                    yield number, found

            return core.answer(given, ask=ask)

    with pytest.raises(Interrupted):
        answer(1)
    assert not out.exists()
    done = answer(None)
    assert asked == [12, 7]
    assert (done.rows, done.asked, done.kept, done.blank) == (15, 12, 5, 0)
    assert not (tmp_path / "a.csv.parts").exists()
    with out.open(newline="", encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    expected = [*QUESTIONS.items(), *list(QUESTIONS.items())[:3]]
    assert [(row["question"], row["answer"]) for row in found] == expected
    assert {row["model_version"] for row in found} == {deployed.model_version}


def test_another_package_has_other_parts() -> None:
    assert core.part_name(["a"], "1") != core.part_name(["a"], "2")
    assert core.part_name(["a", "b"], "1") != core.part_name(["ab"], "1")


# --- with what is deployed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def promoted(cloud_with_prefect: Target, tiny: Tiny, package: PackageRef) -> Target:  # noqa: F811
    from tasks.deploy_serverless import registry

    registry.promote(
        MLKEY,
        endpoint="serv-hf-endpoint-batch-answer-test",
        model_version=package.model_sha256[:12],
        archive_sha256=package.archive_sha256,
        dataset="questions.csv@1",
        exact_match=1.0,
        run_id="r",
        target=cloud_with_prefect,
    )
    return cloud_with_prefect


@pytest.mark.slow
def test_a_package_that_only_s3_has(
    promoted: Target,
    deployed: Deployed,
    package: PackageRef,  # noqa: F811
    tiny: Tiny,  # noqa: F811
    tmp_path: Path,
) -> None:
    s3, store = aws_client(promoted, "s3"), ArtifactStore(tmp_path / "artifacts")
    s3.create_bucket(Bucket="batch-answer-test")
    s3.upload_file(str(tiny.store.path("package", package.sha256) / ARCHIVE), "batch-answer-test", "a/model.tar.gz")
    s3.put_object(Bucket="batch-answer-test", Key="other.tar.gz", Body=b"other")

    def fetched(uri: str | None) -> Path:
        return unpacked(
            deployed.model_copy(update={"archive_uri": uri}), place=Workplace(promoted, tmp_path, store=store)
        )

    with pytest.raises(ArtifactError, match="no endpoint says where in S3"):
        fetched(None)
    with pytest.raises(CloudError, match=r"s3://batch-answer-test/gone\.tar\.gz is gone"):
        fetched("s3://batch-answer-test/gone.tar.gz")
    with pytest.raises(ArtifactError, match="holds another archive"):
        fetched("s3://batch-answer-test/other.tar.gz")
    assert (fetched("s3://batch-answer-test/a/model.tar.gz") / "code" / "inference.py").is_file()
    assert store.holds("package", package.sha256)


class Program:
    """``python -m flows.batch_answer`` against the embedded cloud, which it takes for AWS."""

    def __init__(self, target: Target, state_dir: Path) -> None:
        self.options = ["--target", "aws", "--deploy.role-arn", "arn:aws:iam::000000000000:role/r"]
        self.options += ["--state-dir", str(state_dir)]
        self.environment = {
            **keys.exports(target),
            "PYTHONPATH": str(REPOSITORY),
        }

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "flows.batch_answer", *self.options, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, errors = process.communicate(timeout=240)
        return process.returncode, out, errors


@pytest.fixture
def program(promoted: Target, run: Run) -> Program:
    return Program(promoted, run.state_dir)


@pytest.mark.slow
def test_the_program_answers_with_one_process_and_with_two_alike(program: Program, tmp_path: Path) -> None:
    rows = "".join(f'{number},"{question} {number // 12}"\n' for number, question in enumerate([*QUESTIONS] * 60))
    source = written(tmp_path, "q.csv", f"id,question\n{rows}")
    code, said, errors = program("--mlkey", MLKEY, source, tmp_path / "one.csv")
    assert code == 0, errors
    assert "720 rows" in said
    code, said, errors = program("--mlkey", MLKEY, source, tmp_path / "two.csv", "--workers", "2")
    assert code == 0, errors
    one, two = ((tmp_path / name).read_text(encoding="utf-8") for name in ("one.csv", "two.csv"))
    assert one == two
    assert one.count("\n") == 721
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.slow
def test_a_killed_program_loses_no_finished_part(program: Program, tmp_path: Path) -> None:
    rows = "".join(f'"{question} {number}"\n' for number, question in enumerate([*QUESTIONS] * 100))
    source, out = written(tmp_path, "q.csv", f"question\n{rows}"), tmp_path / "a.csv"
    process = program.start("--mlkey", MLKEY, source, out)
    kept = tmp_path / "a.csv.parts"
    deadline = time.monotonic() + 60
    while len(list(kept.glob("[!.]*.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not out.exists()
    finished = len(list(kept.glob("[!.]*.json")))
    code, said, errors = program("--mlkey", MLKEY, source, out)
    assert code == 0, errors
    assert f"1200 questions, {finished * core.PART} of them answered before" in said
    assert not kept.exists()


@pytest.mark.slow
def test_wrong_calls_of_the_program(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in program.environment.items():
        monkeypatch.setenv(name, value)
    source, there = written(tmp_path, "q.csv", "question\nWho?\n"), written(tmp_path, "there.csv", "mine")
    for arguments, expected, said in (
        (("--mlkey", "nobody-has-this", source, tmp_path / "a.csv"), 2, f"deployed are .*{MLKEY}"),
        (("--mlkey", MLKEY, source, there), 2, "--overwrite"),
        (("--mlkey", MLKEY, source), 2, "give two files"),
        ((source, tmp_path / "a.csv", "--deploy.mlky", MLKEY), 2, "Did you mean --deploy.mlkey"),
        (("--mlkey", MLKEY, source, tmp_path / "a.csv", "--workers", "0"), 2, "at least 1"),
        (("--mlkey", MLKEY, source, tmp_path / "a.csv", "--question-column", "x"), 2, "'x' is not there"),
    ):
        code = main([*program.options, *map(str, arguments)])
        errors = capsys.readouterr().err
        assert code == expected, (arguments, errors)
        assert errors.startswith("error: ")
        assert len(errors.splitlines()) == 1
        assert re.search(said, errors)
    assert there.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.csv", "state", "there.csv"]
    assert main([*program.options, "--mlkey", MLKEY, str(source), str(there), "--overwrite"]) == 0
    assert there.read_text().startswith("question,answer,confidence,model_version\nWho?,")
