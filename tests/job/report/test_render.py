"""A report as Markdown, model card and page: golden files, and properties of every report."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import reports

from job.report.document import Report
from job.report.render import to_html, to_markdown
from job.report.templating import plain

VOID = {"meta", "link", "br", "img"}
HOSTILE = (
    "</svg></title><script>alert(1)</script>{{ 7*7 }}{% raw %}\" onload='x' $a$ & \u202eoclock"
)


@pytest.mark.parametrize("make", reports.SHOWN)
def test_every_view_equals_its_golden_file(make):
    """After an intended change, `make golden` writes the files again."""
    for path, text in reports.golden_files(make):
        assert text.splitlines() == path.read_text("utf-8").splitlines()


NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)*%?")


def written(value):
    """Yield every number of a document in all formats that a page uses."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from written(key)
            yield from written(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from written(inner)
    elif isinstance(value, str):
        yield from NUMBER.findall(value)
    elif isinstance(value, int | float):
        yield from (f"{value:.3f}", f"{value:+.3f}", f"{value:.1%}", f"{value / 1e9:.2f}")
        # The second is GB for ten million documents.
        yield from (f"{value:.4f}", f"{value:.1f}", f"{value:g}", f"{value / 100:.2f}")
        # MB, of exports.
        yield f"{value / 1e6:.1f}"


@pytest.mark.parametrize("make", [reports.improved, reports.worse, reports.odd, reports.perfect])
def test_every_number_of_the_page_is_in_the_report(make):
    """Except for units and cut-offs, the page shows numbers of report.json only."""
    page = to_markdown(Report.model_validate(make())).partition("## How to use it")[0]
    units = {"95", "100", "80", "10", "60", "200", "0", "2"}
    # Without names that contain numbers.
    shown = NUMBER.findall(re.sub(r"nDCG\\?@10|BM25|float32|int8|\\", "", page))
    assert len(shown) > 100
    assert {*shown} - {*written(make())} - units == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", "two lines"),
        ("<script>alert(1)</script>", r"\<script\>alert\(1\)\</script\>"),
        ("[a](http://b)", r"\[a\]\(http://b\)"),
        ("a | b", r"a \| b"),
        ("# *x* `y`", r"\# \*x\* \`y\`"),
    ],
)
def test_no_text_becomes_markup(text, shown):
    assert plain(text) == shown


# The page


class Page(HTMLParser):
    """Parses a page; fails if elements are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, name):
        return [found[name] for found in self.attributes if name in found]


def html_of(report):
    return to_html(Report.model_validate(report))


@pytest.fixture(scope="module")
def html():
    return html_of(reports.improved())


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_is_well_formed(page, html):
    """One h1, no heading level skipped, ids unique, references with targets, and a small file."""
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = {name for value in page.values("aria-labelledby") for name in value.split()}
    linked = {value[1:] for value in page.values("href") if value.startswith("#")}
    drawn = re.findall(r"url\(#([^)]+)\)", html)
    assert linked > {"main", "decision"}
    assert {*named, *linked, *drawn} <= set(ids)
    for landmark in ("header", "nav", "main", "footer"):
        assert page.tags.count(landmark) == 1
    assert len(html.encode()) < 400_000


def test_every_plot_has_a_name_and_a_table(html):
    figures = re.findall("<figure>.*?</figure>", html, re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        assert re.search(r"<details>\s*<summary>.*<table", figure, re.DOTALL)
        drawings = re.findall(r"<svg .*?</svg>", figure, re.DOTALL)
        assert len(drawings) == 2
        for drawing in drawings:
            assert 'role="img"' in drawing
            assert re.search(r"<title .*?>.+</title><desc .*?>.+</desc>", drawing)


def test_the_page_loads_nothing(html, page):
    """It is self-contained: links, styles and plots refer to the page itself."""
    assert {value[0] for value in page.values("href")} == {"#", "d"}
    assert not page.values("src")
    assert not page.values("xlink:href")
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg\")", html)
    assert "script" not in page.tags


def test_user_text_is_only_text(page):
    """It creates no element and no attribute, and is shown unchanged."""
    shown = Page(html_of(reports.hostile(text=HOSTILE)))
    assert shown.tags == page.tags
    assert [set(found) for found in shown.attributes] == [set(found) for found in page.attributes]
    assert shown.text.count(HOSTILE) > 50


def test_control_characters_are_made_visible():
    """NUL and escape are replaced by symbols, in plots too."""
    made = html_of(reports.hostile(text="\x00 \x1b[31m \x85"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", made)
    assert made.count("␀ ␛[31m \ufffd") > 50
