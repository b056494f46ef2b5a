"""What the API's page tells people to paste does what it says, against the handler behind a real HTTP server."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.api import PATH, Api, ParameterStore, Runtime, entry
from support.loopback import serving

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
#: Commands that install something first, or that other tests run at length.
ELSEWHERE = ("pipx run", "schemathesis run", "from askline_client")


def examples(language: str) -> list[str]:
    """The page's blocks of one language, continued lines joined, but for what is run elsewhere."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", " ") for block in blocks if not any(part in block for part in ELSEWHERE)]


COMMANDS = [line for block in examples("sh") for line in block.splitlines() if line]


@pytest.fixture
def api() -> Api:
    # As many answers as a list may ask for.
    reply = {"answers": [{"answer": "maths!", "confidence": 0.97, "abstained": False}] * 16, "model_version": "m-2"}
    return Api(Runtime(reply=reply), ParameterStore({f"{PATH}/biography": entry()}))


@pytest.fixture
def url(api: Api) -> Iterator[str]:
    with serving(api) as address:
        yield address


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_curl_is_answered(api: Api, url: str, command: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

    done = subprocess.run(
        ["bash", "-c", command.replace("<url>", url).replace("…", "some-request")],
        env={**os.environ, **keys, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    if "feedback" in command:
        assert [verdict.verdict for verdict in api.log.verdicts] == ["down"]
    elif "questions" in command:
        assert [answer["answer"] for answer in body["answers"]] == ["maths!", "maths!"]
    else:
        assert (body["answer"], body["model_version"]) == ("maths!", "m-2")


@pytest.mark.parametrize("program", examples("python"))
def test_every_program_prints_the_answer(url: str, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"url": url}
    exec(compile(program, str(PAGE), "exec"), names)

    assert capsys.readouterr().out == "maths!\n"


def test_there_are_examples_of_every_way_to_call() -> None:
    assert len(COMMANDS) >= 5
    assert len(examples("python")) >= 2
