"""Runs :mod:`in_toolkit` in an environment, and reads its answers."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.package.archive import unpack

DRIVER = Path(__file__).with_name("in_toolkit.py")
SECONDS = 240


@dataclass(frozen=True)
class Request:
    """What goes to ``/invocations``."""

    body: str
    content_type: str = "application/json"
    accept: str = "application/json"


@dataclass(frozen=True)
class Case:
    """A model folder, the container's variables, and what is asked."""

    folder: Path
    requests: tuple[Request, ...]
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back. A process that died has the status 0 and its traceback."""

    status: int
    body: str
    content_type: str | None = None

    @property
    def answers(self) -> list[str]:
        """The answers of a 200 in the package's own form."""
        assert self.status == 200, self.body
        return [item["answer"] for item in json.loads(self.body)["answers"]]


@dataclass(frozen=True)
class Verdict:
    """The answers by case, and what gave them."""

    versions: dict[str, Any]
    cases: dict[str, list[Answer]]
    log: str


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack an archive as the container's ``/opt/ml/model``."""
    folder.mkdir(parents=True)
    unpack(archive, folder)
    return folder


def container_environment(home: Path) -> dict[str, str]:
    """Return what a container's process sees: nothing of this project, of pytest, or of the person."""
    passed = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return passed | {
        "HOME": str(home),
        "TMPDIR": str(home),
        "TEMP": str(home),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",  # as in AWS's images
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def judge(python: Path, cases: Mapping[str, Case], folder: Path) -> Verdict:
    """Put the cases to the official handler service of an environment."""
    folder.mkdir(parents=True)
    job = {
        name: {
            "folder": str(case.folder),
            "environment": dict(case.environment or {}),
            "requests": [vars(request) for request in case.requests],
        }
        for name, case in cases.items()
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [python, "-I", "-B", DRIVER, folder / "job.json", folder / "out.json"],
        cwd=folder,
        env=container_environment(folder),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return Verdict(
        out["versions"],
        {name: [_answer(item) for item in answers] for name, answers in out["cases"].items()},
        done.stdout + done.stderr,
    )


def _answer(item: dict[str, Any]) -> Answer:
    if "crash" in item:
        return Answer(0, item["crash"])
    return Answer(item["status"], item["body"], item.get("content_type"))
