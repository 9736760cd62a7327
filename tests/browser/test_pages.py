"""Every page in a real browser: no errors, no requests, accessible, readable at every size."""

import itertools
from pathlib import Path

import pytest
from chromium import PRINTED, SCHEMES, WIDTHS, pages_of
from reports import HOSTILE, improved, measured_exports

from job.report.document import Report
from job.report.render import to_html

pytestmark = pytest.mark.browser

FOUR = list(itertools.product(WIDTHS, SCHEMES))
# The other pages differ in their numbers only: each width and scheme once is enough.
ALL_FOUR, OPPOSITE = (
    ("improved", "hostile", "runs"),
    ("worse", "perfect", "odd", "hostile_runs"),
)
RENDERINGS = [
    *((name, *rendering) for name in ALL_FOUR for rendering in FOUR),
    *((name, *rendering) for name in OPPOSITE for rendering in (FOUR[0], FOUR[-1])),
]
INSPECTION = Path(__file__).with_name("inspection.js").read_text("utf-8")
NO_FAULTS = {
    "page scrolls horizontally": False,
    "too wide": [],
    "not scrollable by keyboard": [],
    "plot without text alternative": [],
    "low contrast": [],
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
AXE = """axe.run(document, {runOnly: %s, resultTypes: ['violations']}).then(found =>
    found.violations.map(({id, nodes}) => [id, nodes.map(node => node.html.slice(0, 140))]))"""
FOCUSED = "[document.activeElement.tagName, document.activeElement.hash]"
IS_VISIBLE = """(({top, left, bottom, right}) =>
    top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth && right - left > 20
)(document.activeElement.getBoundingClientRect())"""
# A page with one fault of each kind, and a script that logs a line.
FAULTY = """<!doctype html><title>Faulty</title><body style="background: #fff">
<p style="width: 3000px; color: #ddd">wide, and pale</p>
<div style="overflow-x: auto"><p style="width: 9000px">far away</p></div>
<figure><svg><text style="fill: #ddd">pale</text></svg></figure>
<img src="http://127.0.0.1:9/"><script>console.log("here")</script>"""


def inspect(page, width):
    return page.run(f"{INSPECTION.strip()}({WIDTHS[width]})")


def axe_violations(page, axe):
    """Return the violated rules of WCAG 2.1 A and AA and of axe's best practices, with places."""
    page.run(f"{axe}; 0")
    return page.run(AXE % RULES)


@pytest.mark.parametrize(("name", "width", "scheme"), RENDERINGS)
def test_a_page_has_no_faults(browser, write_page, axe, name, width, scheme):
    """It fits, scrolls by keyboard, describes its plots, breaks no rule and requests nothing."""
    path = write_page(name)
    with browser.open(path, width, scheme) as page:
        assert inspect(page, width) == NO_FAULTS
        assert axe_violations(page, axe) == []
        assert page.errors() == []
        assert page.requests() == [path.as_uri()]


def test_the_table_of_exports_fits_a_desktop(browser, tmp_path):
    """The longest name, not proven, and a slow model: no number is hidden by scrolling."""
    found = measured_exports()
    speed = {"p50_ms": 1064.7, "p95_ms": 1107.8, "documents_per_second": 1046.6}
    found["original"]["speed"] = speed
    for export in found["exports"]:
        export |= {"name": "openvino-float32", "keeps": False, "speed": speed}
    path = tmp_path / "report.html"
    path.write_text(to_html(Report.model_validate(improved(exports=[found]))), "utf-8")
    with browser.open(path, "desktop") as page:
        widths = page.run(
            "[...document.querySelectorAll('#exports .scroll')]"
            ".map(table => [table.scrollWidth, table.clientWidth])"
        )
    assert widths
    assert all(needed <= given for needed, given in widths), widths


def test_the_first_tab_stop_skips_to_the_content(browser, path):
    """Tab shows the skip link, Enter follows it."""
    with browser.open(path) as page:
        page.press("Tab")
        assert page.run(FOCUSED) == ["A", "#" + page.run("document.querySelector('main').id")]
        assert page.run(IS_VISIBLE)
        page.press("Enter")
        assert page.run(FOCUSED) == ["MAIN", None]


def test_a_printed_page_is_complete(browser, path):
    """In print all details are open, and the content fits the paper's width."""
    with browser.open(path) as page:
        page.print_to_screen()
        has_closed_details = (
            "[...document.querySelectorAll('details > :not(summary)')].some(e => !e.offsetHeight)"
        )
        assert not page.run(has_closed_details)
        assert page.run("document.documentElement.scrollWidth") <= PRINTED
        assert pages_of(page.pdf()) > 0


@pytest.mark.parametrize("name", ["hostile", "hostile_runs"])
def test_user_text_is_only_shown(browser, write_page, name):
    """It is shown unchanged; it runs nothing, loads nothing and creates no element."""
    with browser.open(write_page(name)) as page:
        assert page.run("window.hacked") is None
        assert page.run("document.querySelectorAll('script, img, b, [onclick]').length") == 0
        assert page.run(f"document.body.textContent.split({HOSTILE!r}).length") > 10


def test_the_inspection_finds_each_fault(browser, axe, tmp_path):
    """On a page that has all of them."""
    faulty = tmp_path / "faulty.html"
    faulty.write_text(FAULTY, "utf-8")
    with browser.open(faulty) as page:
        found = inspect(page, "desktop")
        assert {fault: bool(places) for fault, places in found.items()} == dict.fromkeys(
            NO_FAULTS, True
        )
        assert {rule for rule, _ in axe_violations(page, axe)} >= {"color-contrast", "image-alt"}
        assert page.errors()
        assert page.requests() == [faulty.as_uri(), "http://127.0.0.1:9/"]
