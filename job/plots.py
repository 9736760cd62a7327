"""What every plot is made with: matplotlib's figures for a page, each in two widths."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from job.svg import INK, RULE, SOFT, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In CSS pixels: for a screen or paper, and for a phone.
WIDTHS = {"wide": 720, "narrow": 340}
STYLE = {
    "svg.fonttype": "none",
    # Ids are hashes: the same report gives the same bytes.
    "svg.hashsalt": "embedtune",
    # A user's `$x$` is no formula.
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": INK,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 1,
    "xtick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.color": RULE,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.labelcolor": SOFT,
    "legend.handletextpad": 0.4,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.columnspacing": 1.4,
}


def in_both_widths(
    draw: Callable[[float], "Figure"], name: str, title: str, description: str
) -> str:
    """Draw for each width an `<svg>` of the class `wide` or `narrow`; the page shows one."""
    from matplotlib import style

    drawn = []
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's font lacks.
        warnings.simplefilter("ignore", UserWarning)
        for variant, width in WIDTHS.items():
            svg = inline(draw(width), f"{name}-{variant}", title, description)
            drawn.append(svg.replace("<svg ", f'<svg class="plot {variant}" ', 1))
    return "\n".join(drawn)


def canvas(width: float, height: float) -> "Figure":
    """Make a figure of so many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72))


def place(figure: "Figure", box: tuple[float, float, float, float]) -> "Axes":
    """Add axes with margins of so many pixels: left, top, right and bottom."""
    width, height = figure.get_size_inches() * 72
    left, top, right, bottom = box
    axes = figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - top - bottom) / height,
        )
    )
    axes.tick_params(length=0, pad=6)
    return axes


def head(axes: "Axes", text: str) -> None:
    """Name what stands upwards, at the figure's left edge."""
    axes.set_title(text, loc="left", color=SOFT, fontsize=12, x=_left_edge(axes), pad=14)


def score_axis(axes: "Axes") -> None:
    """Show at least a tenth, so that nothing looks steeper than it is; nothing is above 1."""
    low, high = axes.dataLim.intervaly
    spare = max(0.1 - (high - low), 0.12 * (high - low)) / 2
    limits = (max(low - spare, -0.01), min(high + spare, 1.01))
    axes.set_ylim(limits)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1])
    axes.set_ylim(limits)


def legend_of(axes: "Axes", handles: Sequence[Any], *, columns: int, above: float) -> None:
    """Put a legend `above` pixels over the axes, at the figure's left edge."""
    corner = (_left_edge(axes), 1 + above / axes.bbox.height)
    axes.legend(handles=handles, loc="lower left", ncols=columns, bbox_to_anchor=corner)


def _left_edge(axes: "Axes") -> float:
    """Return where the figure begins, as a share of the axes' width."""
    position = axes.get_position()
    return -float(position.x0 / position.width)
