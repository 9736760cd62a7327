"""Drives a real headless Chromium; `python tests/chromium.py PAGE FOLDER` takes screenshots.

It uses the DevTools protocol over two pipes, which needs no driver and no open port.
"""

import base64
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

# CSS pixels.
WIDTHS = {"desktop": 1280, "phone": 390}
SCHEMES = ("light", "dark")
HEIGHT = 900
SCREENSHOT_HEIGHT = 1500
# The printable width of A4: 210 mm without margins of 14 mm.
PRINTED = round((210 - 2 * 14) / 25.4 * 96)
TIMEOUT_SECONDS = 30
KEYS = {"Tab": 9, "Enter": 13}
# It opens only our own pages, often as root in a container, where the sandbox does not work.
# Updates and background requests are off.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


class BrowserError(Exception):
    """Chromium rejected a command, died or timed out."""


class Browser:
    """Sends commands, and collects events by session in `events`."""

    def __init__(self, incoming, outgoing):
        self._incoming, self._outgoing = incoming, outgoing
        self._received = b""
        self._sent = 0
        self.events = {}

    def call(self, method, session=None, **parameters):
        """Send a command and return its answer."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._outgoing, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._sent:
            self._store(answer)
        if "error" in answer:
            msg = f"{method}: {answer['error']}"
            raise BrowserError(msg)
        return answer["result"]

    def wait_for(self, method, session):
        """Wait for the next event of this method; earlier events do not count."""
        while True:
            message = self._receive()
            self._store(message)
            if message.get("method") == method and message.get("sessionId") == session:
                return

    def _store(self, message):
        if "method" in message:
            self.events.setdefault(message.get("sessionId"), []).append(message)

    def _receive(self):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._incoming], [], [], TIMEOUT_SECONDS)
            found = os.read(self._incoming, 1 << 20) if ready else b""
            if not found:
                msg = "Chromium died" if ready else f"no answer in {TIMEOUT_SECONDS} s"
                raise BrowserError(msg)
            self._received += found
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    @contextmanager
    def open(self, path, width="desktop", scheme="light"):
        """Open a file in a new browser context, without cookies or cache."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", flatten=True, **target)["sessionId"]
        page = Page(self, session)
        page.show(width, scheme)
        page.load(path)
        yield page
        self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    def __init__(self, browser, session):
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def load(self, path):
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._browser.wait_for("Page.loadEventFired", self._session)

    def show(self, width, scheme):
        """Emulate a window or a phone, in light or dark mode."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=WIDTHS[width],
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=width == "phone",
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def print_to_screen(self):
        """Emulate print media."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=PRINTED,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", media="print")

    def run(self, script):
        """Evaluate an expression; returns its value, or that of its promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def press(self, key):
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def requests(self):
        """Return the requested URLs, including the page's own."""
        sent = self._events_of("Network.requestWillBeSent", "Network.webSocketCreated")
        return [e["request"]["url"] if "request" in e else e["url"] for e in sent]

    def errors(self):
        """Return console messages, uncaught exceptions and opened dialogs."""
        return self._events_of(
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )

    def _events_of(self, *methods):
        events = self._browser.events.get(self._session, [])
        return [event["params"] for event in events if event["method"] in methods]

    def screenshots(self):
        """Yield PNGs that cover the whole page from top to bottom."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        for top in range(0, int(size["height"]), SCREENSHOT_HEIGHT):
            height = min(SCREENSHOT_HEIGHT, size["height"] - top)
            clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
            answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            yield base64.b64decode(answer["data"])

    def pdf(self):
        """Return a PDF with the print dialog's defaults, on A4."""
        sheet = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self.call("Page.printToPDF", **sheet)["data"])


def pages_of(pdf):
    """Count the pages of a PDF; Chromium compresses the contents only."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@contextmanager
def chromium(program):
    """Start Chromium with a temporary profile; yields a `Browser`."""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    # Chromium reads from file descriptor 3 and writes to 4.
    moved = f'exec "$@" 3<&{their_input} 4>&{their_output}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", moved, "bash", program, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(their_input, their_output),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_input)
        os.close(their_output)
        try:
            browser = Browser(our_input, our_output)
            yield browser
            browser.call("Browser.close")
            process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(our_input)
            os.close(our_output)


def main(path, folder):
    """Write screenshots of all widths and color schemes, and the printed page."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium(os.environ.get("EMBEDTUNE_CHROMIUM", "chromium")) as browser:
        for width in WIDTHS:
            for scheme in SCHEMES:
                with browser.open(path, width, scheme) as page:
                    for number, image in enumerate(page.screenshots(), 1):
                        (folder / f"{width}-{scheme}-{number:02}.png").write_bytes(image)
        with browser.open(path) as page:
            (folder / "print.pdf").write_bytes(page.pdf())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
