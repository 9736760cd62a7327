"""report.html: every number is the report's, every text is only text, and nothing is fetched."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from made_report import DIMENSIONS, PRECISIONS, made_report

from job.page import to_html

VOID = {"meta", "link", "br", "img"}
HOSTILE = (
    "</svg></title><script>alert(1)</script>{{ 7*7 }}{% raw %}\" onload='x' $a$ & \u202eoclock"
)
# Names that the page looks things up by; strangers do not write them.
NAMES = ("metric", "precision", "stored_as", "finished")


class Page(HTMLParser):
    """What a browser would make of a page; refuses one whose elements are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.text, self.tables, self.headings = "", {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append([tag, ""])

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " " if tag == "dt" else ""
        if tag == "table":
            self.tables.setdefault(self.caption, self.rows)

    def handle_data(self, data):
        self.text += data
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1][1] += data

    def values(self, name):
        return [found[name] for found in self.attributes if name in found]


@pytest.fixture(scope="module")
def report():
    return made_report()


@pytest.fixture(scope="module")
def html(report):
    return to_html(report)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def body(page, caption):
    return [[cell.strip() for cell in row] for row in page.tables[caption] if row][1:]


def compared(found):
    low, high = found["ci"]
    p = "p < 0.001" if found["p_value"] < 0.001 else f"p = {found['p_value']:.3f}"
    counts = f"{found['wins']} / {found['ties']} / {found['losses']}"
    return [f"{found['lift']:+.3f}", f"[{low:+.3f}, {high:+.3f}]", p, counts]


def at(report, model, dimension, precision="float32"):
    return f"{report['scores'][model][dimension][precision]['ndcg@10']:.3f}"


def test_the_scores_are_the_reports(page, report):
    """Base, tuned, lift and what is kept, at every dimension."""
    assert body(page, "nDCG@10 of float32 vectors, base and tuned") == [
        [
            dimension,
            at(report, "base", dimension),
            at(report, "tuned", dimension),
            *compared(found["float32"]),
            f"{found['float32']['retention']['share']:.1%}",
        ]
        for dimension, found in report["comparison"].items()
    ]
    assert body(page, "Tuned at each dimension minus base at 768 dimensions, nDCG@10") == [
        [dimension, *compared(found["float32"]["against_full_base"])]
        for dimension, found in report["comparison"].items()
    ]


def test_every_metric_is_the_reports(page, report):
    ways = [report["scores"]["bm25"]]
    ways += [report["scores"][model]["128"]["float32"] for model in ("base", "tuned")]
    ways += [report["fusion"]["scores"][model]["128"] for model in ("base", "tuned")]
    assert body(page, "Every metric at 128 dimensions") == [
        [name, *(f"{way[name]:.3f}" for way in ways)] for name in ways[0]
    ]


def test_every_point_stands_in_a_table(page, report):
    """Each dimension and precision, with its intervals and what there is to remark on it."""
    on_frontier = {(p["dimension"], p["precision"]) for p in report["pareto"]}
    expected = []
    for dimension in DIMENSIONS:
        for precision in PRECISIONS:
            found = report["comparison"][str(dimension)][precision]
            remarks = ["recommended"] * ((dimension, precision) == (128, "int8_rescored"))
            remarks += ["frontier"] * ((dimension, precision) in on_frontier)
            (low, high), (least, most) = found["score_ci"], found["retention"]["ci"]
            expected.append(
                [
                    str(dimension),
                    precision.replace("_", ", "),
                    at(report, "tuned", str(dimension), precision),
                    f"[{low:.3f}, {high:.3f}]",
                    f"{found['retention']['share']:.1%}",
                    f"[{least:.1%}, {most:.1%}]",
                    str(found["bytes_per_vector"]),
                    ", ".join(remarks),
                ]
            )
    assert body(page, "nDCG@10 of the tuned model by dimension and precision") == expected


def test_sizes_follow_from_the_bytes(page):
    caption = "Gigabytes of vectors, by dimension, precision and number of documents"
    assert body(page, caption)[1:] == [
        [str(d), *(f"{d * bits / 8 * n / 1e9:.2f}" for n in (1e6, 1e7, 1e8) for bits in (32, 8, 1))]
        for d in DIMENSIONS
    ]


def test_all_ways_to_search_are_compared(page, report):
    fusion = report["fusion"]
    assert body(page, "nDCG@10 of five ways to search, by dimension") == [
        [
            d,
            f"{report['scores']['bm25']['ndcg@10']:.3f}",
            at(report, "base", d),
            at(report, "tuned", d),
            *(f"{fusion['scores'][model][d]['ndcg@10']:.3f}" for model in ("base", "tuned")),
        ]
        for d in report["comparison"]
    ]
    assert body(page, "Differences of nDCG@10 at 128 dimensions") == [
        ["Tuned minus BM25", *compared(report["comparison"]["128"]["float32"]["against_bm25"])],
        ["Fused with BM25: tuned minus base", *compared(fusion["comparison"]["128"])],
        [
            "Tuned: fused with BM25 minus alone",
            *compared(fusion["comparison"]["128"]["against_alone"]),
        ],
    ]


def test_other_tests_are_told_where_there_were_any(page, report):
    """The probe, and the article's rules beside ours."""
    probe, article = report["probe"], report["article"]
    assert body(page, "nDCG@10 on other data") == [
        [
            d,
            *(f"{probe['scores'][model][d]['ndcg@10']:.3f}" for model in ("base", "tuned")),
            *compared(found),
        ]
        for d, found in probe["comparison"].items()
    ]
    assert body(page, "nDCG@10 by our rules and by the article's")[1:] == [
        [
            d,
            at(report, "base", d),
            at(report, "tuned", d),
            *compared(report["comparison"][d]["float32"])[:2],
            *(f"{article['scores'][model][d]['ndcg@10']:.3f}" for model in ("base", "tuned")),
            *compared(found)[:2],
        ]
        for d, found in article["comparison"].items()
    ]


