"""The embedded Hub as a process of its own, for the tests that talk to it through the official clients."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TOKEN = "hf_local"


class HubProcess:
    """One embedded Hub; it can be killed and started again on the same port and state."""

    def __init__(self, state: Path, port: int) -> None:
        self.state = state
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = state.with_name(f"{state.name}.log")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local_cloud.hub", "--port", str(self.port), "--state", str(self.state)],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                with urllib.request.urlopen(f"{self.url}/_askline/health", timeout=5) as answer:
                    assert answer.read() == b'{"status":"ok"}'
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def running_hub(state: Path, port: int) -> Iterator[HubProcess]:
    hub = HubProcess(state, port)
    hub.start()
    try:
        yield hub
    finally:
        if hub.process.poll() is None:
            hub.stop()


def run_client(code: str, hub: HubProcess, home: Path, *arguments: str, token: str = TOKEN) -> str:
    """Run Python code in a process of its own, as a person who has set ``HF_ENDPOINT`` would; return what it prints."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }
    environment.pop("HF_HUB_DISABLE_IMPLICIT_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
