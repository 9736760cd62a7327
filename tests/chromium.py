"""Real headless Chromium, to test pages in; `python tests/chromium.py PAGE FOLDER` pictures one.

It speaks the DevTools protocol over two pipes, which needs no driver and no open port.
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
PICTURE_HEIGHT = 1500
# What a page has of A4's width: 210 mm without its own margins of 14 mm.
PRINTED = round((210 - 2 * 14) / 25.4 * 96)
PATIENCE_SECONDS = 30
KEYS = {"Tab": 9, "Enter": 13}
# It opens nothing but our own pages, often as root in a container, where its sandbox cannot be;
# by itself it would look for updates.
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
    """It refused a command, died or did not answer in time."""


class Browser:
    """Sends commands and keeps what happens meanwhile, by session, in `events`."""

    def __init__(self, incoming, outgoing):
        self._incoming, self._outgoing = incoming, outgoing
        self._received = b""
        self._sent = 0
        self.events = {}

    def call(self, method, session=None, **parameters):
        """Return the answer to a command."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._outgoing, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            self._keep(answer)
        if "error" in answer:
            msg = f"{method}: {answer['error']}"
            raise BrowserError(msg)
        return answer["result"]

    def wait_for(self, method, session):
        """Let things happen until this does; what happened before does not count."""
        while True:
            message = self._next()
            self._keep(message)
            if message.get("method") == method and message.get("sessionId") == session:
                return

    def _keep(self, message):
        if "method" in message:
            self.events.setdefault(message.get("sessionId"), []).append(message)

    def _next(self):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._incoming], [], [], PATIENCE_SECONDS)
            found = os.read(self._incoming, 1 << 20) if ready else b""
            if not found:
                msg = "Chromium died" if ready else f"no answer in {PATIENCE_SECONDS} s"
                raise BrowserError(msg)
            self._received += found
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    @contextmanager
    def open(self, path, width="desktop", scheme="light"):
        """Show a file as somebody would who has never been here: in a context of its own."""
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
        """Become a window or a telephone, in the light or in the dark."""
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
        """Show what paper gets."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=PRINTED,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", media="print")

    def run(self, script):
        """Return what an expression is worth, or what its promise brings."""
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
        """Addresses that it asked for, its own among them."""
        sent = self._happened("Network.requestWillBeSent", "Network.webSocketCreated")
        return [e["request"]["url"] if "request" in e else e["url"] for e in sent]

    def complaints(self):
        """All that stands in its console, uncaught exceptions, and dialogs that it opened."""
        return self._happened(
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )

    def _happened(self, *methods):
        events = self._browser.events.get(self._session, [])
        return [event["params"] for event in events if event["method"] in methods]

    def pictures(self):
        """PNGs of the whole page, from its top to its end, each of a size that can be looked at."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        for top in range(0, int(size["height"]), PICTURE_HEIGHT):
            height = min(PICTURE_HEIGHT, size["height"] - top)
            clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
            answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            yield base64.b64decode(answer["data"])

    def pdf(self):
        """PDF as the print dialog makes it by default, on A4."""
        sheet = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self.call("Page.printToPDF", **sheet)["data"])


def pages_of(pdf):
    """Count a PDF's pages: of Chromium's PDFs only the contents are compressed."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@contextmanager
def chromium(program):
    """Start it, with a profile that is gone afterwards."""
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    # It reads from descriptor 3 and writes to 4.
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
            process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(our_input)
            os.close(our_output)


def main(path, folder):
    """Write the four renderings and what the printer gets, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium(os.environ.get("EMBEDTUNE_CHROMIUM", "chromium")) as browser:
        for width in WIDTHS:
            for scheme in SCHEMES:
                with browser.open(path, width, scheme) as page:
                    for number, picture in enumerate(page.pictures(), 1):
                        (folder / f"{width}-{scheme}-{number:02}.png").write_bytes(picture)
        with browser.open(path) as page:
            (folder / "print.pdf").write_bytes(page.pdf())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
