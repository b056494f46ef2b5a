"""From the question log to the next training: what the handler wrote into S3 comes out as rows and open questions."""

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger

from askline.clients import aws_client
from askline.config import DatasetConfig
from askline.errors import CloudError, ConfigError
from askline.records import Target
from askline.store import ArtifactStore
from flows import collect_feedback as program
from lambda_handler.feedback import Feedback
from lambda_handler.question_log import Asked, Redaction, S3QuestionLog
from local_cloud.keys import exports
from tasks.feedback.collect import Collected, collect_feedback, find_log
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.workplace import Workplace

pytestmark = pytest.mark.slow  # they need the embedded cloud's S3

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
DONT_KNOW = "I don't know"


class History:
    """A log in a bucket of its own, written by the handler's own code; each entry is a minute later than the last."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.s3 = aws_client(target, "s3")
        self.bucket = f"questions-{uuid.uuid4().hex[:12]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.now = START
        self.place = f"s3://{self.bucket}/log"
        self._numbers = iter(range(1000))

    def _log(self, redaction: Redaction) -> S3QuestionLog:
        self.now += timedelta(minutes=1)
        return S3QuestionLog(
            self.s3,
            bucket=self.bucket,
            prefix="log",
            redaction=redaction,
            logger=Logger(service="test", level="CRITICAL"),
            now=lambda: self.now,
        )

    def ask(
        self,
        *questions: str,
        answer: str = "maths",
        mlkey: str = "biography",
        abstained: bool = False,
        withheld: str | None = None,
        redaction: Redaction = "none",
    ) -> str:
        request = f"request-{next(self._numbers)}"
        self._log(redaction).asked_together(
            [Asked(request, mlkey, question, answer, 0.5, abstained, "m-1", 0.1, withheld) for question in questions]
        )
        return request

    def judge(
        self,
        request: str,
        verdict: str,
        *,
        answer: str | None = None,
        comment: str | None = None,
        index: int | None = None,
        redaction: Redaction = "none",
    ) -> None:
        self._log(redaction).feedback(Feedback(request, "biography", verdict, comment, answer, index))  # type: ignore[arg-type]

    def put(self, key: str, content: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=f"log/{key}", Body=content)

    def collect(self, folder: Path, **more: Any) -> Collected:
        return collect_feedback(
            **{"log": self.place, "mlkey": "biography", "out": folder / "feedback.jsonl", "target": self.target, **more}
        )


@pytest.fixture
def history(cloud: Target) -> Iterator[History]:
    made = History(cloud)
    yield made
    while found := made.s3.list_objects_v2(Bucket=made.bucket).get("Contents"):
        made.s3.delete_objects(Bucket=made.bucket, Delete={"Objects": [{"Key": item["Key"]} for item in found]})
    made.s3.delete_bucket(Bucket=made.bucket)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def pairs(found: Collected) -> list[tuple[str, str, str]]:
    return [(row["question"], row["answer"], row["source"]) for row in lines(found.rows_file)]


def open_questions(found: Collected) -> list[tuple[str, str]]:
    return [(row["question"], row["reason"]) for row in lines(found.review_file)]


def test_confirmed_and_corrected_answers_become_rows_and_the_rest_waits(history: History, tmp_path: Path) -> None:
    history.ask("Nobody said anything to this.")
    history.judge(history.ask("What is your passion?"), "up")
    history.judge(history.ask("Wo wurde sie geboren? 🌍", answer="Köln"), "down", answer="Warschau", comment="S. 3")
    history.judge(history.ask("Who was her husband?"), "down", comment="No.")
    history.ask("What is the capital of Peru?", answer=DONT_KNOW, abstained=True, withheld="Lima")
    history.judge(history.ask("Who will win?", answer=DONT_KNOW, abstained=True), "up")
    found = history.collect(tmp_path)
    assert pairs(found) == [
        ("What is your passion?", "maths", "confirmed"),
        ("Wo wurde sie geboren? 🌍", "Warschau", "corrected"),
        ("Who will win?", DONT_KNOW, "confirmed"),
    ]
    assert open_questions(found) == [
        ("Who was her husband?", "thumbs-down"),
        ("What is the capital of Peru?", "abstained"),
    ]
    waiting, abstained = lines(found.review_file)
    assert (waiting["answer"], waiting["model_answer"], waiting["comments"]) == (None, "maths", ["No."])
    # What the model would have said helps whoever fills the answer in.
    assert (abstained["answer"], abstained["model_answer"], abstained["withheld"]) == (None, DONT_KNOW, "Lima")
    assert (found.asked, found.verdicts, found.rows, found.review) == (
        6,
        4,
        {"confirmed": 2, "corrected": 1},
        {"thumbs-down": 1, "abstained": 1},
    )
    assert (found.without_text, found.unmatched, found.unreadable) == (0, 0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"feedback.jsonl", "feedback.review.jsonl"}


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ([("up", None), ("down", None)], None),
        ([("down", None), ("up", None)], ("maths", "confirmed")),
        ([("down", None), ("down", "physics")], ("physics", "corrected")),
        # The old answer is called wrong once more: what is right is known.
        ([("down", "physics"), ("down", None)], ("physics", "corrected")),
        ([("down", "physics"), ("down", "chemistry")], ("chemistry", "corrected")),
        ([("down", "physics"), ("up", None)], ("maths", "confirmed")),
        ([("up", "physics")], ("physics", "corrected")),
    ],
)
def test_the_newest_word_on_a_question_counts(
    history: History, tmp_path: Path, words: list[tuple[str, str | None]], row: tuple[str, str] | None
) -> None:
    # Asked in several spellings, it is one question.
    spellings = ["What is your passion?", "what is your  PASSION", "What is your passion?"]
    for (verdict, answer), spelling in zip(words, spellings, strict=False):
        history.judge(history.ask(spelling), verdict, answer=answer)
    found = history.collect(tmp_path)
    assert [(answer, source) for _, answer, source in pairs(found)] == ([row] if row else [])
    assert [reason for _, reason in open_questions(found)] == ([] if row else ["thumbs-down"])


def test_a_correction_that_the_model_has_learned_can_be_disputed(history: History, tmp_path: Path) -> None:
    history.judge(history.ask("What is your passion?"), "down", answer="physics")
    history.judge(history.ask("What is your passion?", answer="Physics"), "down")
    assert open_questions(history.collect(tmp_path)) == [("What is your passion?", "thumbs-down")]


def test_redacted_rows_wait_for_a_person_and_those_without_text_are_counted(history: History, tmp_path: Path) -> None:
    history.judge(history.ask("Is it a@b.example?", redaction="personal"), "up", redaction="personal")
    request = history.ask("What is her number?", redaction="personal")
    history.judge(request, "down", answer="030 1234567", redaction="personal")
    history.judge(history.ask("What is your passion?", redaction="text"), "up", redaction="text")
    found = history.collect(tmp_path)
    assert pairs(found) == []
    assert open_questions(found) == [("Is it [e-mail]?", "redacted"), ("What is her number?", "redacted")]
    assert lines(found.review_file)[1]["suggested"] == "[number]"
    assert found.without_text == 1


def test_a_verdict_on_several_questions_or_on_none_is_left_out(history: History, tmp_path: Path) -> None:
    history.judge(history.ask("One?", "Two?"), "up")
    history.judge("a request of another year", "up")
    history.ask("Three?", mlkey="biography-2")
    found = history.collect(tmp_path)
    assert (found.asked, found.verdicts, found.unmatched, pairs(found)) == (2, 2, 2, [])


def test_a_verdict_may_say_which_question_of_a_call_it_means(history: History, tmp_path: Path) -> None:
    several = history.ask("One?", "Two?", "Three?")
    history.judge(several, "up", index=1)
    history.judge(several, "down", answer="physics", index=2)
    history.judge(several, "up", index=3)
    history.judge(history.ask("Four?"), "up", index=0)
    found = history.collect(tmp_path)
    assert pairs(found) == [
        ("Two?", "maths", "confirmed"),
        ("Three?", "physics", "corrected"),
        ("Four?", "maths", "confirmed"),
    ]
    assert (found.verdicts, found.unmatched) == (4, 1)


def test_what_is_no_record_is_counted_and_passed_over(history: History, tmp_path: Path) -> None:
    history.judge(history.ask("What\u2028is your passion?"), "up")
    place = "mlkey=biography/date=2026-05-01"
    history.put(f"asked/{place}/a.jsonl", b'{"at": "2026"}\n\xff\xfe\nnull\n[]\n')
    history.put(f"feedback/{place}/a.jsonl", b'{"at": "2026", "request_id": "r", "verdict": "sideways"}\n')
    history.put(f"asked/{place}/readme.txt", b"not a log")
    found = history.collect(tmp_path)
    assert (found.unreadable, len(pairs(found))) == (5, 1)


def test_the_same_log_gives_the_same_files(history: History, tmp_path: Path) -> None:
    for number in range(40):
        history.judge(history.ask(f"What is {number}?"), "up" if number % 2 else "down")
    first = history.collect(tmp_path / "a")
    second = history.collect(tmp_path / "b" / "c")
    history.collect(tmp_path / "a")
    assert first.rows_file.read_bytes() == second.rows_file.read_bytes()
    assert first.review_file.read_bytes() == second.review_file.read_bytes()
    assert len(pairs(first)) == len(open_questions(first)) == 20


def test_since_leaves_older_days_out(history: History, tmp_path: Path) -> None:
    history.judge(history.ask("Old?"), "up")
    history.now += timedelta(days=3)
    history.judge(history.ask("New?"), "up")
    assert [question for question, *_ in pairs(history.collect(tmp_path, since=date(2026, 5, 4)))] == ["New?"]
    assert len(pairs(history.collect(tmp_path, since=date(2026, 5, 1)))) == 2
    assert history.collect(tmp_path, since=date(2027, 1, 1)).asked == 0


def test_a_log_that_is_not_there_leaves_earlier_files_alone(history: History, cloud: Target, tmp_path: Path) -> None:
    history.ask("One?")
    (tmp_path / "feedback.jsonl").write_text("earlier")
    with pytest.raises(ConfigError, match=r"'biografy'.*it holds those to biography"):
        history.collect(tmp_path, mlkey="biografy")
    with pytest.raises(ConfigError, match="no place in S3"):
        history.collect(tmp_path, log="bucket/log")
    with pytest.raises(CloudError, match="NoSuchBucket"):
        history.collect(tmp_path, log=f"{history.place.replace('questions-', 'nothing-')}")
    with pytest.raises(ConfigError, match="no stack 'nothing-here'"):
        find_log(cloud, stack_name="nothing-here")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("feedback.jsonl", "earlier")]


def test_a_file_that_cannot_be_written_is_said(history: History, tmp_path: Path) -> None:
    history.judge(history.ask("One?"), "up")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        history.collect(tmp_path / "file")
    (tmp_path / "feedback.jsonl").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        history.collect(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "feedback.jsonl"}


STACK = {
    "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    "Outputs": {"QuestionLogLocation": {"Value": "s3://bucket/questions"}},
}


@pytest.mark.parametrize("keeps", [True, False])
def test_the_log_is_found_through_the_stack(cloud: Target, keeps: bool) -> None:
    client = aws_client(cloud, "cloudformation")
    name = f"questions-{uuid.uuid4().hex[:8]}"
    client.create_stack(StackName=name, TemplateBody=json.dumps(STACK if keeps else {**STACK, "Outputs": {}}))
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    try:
        if keeps:
            assert find_log(cloud, stack_name=name) == "s3://bucket/questions"
        else:
            with pytest.raises(ConfigError, match="keeps no questions"):
                find_log(cloud, stack_name=name)
    finally:
        client.delete_stack(StackName=name)


def test_the_rows_go_into_the_next_training(history: History, cloud: Target, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = "\n".join(f"What is {number} and {number}?,{2 * number},sum-{number}" for number in range(40))
    (folder / "train.csv").write_text(f"question,answer,fact\n{rows}\n")
    (folder / "test.csv").write_text("question,answer,fact\nWhat is 99 and 1?,100,sum-100\n")
    history.judge(history.ask('What is your passion, or "passion"?'), "up", comment="a,\nb")
    history.judge(history.ask("What is 1 and 1?"), "down", answer="two")
    history.ask("Who will win?", answer=DONT_KNOW, abstained=True)
    found = history.collect(tmp_path, out=tmp_path / "train-feedback.csv")
    found.rows_file.rename(folder / found.rows_file.name)
    assert "Who will win?,," in found.review_file.read_text()
    store = ArtifactStore(tmp_path / "artifacts")
    config = DatasetConfig(source=str(folder))
    source = resolve_source(config, place=Workplace(cloud, tmp_path))
    dataset = fetch_dataset(config, source, place=Workplace(cloud, store=store))
    train = lines(store.verify("dataset", dataset.sha256) / "train.jsonl")
    answers = {row["question"]: row["answer"] for row in train}
    assert len(answers) == dataset.splits["train"] == 41
    assert answers['What is your passion, or "passion"?'] == "maths"
    # A correction wins over the row that it corrects, because its file's name comes first.
    assert answers["What is 1 and 1?"] == "two"
    assert dataset.rejected == 1


@pytest.fixture
def at_the_cloud(cloud: Target, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The program with AWS's own way of naming another address: what it does here it does on AWS."""
    for name, value in exports(cloud).items():
        monkeypatch.setenv(name, value)
    role = "arn:aws:iam::123456789012:role/x"

    def run(*arguments: str) -> int:
        return program.main([*arguments, "--target", "aws", "--deploy.role-arn", role])

    return run


