"""Fixtures for all tests, and the settings that keep every test on this machine."""

import contextlib
import inspect
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import quick, shared
from support.shared import REPOSITORY, local_cloud

from askline import console
from askline.clients import LocalKeys
from askline.records import Target

# Before anything imports huggingface_hub, boto3 or Prefect, which read these once.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
for _name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_OFFLINE",
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
):
    os.environ.pop(_name, None)
os.environ.update(
    {
        # A call that is meant for the embedded cloud and goes astray finds no credentials that are worth anything.
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        # Nothing listens there: no test reaches the public Hub.
        "HF_ENDPOINT": "http://127.0.0.1:9",
        # One thread each: on a busy machine, waiting threads that spin make torch several times slower.
        "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
    }
)

# A shell without job control has what runs in its background ignore Ctrl-C, and so all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["REPOSITORY", "local_cloud", "prefect_at", "running_cloud", "write_capitals"]
FAILED = pytest.StashKey[bool]()

#: The files that take longest, longest first: begun last, one of them would run on alone while other workers idle.
LONGEST = (
    "test_full_pipeline.py",
    "test_pipeline_troubles.py",
    "test_triggers.py",
    "test_docs_aws.py",
    "test_fan_out.py",
    "test_fsdp.py",
    "test_torchrun.py",
    "test_more_machines.py",
    "test_batch_answer.py",
    "test_lifecycle.py",
    "test_iam.py",
    "test_api_failures.py",
    "test_approval.py",
    "test_deploy_queue.py",
    "test_deploy_targets.py",
    "test_local_cloud.py",
    "test_sagemaker.py",
    "test_referee_toolkit.py",
    "test_fine_tune.py",
    "test_fine_tune_job.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of ``make quick``."""
    parser.addoption("--quick", action="store_true", help="only what starts no server and trains or loads no network")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what has nothing quick in it, before it is imported."""
    return (
        True
        if config.getoption("quick") and collection_path.is_file() and quick.is_slow_module(collection_path)
        else None
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all workers share."""
    if not hasattr(config, "workerinput"):
        shared.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what all workers shared, once the last has ended; keep its logs where something failed."""
    if not hasattr(config, "workerinput"):
        shared.end(keep=config.stash.get(FAILED, False))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how it went."""
    session.config.stash[FAILED] = exitstatus != 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, where ``--no-loadscope-reorder`` keeps them; with ``--quick`` leave out the slow."""
    if config.getoption("quick"):
        config.hook.pytest_deselected(items=[item for item in items if not quick.is_quick(item)])
        items[:] = [item for item in items if quick.is_quick(item)]
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@contextlib.contextmanager
def running_cloud(state_dir: Path, *options: str) -> Iterator[Target]:
    """Run an embedded cloud for as long as the block lasts."""
    if "prefect" not in options:
        shared.seed_prefect(state_dir)
    try:
        done = local_cloud("up", "--json", "--state-dir", str(state_dir), *options)
        assert done.returncode == 0, done.stderr
        yield Target.model_validate_json(done.stdout)
    finally:
        local_cloud("down", "--state-dir", str(state_dir))


@pytest.fixture(scope="session")
def cloud() -> Target:
    """An embedded cloud without the Prefect server. All tests of all workers share it: choose names of your own."""
    return shared.shared_cloud("cloud", "--without", "prefect")


@pytest.fixture(scope="session")
def cloud_with_prefect() -> Iterator[Target]:
    """Another one, with the Prefect server; shared in the same way."""
    target = shared.shared_cloud("cloud-with-prefect")
    # Programs that a test starts and points at this server need its password, too.
    os.environ["PREFECT_API_AUTH_STRING"] = LocalKeys.of(target).prefect_auth or ""
    yield target
    del os.environ["PREFECT_API_AUTH_STRING"]


@contextlib.contextmanager
def prefect_at(api: str, **settings: Any) -> Iterator[None]:
    """Have this process use a Prefect server; whoever uses another one next finds nothing of this one's left."""
    import prefect.settings
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import temporary_settings
    from prefect.utilities.asyncutils import run_coro_as_sync

    async def drain() -> None:
        for drained in (lambda: APILogWorker.instance().drain(), EventsWorker.drain_all):
            with contextlib.suppress(RuntimeError):  # it was never started
                waiting = drained()
                if inspect.isawaitable(waiting):
                    await waiting

    password = os.environ.get("PREFECT_API_AUTH_STRING")
    wanted = {"PREFECT_API_URL": api, **({"PREFECT_API_AUTH_STRING": password} if password else {}), **settings}
    with temporary_settings({getattr(prefect.settings, name): value for name, value in wanted.items()}):
        try:
            yield
        finally:
            run_coro_as_sync(drain())


@pytest.fixture(autouse=True)
def _steps_are_shown_nowhere() -> Iterator[None]:
    """Forget the terminal of a program that a test called in this process."""
    yield
    console._current = None


@pytest.fixture
def free_port() -> int:
    """A loopback port on which nothing listens."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_capitals(path: Path) -> None:
    """Write a few facts, each asked in several ways: a dataset whose whole pipeline takes seconds.

    Held out by wording (``--dataset.split-by wording``), 40 steps of 16 learn most of it.
    """
    capitals = {"France": "Paris", "Poland": "Warsaw", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo"}
    capitals |= {"Greece": "Athens", "Austria": "Vienna", "Portugal": "Lisbon"}
    wordings = ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.")
    wordings += (
        "Of {} the capital is which city?",
        "Tell me the capital of {}.",
        "What is the name of the capital of {}?",
    )
    rows = [f"{wording.format(land)},{city}" for land, city in capitals.items() for wording in wordings]
    path.write_text("\n".join(["question,answer", *rows, ""]), encoding="utf-8")
