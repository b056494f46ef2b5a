"""What the pipeline refuses: one clear message and an exit code that says who is at fault."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from support.pipeline import pipeline
from support.shared import state_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WRONG_FILES = {
    "empty.csv": b"",
    "one-column.csv": b"question\nWho?\nWhat?\n",
    "other-columns.csv": b"a,b\n1,2\n",
    "torn.csv": b'question,answer\n"Who,never closed\n',
}


WRONG_INPUT = [
    (["--dataset.source", "missing.csv"], "there is no file or folder"),
    (["--dataset.source", "empty.csv"], "empty"),
    (["--dataset.source", "one-column.csv"], "column"),
    (["--dataset.source", "other-columns.csv"], "--dataset.question-column"),
    (["--dataset.source", "other-columns.csv", "--dataset.question-column", "q"], "'q'"),
    (["--dataset.source", "torn.csv"], "line 2"),
    (["--dataset.source", "nobody/nothing"], "the embedded Hub does not hold it"),
    (["--training.base", "nobody/nothing"], "no model 'nobody/nothing'"),
    (["--training.base", "./nothing"], "there is no folder './nothing'"),
]
#: What ``python -m flows.full_pipeline`` calls, once for each line, without starting Python and Prefect each time.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from flows.launch import launch
answer = sys.stdout
for line in sys.stdin:
    said, wrong = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        code = launch(json.loads(line))
    print(json.dumps([code, said.getvalue(), wrong.getvalue()]), file=answer, flush=True)
"""


WRONG_FAULT = [
    (["--dataset.sauce", "x"], 2, "--dataset.source"),
    (["--training.epochs", "0"], 2, "greater than 0"),
    (["--deploy.memory-mb", "3000"], 2, "3072"),
    (["--target", "aws"], 2, "deploy.role_arn"),
]


@pytest.fixture(scope="module")
def state_dir(cloud_with_prefect) -> Path:
    """The folder of a cloud that is up; what is refused leaves nothing in it."""
    return state_of("cloud-with-prefect")


@pytest.fixture(scope="module")
def refusals(state_dir, tmp_path_factory):
    """Return what each wrong input was answered: exit code, stdout and stderr."""
    folder = tmp_path_factory.mktemp("wrong")
    for name, content in WRONG_FILES.items():
        (folder / name).write_bytes(content)
    lines = []
    for options in [options for options, _ in WRONG_INPUT] + [options for options, _, _ in WRONG_FAULT]:
        options = [str(folder / option) if option.endswith(".csv") else option for option in options]
        lines.append(json.dumps(["--state-dir", str(state_dir), *options]))
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER]
    done = subprocess.run(
        command, cwd=REPOSITORY, input="\n".join(lines), capture_output=True, text=True, timeout=600, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(WRONG_INPUT)), ids=[" ".join(options) for options, _ in WRONG_INPUT])
def test_wrong_input_is_one_clear_message(refusals, number):
    code, said, wrong = refusals[number]
    assert code == 1, said + wrong
    assert wrong.count("error: ") == 1
    assert WRONG_INPUT[number][1] in wrong
    assert "Traceback" not in said + wrong


@pytest.mark.parametrize("number", range(len(WRONG_FAULT)), ids=[" ".join(options) for options, _, _ in WRONG_FAULT])
def test_the_exit_code_says_who_is_at_fault(refusals, number):
    code, said, wrong = refusals[len(WRONG_INPUT) + number]
    _, expected, message = WRONG_FAULT[number]
    assert code == expected, said + wrong
    assert wrong.count("error: ") == 1
    assert message in wrong
    assert "Traceback" not in said + wrong


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--dataset.source", "missing.csv"], 1, "there is no file or folder"),
        (["--dataset.sauce", "x"], 2, "--dataset.source"),
    ],
)
def test_the_process_ends_with_that_code(state_dir, options, code, said):
    done = pipeline(state_dir, *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