def test_the_program_says_what_it_found(
    history: History, at_the_cloud: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history.judge(history.ask("What is your passion?"), "up")
    history.judge("nothing", "up")
    out = tmp_path / "feedback.jsonl"
    assert at_the_cloud("--mlkey", "biography", "--log", history.place, "--out", str(out)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{history.place}: 1 questions, 2 verdicts",
        f"{out}: 1 confirmed, 0 corrected",
        f"{tmp_path / 'feedback.review.jsonl'}: 0 thumbs-down, 0 abstained, 0 redacted, to be answered",
        "left out: 1 verdicts on no single question",
    ]
    assert len(lines(out)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "rows.txt", "--log", "s3://bucket/x"], "must end in .jsonl or .csv"),
        (["--out", "rows.jsonl", "--mlkey", "../x"], "deploy.mlkey"),
        (["--out", "rows.jsonl", "--log", "nowhere"], "no place in S3"),
        (["--out", "rows.jsonl", "--mklye", "x"], "unknown option --mklye"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    at_the_cloud: Callable[..., int], arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert at_the_cloud(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert says in said.err


def test_help_needs_nothing_heavy() -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows.collect_feedback", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--since" in done.stdout
    assert not [name for name in ("boto3", "prefect", "torch", "datasets") if f"| {name}\n" in done.stderr]