def test_kinds_of_queries_are_the_reports(page, report):
    assert body(page, "Lift by kind of queries, nDCG@10") == [
        [
            kind["by"],
            kind["name"],
            str(kind["queries"]),
            f"{kind['base']:.3f}",
            f"{kind['tuned']:.3f}",
            *compared({**kind, "p_value": 1, "wins": 0, "ties": 0, "losses": 0})[:2],
        ]
        for kind in report["where"]["slices"]
    ]


def test_training_is_told_step_by_step(page, report):
    """What was noted at one step stands in one row."""
    rows = body(page, "Training, step by step")
    assert rows[0] == ["0", "", "0.701", ""]
    assert ["44", "", "0.761", ""] in rows
    assert ["88", f"{1.9 / (1 + 88 / 30):.3f}", "0.789", "1.07e-05"] in rows
    assert len(rows) == 1 + len({entry["step"] for entry in report["training"]["history"]})


def test_the_decision_stands_first(page, report):
    """The verdict is the page's heading; tiles, advice and recommendation follow."""
    first = " ".join(page.text.split("Base against tuned")[0].split())
    for said in (
        report["verdict"]["sentence"],
        "0.701 → 0.781",
        "1.28 GB instead of 30.72 GB as float32 at 768",
        report["recommendation"]["sentence"],
        "Worth a look",
        "Raise model.max_length, or split long documents.",
    ):
        assert said in first


def test_snippets_stand_as_they_are_copied(page, report):
    for code in (*report["usage"].values(), report["repeat"]["command"]):
        assert code in page.text


def test_the_page_is_sound(page):
    """One h1, no level left out, every id once, and every reference has its target."""
    levels = [int(tag[1]) for tag, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = {name for value in page.values("aria-labelledby") for name in value.split()}
    linked = {value[1:] for value in page.values("href") if value.startswith("#")}
    assert named | linked <= set(ids)
    for landmark in ("header", "nav", "main", "footer"):
        assert page.tags.count(landmark) == 1


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


def test_nothing_is_fetched(html, page):
    """No address is loaded: links lead into the page, styles and drawings refer to it alone."""
    assert {value[0] for value in page.values("href")} == {"#", "d"}
    assert not page.values("src")
    assert not page.values("xlink:href")
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg\")", html)
    assert "script" not in page.tags


def test_the_same_report_gives_the_same_page(html, report):
    assert to_html(made_report()) == html
    assert len(html.encode()) < 400_000


def hostile(value, text, key=""):
    if isinstance(value, dict):
        return {name: hostile(inner, text, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, text) for inner in value]
    return f"{value} {text}" if isinstance(value, str) and key not in NAMES else value


def test_a_strangers_text_is_only_text(report, page):
    """It makes no element and no attribute, and it stands there as it was written."""
    shown = Page(to_html(hostile(report, HOSTILE)))
    assert shown.tags == page.tags
    assert [set(found) for found in shown.attributes] == [set(found) for found in page.attributes]
    assert shown.text.count(HOSTILE) > 50


def test_text_that_no_file_could_hold_is_made_visible(report):
    """NUL, escape, a lone surrogate: a sign stands for each, in drawings too."""
    made = to_html(hostile(report, "\x00 \x1b[31m \ud800 \x85"))
    assert made.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", made)
    assert made.count("␀ ␛[31m \ufffd \ufffd") > 50


def test_a_run_that_did_not_help_says_so():
    """Its vectors are not offered, and reasons are."""
    report = made_report()
    report["verdict"] |= {"improved": False, "sentence": "Not improved: it is worse."}
    text = Page(to_html(report)).text
    assert "Not improved: it is worse." in text
    assert "Why it may not have helped" in text
    assert "Vectors, if deployed" in text
    assert "Vectors to deploy" not in text


def test_what_a_run_has_not_is_left_out():
    """One dimension, no training, no lists, nothing asked: short sentences, no empty tables."""
    report = made_report((64,))
    report["where"] |= {name: [] for name in ("gained", "lost", "suspects", "slices", "hubs")}
    report["training"] |= {"best_step": 0, "steps": 0, "history": [], "pairs_per_second": None}
    report["training"] |= {"recipe": {}, "peak_memory": {"host_bytes": 10**9, "device_bytes": None}}
    report["data"]["dropped"] = {}
    report["usage"]["quantized"] = None
    report["cost"] = {"usd": None, "basis": "no `--price-per-hour` was given"}
    page = Page(to_html(report | {"advice": [], "probe": None, "article": None}))
    text = " ".join(page.text.split())
    for said in (
        "No kind has enough queries",
        "No row was dropped.",
        "Chosen checkpoint the base model",
        "Peak memory 1.00 GB of the host Did it forget?",
        "--set evaluation.probe=builtin:aws-docs",
        "unknown (no --price-per-hour was given)",
    ):
        assert said in text
    for title in ("Worth a look", "Smaller vectors", "article's rules", "What auto became"):
        assert title not in text
    assert page.tags.count("figure") == 2
    assert all(len(rows) > 1 for rows in page.tables.values())


def test_only_float32_will_do():
    """A spec may ask for no smaller vectors."""
    report = made_report()
    for dimension, found in report["comparison"].items():
        report["comparison"][dimension] = {"float32": found["float32"]}
    report["pareto"] = report["pareto"][-1:]
    report["recommendation"] |= {"precision": "float32", "stored_as": "float32"}
    rows = body(Page(to_html(report)), "nDCG@10 of the tuned model by dimension and precision")
    assert [row[1] for row in rows] == ["float32"] * len(DIMENSIONS)
