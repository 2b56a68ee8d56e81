"""A headless Chromium, driven through the DevTools protocol over a pipe.

https://chromedevtools.github.io/devtools-protocol/: messages are JSON, each ended by a NUL; the
browser reads them from its file descriptor 3 and writes to 4.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("google-chrome")

_FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}
_TEXTS = {"Enter": "\r", " ": " "}
_TIMEOUT_SECONDS = 30.0


class Browser:
    """A browser process with a profile of its own; use as a context manager.

    Parameters
    ----------
    profile : Path
        A folder that the browser may fill.
    """

    def __init__(self, profile: Path) -> None:
        assert EXECUTABLE is not None
        flags = [*_FLAGS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Far from 3 and 4, so that neither is overwritten before it is copied.
        child = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs_in, theirs_out)]
        log = str(profile.with_suffix(".log"))
        self._process = os.posix_spawn(
            EXECUTABLE,
            [EXECUTABLE, *flags],
            {**os.environ, "HOME": str(profile)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, child[0], 3),
                (os.POSIX_SPAWN_DUP2, child[1], 4),
                (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 2, 1),
            ],
            setpgroup=0,
        )
        for fd in (theirs_in, theirs_out, *child):
            os.close(fd)
        self._out, self._in = ours_out, ours_in
        self._ids = itertools.count(1)
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Run a method of the protocol and return its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self._out, text) :]
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            answer = self._receive(deadline - time.monotonic())
            if answer is None:
                raise TimeoutError(f"{method} was not answered in {_TIMEOUT_SECONDS:g} s")
            if answer.get("id") != number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def drain(self) -> None:
        """Take in the events that have arrived."""
        while (event := self._receive(0)) is not None:
            self.events.append(event)

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            remaining = max(deadline - time.monotonic(), 0)
            if not select.select([self._in], [], [], remaining)[0]:
                return None
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def open(self, url: str, width: int = 1200, height: int = 900) -> Page:
        """Open `url` in a page of its own and wait until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Run a method of the protocol in this tab."""
        return self._browser.call(method, self._session, **params)

    def events(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of this tab's events of one kind, the oldest first."""
        self._browser.drain()
        own = (e for e in self._browser.events if e.get("sessionId") == self._session)
        return [event["params"] for event in own if event["method"] == method]

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = _TIMEOUT_SECONDS) -> Any:
        """Evaluate until the result is true, and return it."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(condition)):
            if time.monotonic() > deadline:
                text = self.evaluate("document.body.innerText")
                raise TimeoutError(f"{condition} stays false; the page says:\n{text}")
            time.sleep(0.02)
        return value

    def resize(self, width: int, height: int) -> None:
        """Give the window a size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def press(self, key: str, shift: bool = False) -> None:
        """Press and release a key."""
        common = {"key": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": 8 if shift else 0}
        text = {"text": _TEXTS[key]} if key in _TEXTS else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Put text where the focus is, in place of what is selected."""
        self.call("Input.insertText", text=text)

    def controls(self) -> list[tuple[str, str]]:
        """Return the role and the accessible name of all that can be operated, sorted."""
        roles = {"button", "textbox", "combobox", "spinbutton", "link", "DisclosureTriangle"}
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return sorted(
            (node["role"]["value"], node["name"]["value"])
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in roles
        )

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
