"""Every page that we write, in the real browser: quiet, alone, readable everywhere, by all."""

import itertools
from pathlib import Path

import pytest
from chromium import PRINTED, SCHEMES, WIDTHS, pages_of
from reports import HOSTILE

pytestmark = pytest.mark.browser

FOUR = list(itertools.product(WIDTHS, SCHEMES))
# The others differ from these in their numbers: every width and scheme once is enough.
ALL_FOUR, OPPOSITE = (
    ("improved", "hostile", "runs"),
    ("worse", "perfect", "odd", "hostile_runs"),
)
RENDERINGS = [
    *((name, *rendering) for name in ALL_FOUR for rendering in FOUR),
    *((name, *rendering) for name in OPPOSITE for rendering in (FOUR[0], FOUR[-1])),
]
INSPECTION = Path(__file__).with_name("inspection.js").read_text("utf-8")
NOTHING = {
    "page scrolls sideways": False,
    "too wide": [],
    "scrolls out of reach": [],
    "drawn but not told": [],
    "too pale": [],
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
AXE = """axe.run(document, {runOnly: %s, resultTypes: ['violations']}).then(found =>
    found.violations.map(({id, nodes}) => [id, nodes.map(node => node.html.slice(0, 140))]))"""
FOCUSED = "[document.activeElement.tagName, document.activeElement.hash]"
IS_IN_SIGHT = """(({top, left, bottom, right}) =>
    top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth && right - left > 20
)(document.activeElement.getBoundingClientRect())"""
# A page with one of each fault, and a script that says so.
FAULTY = """<!doctype html><title>Faulty</title><body style="background: #fff">
<p style="width: 3000px; color: #ddd">wide, and pale</p>
<div style="overflow-x: auto"><p style="width: 9000px">far away</p></div>
<figure><svg><text style="fill: #ddd">pale</text></svg></figure>
<img src="http://127.0.0.1:9/"><script>console.log("here")</script>"""


def inspect(page, width):
    return page.run(f"{INSPECTION.strip()}({WIDTHS[width]})")


def compute_metrics(page, axe):
    """Return the rules of WCAG 2.1 A and AA, and of axe's own, that are broken, and where."""
    page.run(f"{axe}; 0")
    return page.run(AXE % RULES)


@pytest.mark.parametrize(("name", "width", "scheme"), RENDERINGS)
def test_nothing_is_wrong_with_it(browser, write_page, axe, name, width, scheme):
    """It fits, scrolls by key, tells what it draws, breaks no rule, and asks for nothing."""
    path = write_page(name)
    with browser.open(path, width, scheme) as page:
        assert inspect(page, width) == NOTHING
        assert compute_metrics(page, axe) == []
        assert page.complaints() == []
        assert page.requests() == [path.as_uri()]


def test_the_first_key_leads_past_the_top(browser, path):
    """Tab shows the link that skips to the content, Enter follows it there."""
    with browser.open(path) as page:
        page.press("Tab")
        assert page.run(FOCUSED) == ["A", "#" + page.run("document.querySelector('main').id")]
        assert page.run(IS_IN_SIGHT)
        page.press("Enter")
        assert page.run(FOCUSED) == ["MAIN", None]


def test_paper_has_all_of_it(browser, path):
    """Printed, nothing is folded up, and the sheet is wide enough."""
    with browser.open(path) as page:
        page.print_to_screen()
        folded = (
            "[...document.querySelectorAll('details > :not(summary)')].some(e => !e.offsetHeight)"
        )
        assert not page.run(folded)
        assert page.run("document.documentElement.scrollWidth") <= PRINTED
        assert pages_of(page.pdf()) > 0


@pytest.mark.parametrize("name", ["hostile", "hostile_runs"])
def test_a_strangers_text_is_only_read(browser, write_page, name):
    """It stands there as it was written; nothing of it runs, loads or becomes an element."""
    with browser.open(write_page(name)) as page:
        assert page.run("window.hacked") is None
        assert page.run("document.querySelectorAll('script, img, b, [onclick]').length") == 0
        assert page.run(f"document.body.textContent.split({HOSTILE!r}).length") > 10


def test_faults_are_seen(browser, axe, tmp_path):
    """The inspection itself finds what it looks for."""
    faulty = tmp_path / "faulty.html"
    faulty.write_text(FAULTY, "utf-8")
    with browser.open(faulty) as page:
        found = inspect(page, "desktop")
        assert {fault: bool(places) for fault, places in found.items()} == dict.fromkeys(
            NOTHING, True
        )
        assert {rule for rule, _ in compute_metrics(page, axe)} >= {"color-contrast", "image-alt"}
        assert page.complaints()
        assert page.requests() == [faulty.as_uri(), "http://127.0.0.1:9/"]
