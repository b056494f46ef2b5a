"""The whole pipeline as a person runs it, for the test modules that look at one run each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from askline.records import PipelineReport
from support.shared import REPOSITORY

#: Enough to answer the sample's wordings with some confidence, which bytes in place of fp32 must not change.
QUICK = [
    "--training.max-steps",
    "100",
    "--training.augment",
    "false",
    "--evaluation.min-exact-match",
    "0",
    "--training.checkpoint-steps",
    "30",
]


#: What the environment of every run here holds, and nothing that it leaves behind may.
PLANTED = {
    "HF_TOKEN": "hf_planted0token0that0must0never0be0written",
    "AWS_SECRET_ACCESS_KEY": "planted/secret/access/key/0123456789abcdef",
    "AWS_SESSION_TOKEN": "planted+session+token+0123456789abcdef",
    "ASKLINE_SOMEBODYS_PASSWORD": "planted-password-0123456789",
}


class Finished(NamedTuple):
    """A pipeline that has run."""

    state_dir: Path
    code: int
    said: str
    report: PipelineReport


def pipeline(state_dir: Path, *options: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run the pipeline to its end; the first run in a folder starts an embedded cloud there, which stays up."""
    return subprocess.run(
        [sys.executable, "-m", "flows.full_pipeline", "--state-dir", str(state_dir), *options],
        cwd=REPOSITORY,
        env={**os.environ, **PLANTED},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def newest_report(state_dir: Path) -> PipelineReport:
    newest = max((state_dir / "runs").glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    return PipelineReport.model_validate_json(newest.read_text())


def aws(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).parent / "aws"), *arguments, "--output", "json", "--region", "us-east-1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def wait_for(look: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    return pytest.fail(f"{what}: not within {seconds} s")


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
