"""The report's plots, drawn from the numbers in report.json."""

import unicodedata
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from job.core.formatting import precision_label, visible
from job.evaluation.results import METRIC
from job.report import plotting
from job.report.document import Report
from job.report.plotting import BASE, INK, PAPER, SOFT, TUNED, WIDTHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# With more segments a plot is unreadable; the table has all of them.
SEGMENTS_DRAWN = 40
MARKERS = {"float32": "o", "int8": "s", "binary": "^"}
# The background of labels that lines cross.
LABEL_BACKGROUND = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
# In pixels, of a point's label.
LABEL_WIDTH = 24


def draw(report: Report, name: str, title: str, description: str) -> str:
    """Draw one of `PLOTS` in both widths."""
    return plotting.in_both_widths(partial(PLOTS[name], report), name, title, description)


def _is_narrow(width: float) -> bool:
    return width < WIDTHS["wide"]


def _pareto(report: Report, width: float) -> "Figure":
    """Plot nDCG@10 with intervals against bytes per vector; the Pareto frontier as steps."""
    from matplotlib.lines import Line2D

    figure = plotting.canvas(width, 430)
    axes = plotting.add_axes(figure, (44, 88 if _is_narrow(width) else 52, 12, 48))
    frontier = {(point.dimension, point.precision) for point in report.pareto}
    points = [
        (int(dimension), precision, found)
        for dimension, precisions in report.comparison.items()
        for precision, found in precisions.items()
    ]
    # The frontier is drawn over the others.
    for dimension, precision, found in sorted(points, key=lambda point: point[:2] in frontier):
        colour, alpha, size = TUNED, None, float(found.bytes_per_vector)
        if (dimension, precision) not in frontier:
            # Shift points of the same size apart.
            colour, alpha, size = SOFT, 0.4, size * (1.07 if "_" in precision else 0.93)
        axes.vlines(size, *found.score_ci, color=colour, linewidth=1.5, alpha=alpha)
        score = report.ndcg("tuned", str(dimension), precision)
        axes.plot([size], [score], zorder=3, **_marker_style(precision, colour))
    sizes = [point.bytes_per_vector for point in report.pareto]
    scores = [point.ndcg for point in report.pareto]
    axes.plot(sizes, scores, drawstyle="steps-post", color=TUNED, linewidth=1.5)
    _bytes_axis(axes, narrow=_is_narrow(width))
    plotting.score_axis(axes)
    _label_frontier(axes, report)
    _mark_recommended(axes, report)
    plotting.label_y_axis(axes, "nDCG@10")
    names = dict.fromkeys(name for _, name, _ in points)
    marks = [
        Line2D([], [], label=precision_label(name), **_marker_style(name, SOFT)) for name in names
    ]
    plotting.legend_of(axes, marks, columns=2 if _is_narrow(width) else 5, above=36)
    return figure


def _marker_style(precision: str, colour: str) -> dict[str, Any]:
    """Give each precision its marker: hollow for codes alone, filled for rescored codes."""
    kind, _, rescored = precision.partition("_")
    return {
        "marker": MARKERS.get(kind, "D"),
        "markersize": 7,
        "markeredgecolor": colour,
        "markerfacecolor": colour if rescored or kind == "float32" else PAPER,
        "markeredgewidth": 1.5,
        "linestyle": "none",
    }


def _label_frontier(axes: "Axes", report: Report) -> None:
    """Label the frontier's points with their dimension, unless the label before is too near."""
    last = float("-inf")
    for point in report.pareto:
        found = dict(report.comparison[str(point.dimension)].items())[point.precision]
        top = (point.bytes_per_vector, found.score_ci[1])
        across = axes.transData.transform(top)[0]
        if across - last >= LABEL_WIDTH:
            last = across
            name = str(point.dimension)
            axes.annotate(name, top, (0, 9), textcoords="offset points", ha="center")


def _mark_recommended(axes: "Axes", report: Report) -> None:
    """Draw a ring around the recommended point, and its label at the bottom of the plot."""
    chosen = report.recommendation
    size = chosen.bytes_per_vector
    score = report.ndcg("tuned", str(chosen.dimension), chosen.precision)
    bottom = axes.get_ylim()[0]
    axes.vlines(size, bottom, score, color=INK, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.plot([size], [score], "o", markersize=17, fillstyle="none", color=INK, zorder=4)
    is_right = axes.transData.transform((size, 0))[0] > sum(axes.bbox.intervalx) / 2
    axes.annotate(
        f"{chosen.dimension}, {precision_label(chosen.precision)}",
        (size, bottom),
        (-6 if is_right else 6, 8),
        textcoords="offset points",
        ha="right" if is_right else "left",
        fontweight="bold",
        bbox=LABEL_BACKGROUND,
    )


def _bytes_axis(axes: "Axes", *, narrow: bool) -> None:
    low, high = axes.dataLim.intervalx
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.7, high * 1.7)
    ticks = [2**power for power in range(20) if low / 1.5 <= 2**power <= high * 1.5]
    ticks = ticks[:: 2 if narrow and len(ticks) > 5 else 1]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("bytes per vector", labelpad=8)


