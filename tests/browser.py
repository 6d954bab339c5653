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


class Browser:
    """A running Chromium, and the connection to it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._errors: dict[str | None, list[str]] = {}
        self._requests: dict[str | None, list[str]] = {}

    @contextlib.contextmanager
    def open_page(self) -> Iterator[Page]:
        """Give a tab that shares nothing with those before it, and close it afterwards."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        try:
            target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
            yield Page(self, target["targetId"])
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def attach(self, target: str, errors: list[str]) -> str:
        """Begin a session with a tab, whose errors go into a list; return the session's id."""
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        session: str = answer["sessionId"]
        self._errors[session] = errors
        return session

    def record_requests(self, session: str) -> list[str]:
        """Return a list to which the URLs of a tab's requests are added from now on."""
        return self._requests.setdefault(session, [])

    def call(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        """Send a command, to the browser or to a tab's session, and return the result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=_SECONDS))
            if answer.get("id") == number:
                if "error" in answer:
                    raise ProtocolError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            error = _error_of(answer.get("method"), answer.get("params", {}))
            if error is not None:
                self._errors.get(answer.get("sessionId"), []).append(error)
            if answer.get("method") == "Network.requestWillBeSent":
                url = answer["params"]["request"]["url"]
                self._requests.get(answer.get("sessionId"), []).append(url)


class Page:
    """One tab, or a window that a page has opened (`popup`)."""

    def __init__(self, browser: Browser, target: str, errors: list[str] | None = None) -> None:
        self._browser = browser
        self._target = target
        self.errors: list[str] = [] if errors is None else errors
        """What the console would show in red, and uncaught exceptions; of popups too."""
        self._session = browser.attach(target, self.errors)
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def popup(self) -> Page:
        """Return the window that this page has just opened, as soon as it is there."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for target in self._browser.call("Target.getTargets")["targetInfos"]:
                if target.get("openerId") == self._target and not target["attached"]:
                    return Page(self._browser, target["targetId"], self.errors)
            time.sleep(0.02)
        raise AssertionError("the page has opened no window")

    def close(self) -> None:
        """Close the window, as a person does."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def resize(self, width: int, height: int) -> None:
        """Give the window this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, url: str) -> None:
        """Go to a URL."""
        answer = self._call("Page.navigate", url=url)
        assert "errorText" not in answer, answer["errorText"]

    def record_requests(self) -> list[str]:
        """Return a list to which the URLs that the page asks for are added from now on."""
        self._call("Network.enable")
        return self._browser.record_requests(self._session)

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
        path.write_bytes(base64.b64decode(self._screenshot()))

    def lay_over(self, popup: Page, x: int, y: int) -> None:
        """Show a picture of a popup where the window manager would show the popup itself."""
        self.evaluate(
            f"""(() => {{
                const image = new Image();
                image.src = "data:image/png;base64,{popup._screenshot()}";
                Object.assign(image.style, {{ position: "fixed", left: "{x}px", top: "{y}px",
                    borderRadius: "10px", boxShadow: "0 0 0 1px #0004, 0 12px 40px #0007" }});
                image.decode().then(() => document.body.append(image));
            }})()"""
        )
        self.wait_for("document.body.lastElementChild instanceof HTMLImageElement")

    def _screenshot(self) -> str:
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.evaluate("scrollTo(0, 0); document.activeElement.blur()")
        picture: str = self._call("Page.captureScreenshot", format="png")["data"]
        return picture

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)


def _error_of(event: str | None, details: dict[str, Any]) -> str | None:
    """Return the error that an event tells, if it is one."""
    if event == "Runtime.exceptionThrown":
        return str(details["exceptionDetails"])
    if event == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
        return str(details["args"])
    if event == "Log.entryAdded" and details["entry"]["level"] == "error":
        return f"{details['entry']['text']} {details['entry'].get('url', '')}"
    return None


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Give a fresh Chromium, and end its processes afterwards.

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
            yield Browser(connection)
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
