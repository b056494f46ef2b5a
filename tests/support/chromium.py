"""A headless Chromium, driven over its DevTools protocol: what a person does with keyboard and eyes."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    # Nothing but this machine can be reached.
    # An attacker's name that points at this machine is among them.
    "--host-resolver-rules=MAP *.localhost 127.0.0.1 , MAP rebound.example 127.0.0.1 , MAP * ~NOTFOUND , "
    "EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)
_KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), " ": (" ", 32), "Escape": ("", 27)}
_SECONDS = 90.0


class Page:
    """One tab."""

    def __init__(self, socket: Connection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._ids = itertools.count(1)
        #: Errors, warnings and policy violations that the page's console shows.
        self.console: list[str] = []
        #: Every address that the page asked for.
        self.requested: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(
            json.dumps({"id": number, "sessionId": self._session, "method": method, "params": parameters})
        )
        while True:
            message = json.loads(self._socket.recv(timeout=_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, details = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.console.append(details["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(details["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(details["request"]["url"])

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    def log_in_to_prefect(self, ui: str, auth: tuple[str, str]) -> None:
        """Keep the server's user and password as the login page of its UI does."""
        self.open(f"{ui}/robots.txt")
        self.value(f"localStorage.setItem('prefect-password', btoa({json.dumps(':'.join(auth))}))")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = _SECONDS) -> None:
        until = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < until, f"never came true: {expression}\n{self.value('document.body.innerText')}"
            time.sleep(0.05)

    def wait_for_text(self, text: str, seconds: float = _SECONDS) -> None:
        """Wait until the text can be read somewhere on the page."""
        self.wait_for(f"document.body && document.body.innerText.includes({json.dumps(text)})", seconds)

    def click(self, text: str) -> None:
        """Click the last thing on the page that says just this, once it is there."""
        found = (
            f"[...document.querySelectorAll('*')].findLast(e => !e.children.length && "
            f"e.textContent.trim() === {json.dumps(text)})"
        )
        self.wait_for(found)
        self.value(f"{found}.click()")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        text, code = _KEYS[key]
        common = {
            "key": key,
            "code": {" ": "Space"}.get(key, key),
            "windowsVirtualKeyCode": code,
            "modifiers": 8 * shift,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def focused(self) -> str:
        """Return the id, or else the text, of what has the keyboard."""
        return str(self.value("document.activeElement.id || document.activeElement.innerText"))

    def tab_to(self, identifier: str, *, most: int = 20) -> None:
        for _ in range(most):
            if self.focused() == identifier:
                return
            self.press("Tab")
        raise AssertionError(f"the keyboard does not reach {identifier}")

    def text_of(self, identifier: str) -> str:
        return str(self.value(f"document.getElementById('{identifier}').textContent"))

    def shows(self, identifier: str) -> bool:
        return bool(self.value(f"document.getElementById('{identifier}').checkVisibility()"))

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator["Browser"]:
    """Start Chromium with a profile of its own, and end it."""
    assert BINARY is not None
    process = subprocess.Popen(
        [BINARY, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        until = time.monotonic() + _SECONDS
        while not (port_file.is_file() and len(port_file.read_text().splitlines()) == 2):
            assert process.poll() is None, "Chromium ended by itself"
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.05)
        port, path = port_file.read_text().splitlines()
        yield Browser(f"ws://127.0.0.1:{port}{path}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Browser:
    """A running Chromium."""

    def __init__(self, address: str) -> None:
        self._address = address

    @contextmanager
    def page(self) -> Iterator[Page]:
        """Open an empty tab with storage of its own."""
        with connect(self._address, max_size=None, proxy=None, open_timeout=_SECONDS) as socket:
            context = _ask(socket, 1, "Target.createBrowserContext")["browserContextId"]
            target = _ask(socket, 2, "Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
            session = _ask(socket, 3, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            try:
                yield Page(socket, session)
            finally:
                _ask(socket, 4, "Target.disposeBrowserContext", browserContextId=context)


def _ask(socket: Connection, number: int, method: str, **parameters: Any) -> dict[str, Any]:
    socket.send(json.dumps({"id": -number, "method": method, "params": parameters}))
    while True:
        message = json.loads(socket.recv(timeout=_SECONDS))
        if message.get("id") == -number:
            assert "error" not in message, f"{method}: {message['error']}"
            result: dict[str, Any] = message["result"]
            return result