def _against(report: Report, width: float) -> "Figure":
    """Plot nDCG@10 by dimension: BM25, both models, and both models fused with BM25."""
    figure = plotting.canvas(width, 380)
    axes = plotting.add_axes(figure, (44, 88 if _is_narrow(width) else 52, 12, 48))
    dimensions = list(report.comparison)[::-1]
    positions = range(len(dimensions))
    fused = report.fusion.scores
    alone: dict[str, Any] = {"marker": "o", "linestyle": "-"}
    together: dict[str, Any] = {"marker": "^", "linestyle": "--"}
    base, tuned = {"color": BASE, "markerfacecolor": PAPER}, {"color": TUNED}
    for label, values, style in (
        ("base", [report.ndcg("base", d) for d in dimensions], alone | base),
        ("tuned", [report.ndcg("tuned", d) for d in dimensions], alone | tuned),
        ("BM25 + base", [fused.base[d][METRIC] for d in dimensions], together | base),
        ("BM25 + tuned", [fused.tuned[d][METRIC] for d in dimensions], together | tuned),
    ):
        axes.plot(positions, values, label=label, markersize=7, markeredgewidth=1.5, **style)
    axes.axhline(report.scores.bm25[METRIC], color=INK, linestyle=":", linewidth=1.5, label="BM25")
    plotting.dimension_axis(axes, dimensions, 0.3)
    plotting.legend_of(axes, axes.get_lines(), columns=2 if _is_narrow(width) else 5, above=36)
    return figure


def _segments(report: Report, width: float) -> "Figure":
    """Plot the lift of each segment of queries with its interval, one row each."""
    segments = report.error_analysis.segments[:SEGMENTS_DRAWN]
    row, label = (36, 0) if _is_narrow(width) else (24, 250)
    groups = [(by, list(found)) for by, found in groupby(segments, key=lambda s: s.by)]
    height = row * len(segments) + 34 * len(groups)
    figure = plotting.canvas(width, height + 64)
    axes = plotting.add_axes(figure, (label + 10, 16, 44, 48))
    edge = -(label + 10) / (width - label - 54)
    axes.set_ylim(height, 0)
    write = partial(axes.text, transform=axes.get_yaxis_transform(), bbox=LABEL_BACKGROUND)
    write(1.02, 14, "n", color=SOFT)
    y = 0
    for by, found in groups:
        y += 34
        write(edge, y - 10, _short(by, 32), fontweight="bold")
        for part in found:
            y += row
            write(edge, y - (24 if label == 0 else 8), _short(part.name, 32), color=SOFT)
            write(1.02, y - 8, f"{part.queries}", color=SOFT)
            axes.hlines(y - 12, *part.ci, color=TUNED, linewidth=2)
            axes.plot([part.lift], [y - 12], "o", color=TUNED, markersize=7)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(report.verdict.lift, color=TUNED, linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5 if label == 0 else 9)
    axes.set_xlabel("lift of nDCG@10", labelpad=8)
    return figure


def _short(text: str, columns: int) -> str:
    """Shorten a text to a number of columns; East Asian characters take two."""
    line, width = "", 0
    for character in " ".join(visible(text).split()):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > columns:
            return f"{line[:-1]}…"
        line += character
    return line


def _training(report: Report, width: float) -> "Figure":
    """Plot loss, validation score and learning rate by step; mark the chosen checkpoint."""
    training, validation = report.training, f"dim_{report.main}_cosine_{METRIC}"
    panels = [
        ("loss", "loss", BASE),
        (f"nDCG@10 on validation at {report.main} dimensions", validation, TUNED),
        ("learning rate", "learning_rate", BASE),
    ]
    figure = plotting.canvas(width, 3 * 144 + 44)
    last = max([1, *(entry["step"] for entry in training.history)])
    for row, (title, key, colour) in enumerate(panels):
        axes = plotting.add_axes(figure, (58, 36 + 144 * row, 14, 52 + 144 * (2 - row)))
        start = [(0, training.base_validation)] if key == validation else []
        curve = start + [(e["step"], e[key]) for e in training.history if key in e]
        steps, values = zip(*curve, strict=True) if curve else ((), ())
        axes.plot(steps, values, color=colour, marker="o", markersize=5, linewidth=1.5)
        axes.axvline(training.best_step, color=INK, linewidth=1.5, linestyle=":")
        axes.set_xlim(-0.02 * last, 1.02 * last)
        axes.grid(visible=False, axis="x")
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", integer=True, nbins=5 if _is_narrow(width) else 9)
        axes.tick_params(labelbottom=row == 2)
        plotting.label_y_axis(axes, title)
    axes.set_xlabel("step", labelpad=8)
    # The learning rate's axis: 2.0e-05 is easier to read than 0.00002.
    axes.yaxis.set_major_formatter("{x:.1e}")
    return figure


def _seeds(report: Report, width: float) -> "Figure":
    """Plot the lift of each training as a dot, and below it their mean with its interval."""
    figure = plotting.canvas(width, 150)
    axes = plotting.add_axes(figure, (10, 16, 14, 48))
    found = report.scope.seeds if report.scope else None
    if found is None:
        return figure
    for each in found.seeds:
        is_stored = each.seed == found.chosen
        style: dict[str, Any] = {} if is_stored else {"markerfacecolor": PAPER}
        axes.plot([each.lift], [1], "o", color=TUNED, markersize=8, markeredgewidth=1.5, **style)
    axes.hlines(0, *found.ci, color=TUNED, linewidth=2)
    axes.plot([found.lift], [0], "D", color=TUNED, markersize=8)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("lift of nDCG@10", labelpad=8)
    return figure


PLOTS = {
    "pareto": _pareto,
    "against": _against,
    "segments": _segments,
    "training": _training,
    "seeds": _seeds,
}
