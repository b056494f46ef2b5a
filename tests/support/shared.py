"""What all workers of a test run share: made once, by the first that asks for it, while the others wait.

pytest-xdist gives each worker fixtures of its own, session-scoped ones too. An embedded cloud, a trained model or a
database with its migrations takes seconds of processor time each, so these lie in one folder of the whole run, whose
path the controller hands to its workers in the environment. Tests that share a cloud use names of their own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from askline.records import Target

REPOSITORY = Path(__file__).parents[2]
_FOLDER = "TESTS_SHARED_FOLDER"


def begin() -> None:
    """Make the folder; called by the controller before it starts its workers."""
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="askline-tests-")


def end(*, keep: bool) -> None:
    """Stop the clouds that were started here; remove the folder unless its logs may still be asked for."""
    folder = Path(os.environ.pop(_FOLDER))
    for state in folder.glob("*/state"):
        local_cloud("down", "--state-dir", str(state))
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that name, filled by ``make`` if nobody has yet; nobody sees a half-filled one."""
    folder = Path(os.environ[_FOLDER])
    whole, draft = folder / name, folder / f"{name}.draft"
    with FileLock(folder / f"{name}.lock"):
        if not whole.exists():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(whole)
    return whole


def local_cloud(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run ``python -m local_cloud`` as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "local_cloud", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def state_of(name: str) -> Path:
    """Return the state folder of the shared cloud of that name, for a program that is to find it running."""
    return Path(os.environ[_FOLDER]) / name / "state"


def shared_cloud(name: str, *options: str) -> Target:
    """Return the embedded cloud of that name, started by the first that asks and stopped when all workers are done."""
    state = state_of(name)
    with FileLock(Path(os.environ[_FOLDER]) / f"{name}.lock"):
        target = state.parent / "target.json"
        if not target.exists():
            state.mkdir(parents=True, exist_ok=True)
            if "prefect" not in options:
                seed_prefect(state)
            done = local_cloud("up", "--json", "--state-dir", str(state), *options)
            assert done.returncode == 0, done.stderr
            target.write_text(done.stdout, encoding="utf-8")
        return Target.model_validate_json(target.read_text(encoding="utf-8"))


def prefect_database(folder: Path) -> Path:
    """Put a Prefect database into ``folder`` that has gone through all migrations: half of a server's first start."""

    def migrate(draft: Path) -> None:
        database = f"sqlite+aiosqlite:///{draft}/prefect.db"
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
            env={**os.environ, "PREFECT_HOME": str(draft), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database},
            check=True,
            capture_output=True,
            timeout=300,
        )

    folder.mkdir(parents=True, exist_ok=True)
    for path in once("prefect-database", migrate).glob("prefect.db*"):
        shutil.copyfile(path, folder / path.name)
    return folder / "prefect.db"


def seed_prefect(state_dir: Path) -> None:
    """Have the Prefect server of an embedded cloud that was never started find its database made."""
    if not (folder := state_dir / "cloud" / "prefect").exists():
        prefect_database(folder)
