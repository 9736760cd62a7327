"""Turns matplotlib figures into `<svg>` elements for a page, in two widths.

They use the page's colors and font, and have unique ids and an accessible name.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from job.core.formatting import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
# Placeholder colors for drawing; each is replaced by a CSS variable of the page, light or dark.
NAMES = ("ink", "soft", "rule", "paper", "base", "tuned", *(f"run-{run}" for run in range(1, 7)))
VARIABLES = {f"#0101{number:02}": f"var(--{name})" for number, name in enumerate(NAMES, 1)}
INK, SOFT, RULE, PAPER, BASE, TUNED, *RUNS = VARIABLES
COLOUR = re.compile("|".join(VARIABLES))
# Removed, so that the page's font is used.
FONT = re.compile(r"font-family: [^;]*(?:; |$)")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
# In CSS pixels: `wide` for screen and paper, `narrow` for phones.
WIDTHS = {"wide": 720, "narrow": 340}
STYLE = {
    "svg.fonttype": "none",
    # Fixed, so that the same report gives the same bytes.
    "svg.hashsalt": "embedtune",
    # Do not parse `$x$` in user text as a formula.
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": INK,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "grid.linewidth": 1,
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), RULE),
    **{f"{part}.labelcolor": SOFT for part in ("axes", "xtick", "ytick", "legend")},
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.columnspacing": 1.4,
}


def in_both_widths(
    draw: Callable[[float], "Figure"], name: str, title: str, description: str
) -> str:
    """Draw one `<svg>` per width, of class `wide` or `narrow`; CSS shows one of them."""
    from matplotlib import style

    drawn = []
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # matplotlib warns of glyphs that its font lacks; the browser has them.
        warnings.simplefilter("ignore", UserWarning)
        for variant, width in WIDTHS.items():
            svg = _inline(draw(width), f"{name}-{variant}", title, description)
            drawn.append(svg.replace("<svg ", f'<svg class="plot {variant}" ', 1))
    return "\n".join(drawn)


def _inline(figure: "Figure", name: str, title: str, description: str) -> str:
    """Return a figure as an `<svg>` element; its ids begin with `name`, so that they are unique."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    # Our own drawing, in which matplotlib has escaped all user text.
    root = ET.fromstring(drawn.getvalue())  # noqa: S314
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    _prefix_ids(root, name)
    for element in root.iter():
        if style := element.get("style"):
            themed = COLOUR.sub(lambda found: VARIABLES[found[0]], style)
            element.set("style", FONT.sub("", themed))
    _describe(root, name, title, description)
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def _prefix_ids(root: ET.Element, name: str) -> None:
    """Prefix the ids that are referenced, and remove the others."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    referenced = {one for value in values for one in REFERENCE.findall(value)}
    referenced |= {element.attrib[LINK][1:] for element in root.iter() if LINK in element.attrib}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in referenced:
            element.set("id", f"{name}-{own}")
        if LINK in element.attrib:
            element.set("href", f"#{name}-{element.attrib.pop(LINK)[1:]}")
        for key, value in element.attrib.items():
            element.set(key, REFERENCE.sub(rf"url(#{name}-\1)", value))


def _describe(root: ET.Element, name: str, title: str, description: str) -> None:
    width, height = root.get("viewBox", "").split()[2:]
    root.attrib = {
        "viewBox": f"0 0 {width} {height}",
        "width": width,
        "height": height,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for position, (part, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{part}", id=f"{name}-{part}")
        element.text = visible(text)
        root.insert(position, element)


def canvas(width: float, height: float) -> "Figure":
    """Create a figure; sizes are in pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72))


def add_axes(figure: "Figure", margins: tuple[float, float, float, float]) -> "Axes":
    """Add axes; margins are in pixels: left, top, right, bottom."""
    width, height = figure.get_size_inches() * 72
    left, top, right, bottom = margins
    size = ((width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes((left / width, bottom / height, *size))
    axes.tick_params(length=0, pad=6)
    return axes


def label_y_axis(axes: "Axes", text: str) -> None:
    """Write the y-axis label above the axes, at the figure's left edge."""
    axes.set_title(text, loc="left", color=SOFT, fontsize=12, x=_left_edge(axes), pad=14)


def score_axis(axes: "Axes") -> None:
    """Limit the y-axis to scores; it spans at least 0.1, so that small differences look small."""
    low, high = axes.dataLim.intervaly
    margin = max(0.1 - (high - low), 0.12 * (high - low)) / 2
    limits = (max(low - margin, -0.01), min(high + margin, 1.01))
    axes.set_ylim(limits)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1])
    axes.set_ylim(limits)


def dimension_axis(axes: "Axes", dimensions: Sequence[str], margin: float) -> None:
    """Put dimensions on the x-axis, with a margin on both sides, and nDCG@10 on the y-axis."""
    axes.set_xticks(range(len(dimensions)), dimensions)
    axes.set_xlim(-margin, len(dimensions) - 1 + margin)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("dimensions", labelpad=8)
    label_y_axis(axes, "nDCG@10")
    score_axis(axes)


def legend_of(axes: "Axes", handles: Sequence[Any], *, columns: int, above: float) -> None:
    """Add a legend at the figure's left edge, `above` pixels above the axes."""
    corner = (_left_edge(axes), 1 + above / axes.bbox.height)
    axes.legend(handles=handles, loc="lower left", ncols=columns, bbox_to_anchor=corner)


def _left_edge(axes: "Axes") -> float:
    """Return the figure's left edge in axes coordinates."""
    position = axes.get_position()
    return -float(position.x0 / position.width)
