"""Write docs/report.png, the first screen of a report: `python tests/picture.py [PAGE]`.

PAGE is a `report.html`, by default the one of the newest run of `make demo`. Needs Chromium:
`EMBEDTUNE_CHROMIUM`, or one that is on the path (`make test-browser` installs Debian's).
"""

import base64
import os
import shutil
import sys
from pathlib import Path

from chromium import chromium

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "report.png"
# CSS pixels; README shows it at about 70 % of this width.
WIDTH, HEIGHT = 1200, 890
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def newest_demo_page() -> Path:
    pages = sorted(ROOT.glob("demo/*/report/report.html"), key=lambda page: page.stat().st_mtime)
    if not pages:
        sys.exit("There is no demo run yet: run `make demo` first, or name a report.html.")
    return pages[-1]


def find_program() -> str:
    found = [os.environ.get("EMBEDTUNE_CHROMIUM"), *map(shutil.which, PROGRAMS)]
    return next(filter(None, found), None) or sys.exit(
        "Chromium is missing; see tests/browser/run."
    )


def main(page_path: Path) -> None:
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    with chromium(find_program()) as browser, browser.open(page_path) as page:
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.run("document.documentElement.style.overflow = 'hidden'")
        shot = page.call("Page.captureScreenshot")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(base64.b64decode(shot["data"]))
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes, of {page_path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else newest_demo_page())
