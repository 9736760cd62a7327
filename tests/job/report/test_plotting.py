"""The plots show the report's numbers, and use the page's colors and fonts."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from reports import improved, perfect

from job.report.charts import PLOTS, SEGMENTS_DRAWN, draw
from job.report.document import Report
from job.report.plotting import VARIABLES

WIDE = 720


def made(**changes):
    return Report.model_validate(improved(**changes))


@pytest.fixture(scope="module")
def report():
    return made()


def drawings(report, name):
    found = draw(report, name, "Title", "Description")
    return re.findall("<svg.*?</svg>", found, re.DOTALL)


def words(drawing):
    return [
        "".join(text.itertext()) for text in ET.fromstring(drawing).iter() if "text" in text.tag
    ]


def points(axes):
    """Return the single points as x and y."""
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }


def bars(axes):
    """Return the ends of each interval."""
    ends = [np.asarray(path.vertices) for c in axes.collections for path in c.get_paths()]
    return [tuple(map(tuple, found)) for found in ends]


def test_the_frontier_is_drawn_from_the_reports_points(report):
    """Steps join its points, each with its interval; the ring has a label."""
    (axes,) = PLOTS["pareto"](report, WIDE).axes
    expected = [(p.bytes_per_vector, p.ndcg) for p in report.pareto]
    steps = next(line for line in axes.lines if len(line.get_xdata()) > 1)
    assert list(zip(*steps.get_data(), strict=True)) == expected
    assert set(expected) <= points(axes)
    heights = {(low[1], high[1]) for low, high in bars(axes)}
    intervals = [found.score_ci for by in report.comparison.values() for _, found in by.items()]
    assert {*intervals} <= heights
    ring = next(line for line in axes.lines if line.get_markersize() == 17)
    score = report.ndcg("tuned", "32", "int8_rescored")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (32, score)
    assert all("32, int8, rescored" in words(drawing) for drawing in drawings(report, "pareto"))


def test_labels_that_would_overlap_are_left_out(report):
    every = [
        report.pareto[0].model_dump()
        | {"dimension": int(d), "precision": precision, "bytes_per_vector": found.bytes_per_vector}
        for d, by in report.comparison.items()
        for precision, found in by.items()
    ]
    every.sort(key=lambda point: point["bytes_per_vector"])
    (axes,) = PLOTS["pareto"](made(pareto=every), 340).axes
    names = [text.get_text() for text in axes.texts]
    assert {"16", "64"} <= {*names}
    assert len(names) < len(every)


def test_five_search_methods_are_drawn(report):
    (axes,) = PLOTS["against"](report, WIDE).axes
    fused, small_to_large = report.fusion.scores, ["16", "32", "64"]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "base": [report.ndcg("base", d) for d in small_to_large],
        "tuned": [report.ndcg("tuned", d) for d in small_to_large],
        "BM25 + base": [fused.base[d]["ndcg@10"] for d in small_to_large],
        "BM25 + tuned": [fused.tuned[d]["ndcg@10"] for d in small_to_large],
        "BM25": [report.scores.bm25["ndcg@10"]] * 2,
    }


def test_each_query_segment_has_a_bar(report):
    """With very many segments, only the first are drawn."""
    segments = report.error_analysis.segments
    (axes,) = PLOTS["segments"](report, WIDE).axes
    assert [(left[0], right[0]) for left, right in bars(axes)] == [found.ci for found in segments]
    assert {x for x, _ in points(axes)} == {found.lift for found in segments}
    many = made(error_analysis__segments=improved()["error_analysis"]["segments"] * 20)
    assert len(bars(PLOTS["segments"](many, WIDE).axes[0])) == SEGMENTS_DRAWN


def test_training_is_drawn_from_the_base_model_on(report):
    """Three curves, each with a mark at the best checkpoint."""
    history, key = report.training.history, "dim_32_cosine_ndcg@10"
    loss, validation, rate = PLOTS["training"](report, WIDE).axes
    assert list(loss.lines[0].get_ydata()) == [e["loss"] for e in history if "loss" in e]
    scores = [e[key] for e in history if key in e]
    assert list(validation.lines[0].get_ydata()) == [report.training.base_validation, *scores]
    assert list(validation.lines[0].get_xdata()) == [0, 10, 20, 30, 40]
    assert list(rate.lines[0].get_ydata()) == [
        e["learning_rate"] for e in history if "learning_rate" in e
    ]
    assert [list(axes.lines[1].get_xdata()) for axes in (loss, validation, rate)] == [[40, 40]] * 3


@pytest.mark.parametrize("noted", ["loss", "dim_32_cosine_ndcg@10"])
def test_a_training_that_ended_early_is_drawn(noted):
    """Before the first validation, or before the first logged loss."""
    assert drawings(made(training__history=[{"step": 1, "epoch": 0.1, noted: 0.5}]), "training")


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_uses_the_pages_colors_and_font(report, name):
    """It has no color, font or style sheet, so that light and dark mode apply to it."""
    for drawing in drawings(report, name):
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            *VARIABLES.values(),
            "none",
        }
        assert "font-family" not in drawing
        assert "<style" not in drawing
        assert "<metadata" not in drawing


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x^2$ {{ 1 }}", "$x^2$ {{ 1 }}"),
        ("</svg><script>", "</svg><script>"),
        ("a\x00b\x1b\x85", "a␀b␛\ufffd"),
        ("一二三四五六七八九十一二三四五六七", "一二三四五六七八九十一二三四五…"),
        ("two\n lines", "two lines"),
        ("", ""),
    ],
)
def test_a_segments_name_is_drawn_as_text(name, shown):
    """No formula, no element, no control characters, and shortened to the available width."""
    segments = improved()["error_analysis"]["segments"]
    report = made(error_analysis__segments=[segments[0] | {"name": name}, *segments[1:]])
    assert all(shown in words(drawing) or not shown for drawing in drawings(report, "segments"))


def test_the_score_axis_ends_at_one():
    """Even if all scores are perfect, the axis spans a tenth."""
    (axes,) = PLOTS["pareto"](Report.model_validate(perfect()), WIDE).axes
    low, high = axes.get_ylim()
    assert (round(low, 3), high) == (0.95, 1.01)
    assert max(axes.get_yticks()) <= 1
