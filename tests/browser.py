"""A headless Chromium, driven over the DevTools protocol like a person would use it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import ClientConnection, connect

_SECONDS: Final = 10.0
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)


class ProtocolError(AssertionError):
    """The browser refused a command."""


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []
        """What the console would show in red, and uncaught exceptions."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def resize(self, width: int, height: int) -> None:
        """Give the window this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, url: str) -> None:
        """Go to a URL."""
        answer = self._call("Page.navigate", url=url)
        assert "errorText" not in answer, answer["errorText"]

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Return the JSON value of an expression as soon as it is truthy, navigation or not."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(ProtocolError):  # the page is just being left
                if value := self.evaluate(expression):
                    return value
            time.sleep(0.02)
        text = self.evaluate("document.body?.innerText")
        raise AssertionError(f"{expression} did not come true; the page says: {text}")

    def see(self, selector: str) -> str:
        """Return the text of an element as soon as it is visible and holds some."""
        text: str = self.wait_for(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                return element?.checkVisibility() && (element.innerText ?? element.textContent);
            }})()"""
        )
        return text

    def click(self, selector: str) -> None:
        """Click the middle of an element, as soon as it can be seen and is enabled."""
        x, y = self.wait_for(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                if (!element?.checkVisibility() || element.disabled) return null;
                element.scrollIntoView({{ block: "nearest" }});
                const box = element.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def save_screenshot(self, path: Path) -> None:
        """Save what the window shows as PNG, with the mouse and the focus out of the way."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.evaluate("scrollTo(0, 0); document.activeElement.blur()")
        answer = self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=_SECONDS))
            if answer.get("id") == number:
                if "error" in answer:
                    raise ProtocolError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note_error(answer.get("method"), answer.get("params", {}))

    def _note_error(self, event: str | None, details: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(details["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
            self.errors.append(str(details["args"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.errors.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")


@contextlib.contextmanager
def open_browser() -> Iterator[Page]:
    """Give a tab of a fresh Chromium, and end its processes afterwards.

    Without a Chromium the test is skipped, but fails where ``CI`` is set.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        reason = "there is no Chromium on the PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    profile = Path(tempfile.mkdtemp(prefix="obo-asgi-chromium-"))
    process = subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = _debugger_url(process, profile)
        with connect(url, max_size=None, proxy=None, compression=None) as connection:
            yield Page(connection)
    finally:
        _end(process)
        shutil.rmtree(profile, ignore_errors=True)


def _debugger_url(process: subprocess.Popen[bytes], profile: Path) -> str:
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 2 * _SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"Chromium ended with status {process.returncode}"
        lines = file.read_text().split() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the browser and its helpers, which are in the process group of its own id."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
