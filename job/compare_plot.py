"""The plot of compare.html: nDCG@10 of each run at each dimension, beside its base model's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from job.compare_page import Group
from job.plots import canvas, head, in_both_widths, legend_of, place, score_axis
from job.report_document import Report
from job.svg import BASE, PAPER, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The page's variables; a seventh run has the first's colour, with another marker.
COLOURS = {f"#01010{digit}": f"var(--run-{number})" for number, digit in enumerate("abcdef", 1)}
MARKERS = "osD^vPX"
BASES = ("--", ":", "-.")
LEGEND_ROW = 18
# Of longer names the middle is left out: names of runs often differ in their end.
NAME_CHARACTERS = 36
# nDCG@10 by dimension.
Curve = Mapping[str, float]


def draw_group(group: Group, name: str, title: str, description: str) -> str:
    drawn = in_both_widths(lambda width: _figure(group, width), name, title, description)
    for colour, variable in COLOURS.items():
        drawn = drawn.replace(colour, variable)
    return drawn


def _figure(group: Group, width: float) -> "Figure":
    bases = base_curves(group)
    above = LEGEND_ROW * (len(bases) + len(group.reports)) + 30
    figure = canvas(width, above + 320)
    axes = place(figure, (44, above, 12, 48))
    positions = {dimension: i for i, dimension in enumerate(group.dimensions[::-1])}
    for number, (label, curve) in enumerate(bases.items()):
        look = {"color": BASE, "markerfacecolor": PAPER, "linestyle": BASES[number % len(BASES)]}
        _draw_curve(axes, {positions[d]: score for d, score in curve.items()}, label, "o", look)
    for number, (run, report) in enumerate(group.reports.items()):
        # Side by side, so that intervals can be told apart.
        shift = 0.5 * ((number + 1) / (len(group.reports) + 1) - 0.5)
        _draw_run(axes, run, report, number, {d: p + shift for d, p in positions.items()})
    axes.set_xticks(list(positions.values()), list(positions))
    axes.set_xlim(-0.5, len(positions) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("dimensions", labelpad=8)
    head(axes, "nDCG@10")
    score_axis(axes)
    legend_of(axes, axes.get_lines(), columns=1, above=26)
    return figure


def base_curves(group: Group) -> dict[str, Curve]:
    """Return the base models' nDCG@10 by dimension: one curve for all that agree."""
    curves: dict[str, dict[str, float]] = {}
    for run, report in group.reports.items():
        own = {dimension: report.ndcg("base", dimension) for dimension in report.comparison}
        agreeing = [c for c in curves.values() if all(c.get(d, own[d]) == own[d] for d in own)]
        if agreeing:
            agreeing[0].update(own)
        else:
            curves[f"base of {run}"] = own
    if len(curves) > 1:
        return dict(curves)
    # Where all have the same one, it needs no name.
    return dict(zip(["base"], curves.values(), strict=True))


def _draw_run(
    axes: "Axes", run: str, report: Report, number: int, positions: Mapping[str, float]
) -> None:
    colour = list(COLOURS)[number % len(COLOURS)]
    curve = {positions[d]: report.ndcg("tuned", d) for d in report.comparison}
    _draw_curve(axes, curve, run, MARKERS[number % len(MARKERS)], {"color": colour})
    for dimension, found in report.comparison.items():
        axes.vlines(positions[dimension], *found.float32.score_ci, color=colour, linewidth=1.5)


def _draw_curve(
    axes: "Axes", curve: Mapping[float, float], label: str, marker: str, look: Mapping[str, Any]
) -> None:
    positions = sorted(curve)
    axes.plot(
        positions,
        [curve[position] for position in positions],
        label=_short(label),
        marker=marker,
        markersize=7,
        markeredgewidth=1.5,
        linewidth=1.5,
        **look,
    )


def _short(name: str) -> str:
    line, half = " ".join(visible(name).split()), NAME_CHARACTERS // 2
    return line if len(line) <= NAME_CHARACTERS else f"{line[:half]}…{line[1 - half :]}"
