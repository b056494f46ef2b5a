"""What the pipeline does with a model that is too weak, with damage, with Ctrl-C and with somebody's own data."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, local_cloud, write_capitals
from support.pipeline import newest_report, pipeline, wait_for
from support.shared import seed_prefect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: A network that has learnt little goes on until it may not: most of the time of a short training is its evaluation.
FEW_TOKENS = ["--training.max-target-tokens", "8"]
#: The model by itself: the sentence encoder would answer in place of one that has learned nothing.
ALONE = ["--package.second-opinion", "none"]


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose embedded cloud the first run starts."""
    folder = tmp_path_factory.mktemp("pipeline")
    seed_prefect(folder)
    yield folder
    local_cloud("down", "--state-dir", str(folder))


@pytest.fixture(scope="module")
def weak(state_dir, tmp_path_factory):
    """Return the options of a run on a few questions, with so few steps that the model is not good enough."""
    file = tmp_path_factory.mktemp("weak") / "capitals.csv"
    write_capitals(file)
    options = ["--dataset.source", str(file), "--dataset.split-by", "wording", "--deploy.mlkey", "weak"]
    options += ["--training.base", "scratch", "--training.max-steps", "2", "--evaluation.min-exact-match", "0.9"]
    options += FEW_TOKENS + ALONE
    done = pipeline(state_dir, *options)
    assert done.returncode == 3, done.stdout + done.stderr
    return options, done.stdout


def test_a_model_that_is_not_good_enough_is_not_deployed(state_dir, weak):
    _, said = weak
    assert "Not promoted" in said
    assert "evaluation.min-exact-match" in said
    assert newest_report(state_dir).endpoint is None


def test_a_damaged_artifact_is_noticed_and_remade(state_dir, weak):
    options, _ = weak
    model = newest_report(state_dir).model
    weights = state_dir / "artifacts" / "model" / model.sha256 / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    done = pipeline(state_dir, *options)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "reused" not in re.search(r"✓ fine-tune .*", done.stdout).group()
    assert "reused" in re.search(r"✓ evaluate .*", done.stdout).group(), "it is the same model again"
    assert weights.read_bytes() == whole


def test_own_data_end_to_end(state_dir, tmp_path):
    rows = [(f"Welche Farbe hat Ding Nummer {n}?", f"Farbe {n % 7}", n) for n in range(60)]
    text = "\ufeffnummer|frage|antwort\n" + "".join(f'{n}|"{q}\nBitte!"|{a}\n' for q, a, n in rows)
    file = tmp_path / "fragen.csv"
    file.write_bytes(text.encode())
    options = [
        "--dataset.source",
        str(file),
        "--dataset.question-column",
        "frage",
        "--dataset.answer-column",
        "antwort",
    ]
    options += ["--dataset.split-by", "wording", "--deploy.mlkey", "farben", "--training.base", "scratch"]
    options += ["--training.max-steps", "40", "--training.batch-size", "16", "--evaluation.min-exact-match", "0"]
    options += FEW_TOKENS + ALONE
    done = pipeline(state_dir, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert newest_report(state_dir).endpoint.name == "serv-hf-endpoint-farben"


def test_ctrl_c_in_training_and_the_next_run_goes_on(state_dir, weak):
    chosen, _ = weak
    options = [*chosen, "--training.max-steps", "4000", "--training.checkpoint-steps", "20"]
    command = [sys.executable, "-m", "flows.full_pipeline", "--state-dir", str(state_dir), *options]
    started = time.time()
    running = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_checkpoint(state_dir, since=started)
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, said + errors
    assert "Interrupted" in said
    assert "Traceback" not in said + errors


def wait_for_checkpoint(state_dir: Path, since: float) -> None:
    def look():
        return [path for path in (state_dir / "work").rglob("trainer_state.json") if path.stat().st_mtime > since]

    wait_for(look, "a checkpoint", seconds=600)
