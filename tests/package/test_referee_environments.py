"""The environments of the referees: whole or not at all, and borrowed where they say so."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from referee.environments import CACHE, REQUIRED, Environment, UnavailableError, build, python_of

HERE = Path(__file__).parents[1]

BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from referee import environments
environments._run = lambda command, run=environments._run: (run(command), print("built", flush=True), input())
environments.build(environments.Environment(), cache=Path(sys.argv[2]))
"""


def test_what_is_borrowed_is_found_and_nothing_else_is(tmp_path: Path) -> None:
    python = build(Environment(), cache=tmp_path)
    code = (
        "import importlib.util, json, numpy, torch; "
        "print(json.dumps([torch.__file__, numpy.__file__, importlib.util.find_spec('transformers') is None]))"
    )
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    torch_file, numpy_file, without_transformers = json.loads(done.stdout)
    assert torch_file.startswith(str(tmp_path))
    assert "_borrowed" in torch_file
    assert "_borrowed" in numpy_file
    assert without_transformers, "the project's own transformers is out of reach"


def test_a_build_that_was_killed_is_not_taken_for_whole(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(HERE), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"built\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    drafts = list(tmp_path.glob(".building-*"))
    assert len(drafts) == 1
    assert (drafts[0] / "bin" / "python").exists(), "it looks like an environment already"

    python = build(Environment(), cache=tmp_path)
    assert subprocess.run([python, "-c", "import numpy"], check=False).returncode == 0
    assert not drafts[0].exists(), "what it left is cleared away"


def test_the_second_time_nothing_is_built(tmp_path: Path) -> None:
    python = build(Environment(), cache=tmp_path)
    marker = python.parents[1] / "marker"
    marker.touch()
    started = time.monotonic()
    assert build(Environment(), cache=tmp_path) == python
    assert marker.exists()
    assert time.monotonic() - started < 2
    assert build(Environment(append=(("numbers.py", ""),)), cache=tmp_path) != python


def test_without_a_network_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    wanted = Environment(("transformers==4.49.0",))
    with pytest.raises(UnavailableError, match=r"transformers==4\.49\.0"):
        build(wanted, cache=tmp_path, options=["--no-index"])
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_cannot_be_installed_is_skipped_never_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from referee import environments

    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.delenv(REQUIRED, raising=False)
    monkeypatch.setitem(environments.ENVIRONMENTS, "none", Environment(("askline-has-no-such-release==9999",)))
    monkeypatch.setattr(environments, "_unavailable", {})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match=r"no environment none: .*9999"):
            python_of("none")
    monkeypatch.setenv(REQUIRED, "required")
    with pytest.raises(pytest.fail.Exception, match="9999"):
        python_of("none")


def test_the_cache_lies_outside_the_working_tree() -> None:
    from referee.environments import cache_folder

    assert os.path.commonpath([cache_folder(), HERE.parent]) != str(HERE.parent)
