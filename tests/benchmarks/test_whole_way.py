"""What the benchmark of the whole way counts as an answer, and as the whole way."""

import json

import pytest
from support.loopback import Reply, replying

from benchmarks.whole_way import Way, ask
from tasks.qa.rows import Row

ANSWER = "1. Open it.\n2. Press *Install*."


@pytest.mark.parametrize(
    ("status", "body", "answered"),
    [(200, json.dumps({"answer": ANSWER}), ANSWER), (404, "no such MLKey", "404 no such MLKey")],
)
def test_the_api_is_asked_as_a_caller_does_and_a_refusal_is_no_answer(status: int, body: str, answered: str) -> None:
    asked = []

    def reply(path: str, _: bytes) -> Reply:
        asked.append(path)
        return status, {}, body.encode()

    with replying(reply) as url:
        assert ask(f"{url}/default/", "faq", Row("How do I install it?", ANSWER, None, True)) == answered
    assert asked == ["/default/?MLKey=faq&question=How+do+I+install+it%3F"]


def test_a_file_came_the_whole_way_only_where_every_question_of_its_own_is_answered() -> None:
    assert Way("a", "Promoted", 1.0, asked=3, right=3).whole
    assert not Way("a", "Promoted", 1.0, asked=3, right=2).whole
    assert not Way("a", "NotPromoted", 1.0).whole
    assert not Way("a", "Promoted", 1.0).whole
