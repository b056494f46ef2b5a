"""The whole loop on the embedded cloud: a question asked on the deployed page, its verdict, and the row it becomes."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import chromium
from support.runtime import answering, runtime_behind

from askline.clients import aws_client
from askline.config import ApiConfig, QuestionLogConfig
from askline.records import ApiRef, Target
from tasks.deploy_api.deploy_api import deploy_api
from tasks.feedback.collect import collect_feedback, find_log
from tasks.workplace import Workplace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.BINARY is None, reason="there is no chromium, chromium-browser or google-chrome here"),
]

NAME = f"loop-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def target(cloud: Target) -> Iterator[Target]:
    with runtime_behind(cloud, NAME, bucket=NAME, reply=lambda mlkey, request: answering("maths")) as target:
        yield target


@pytest.fixture(scope="module")
def api(target: Target) -> ApiRef:
    config = ApiConfig(stack_name=NAME, question_log=QuestionLogConfig(enabled=True))
    return deploy_api(config, bucket=NAME, prefix="api", tags={}, place=Workplace(target))


def test_a_correction_on_the_page_becomes_a_row_for_training(api: ApiRef, target: Target, tmp_path: Path) -> None:
    with chromium.browser(tmp_path / "profile") as browser, browser.page() as tab:
        tab.look()
        tab.open(f"{api.url}#MLKey={NAME}")
        tab.wait_for(f"document.getElementById('model').value === '{NAME}'")
        tab.wait_for("document.getElementById('kept').checkVisibility()")
        tab.tab_to("question")
        tab.type("Call me at ada@example.org: what is your passion?")
        tab.press("Enter")
        tab.wait_for("document.getElementById('facts-and-verdict').checkVisibility()")
        assert tab.text_of("answer") == "maths"
        tab.value("document.getElementById('question').select(); document.getElementById('question').focus()")
        tab.type("WHat is your passion?")
        tab.press("Enter")
        tab.wait_for("document.getElementById('asked').textContent === 'WHat is your passion?'")
        tab.wait_for("document.getElementById('facts-and-verdict').checkVisibility()")
        tab.tab_to("down")
        tab.press(" ")
        tab.wait_for("document.getElementById('verdict-said').textContent === 'Thank you.'")
        tab.type("Physics")
        tab.press("Enter")
        tab.wait_for("!document.getElementById('correction').checkVisibility()")
        assert tab.console == []

    log = find_log(target, stack_name=NAME)
    found = collect_feedback(log=log, mlkey=NAME, out=tmp_path / "rows.jsonl", target=target)
    assert (found.asked, found.verdicts, found.unmatched, found.unreadable) == (2, 2, 0, 0)
    (row,) = [json.loads(line) for line in found.rows_file.read_text().splitlines()]
    assert (row["question"], row["answer"], row["source"]) == ("WHat is your passion?", "Physics", "corrected")

    # Personal data went no further than the answer.
    s3 = aws_client(target, "s3")
    bucket, prefix = log.removeprefix("s3://").split("/", 1)
    written = [
        s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read().decode()
        for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    ]
    assert len(written) == 4
    assert "ada@example.org" not in "".join(written)
    assert "Call me at [e-mail]: what is your passion?" in "".join(written)
