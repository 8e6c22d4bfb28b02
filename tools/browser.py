"""A headless Chromium for pictures and tests of pages: DevTools' protocol over a pipe, NUL-terminated JSON, without a driver program beside it.

The browser is asked for what it drew and what it did meanwhile; the page itself runs no script.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Names that distributions and vendors give it.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Seconds to wait for any answer: starting on a busy board takes long.
PATIENCE_S = 60.0


def find_chromium() -> str | None:
    """The program's path; None where there is none, or only Ubuntu's: a snap, which sees neither pages nor a home below /tmp."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None and not of_snap(Path(path)):
            with suppress(OSError, subprocess.TimeoutExpired):
                if subprocess.run([path, "--version"], capture_output=True, timeout=PATIENCE_S).returncode == 0:
                    return path
    return None


def of_snap(program: Path) -> bool:
    """Whether that is a snap's launcher, or Ubuntu's script that starts one or asks for it."""
    found = program.resolve()
    return found.name == "snap" or "/snap/" in str(found) or b"/snap/bin/" in found.read_bytes()[:4096]


class Page:
    """One tab. `events` holds what the browser told on the way: requests, messages of its console, exceptions."""

    def __init__(self, out: int, into: int):
        self._out, self._in, self._buffer, self._last, self._session = out, into, b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{part}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result. Raises RuntimeError where the browser refuses it or does not answer."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (told := self._hear()).get("id") != self._last:
            self.events.append(told)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        return told["result"]

    def _hear(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            ready = select.select([self._in], [], [], max(0.0, limit - time.monotonic()))[0]
            found = os.read(self._in, 1 << 20) if ready else b""
            if not found:
                raise RuntimeError("the browser ended" if ready else f"the browser did not answer within {PATIENCE_S:.0f} s")
            self._buffer += found
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(self, url: str, width: int, height: int, dark: bool = False) -> None:
        """Shows that address in a window of that many CSS pixels, and waits until it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._hear())

    def value(self, expression: str) -> Any:
        """What that JavaScript says of the page, as plain data. Raises RuntimeError where it throws."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of those events since the page was opened."""
        return [e.get("params", {}) for e in self.events if e.get("method") in methods]

    def picture(self, path: Path, height: int | None = None) -> None:
        """A PNG of the whole page, or of its first `height` pixels."""
        size = self.value("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], height or size[1]), "scale": 1}
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def chromium(program: str) -> Iterator[Page]:
    """A page of a browser of its own, with nothing remembered; ended afterwards."""
    theirs_in, out = os.pipe()
    into, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", program, "--headless=new", "--no-sandbox", "--disable-gpu",
                   "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
                   "--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank"]
        child = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        try:
            yield Page(out, into)
        finally:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(10)
            child.kill()
            child.wait()
            os.close(out), os.close(into)
