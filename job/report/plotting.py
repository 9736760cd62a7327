"""What every plot is made with: matplotlib's figures as `<svg>` elements of a page, in two widths.

They take the page's colours and font, and have ids and a name of their own.
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
# Colours to draw with; each becomes the page's variable, light or dark.
NAMES = ("ink", "soft", "rule", "paper", "base", "tuned", *(f"run-{run}" for run in range(1, 7)))
VARIABLES = {f"#0101{number:02}": f"var(--{name})" for number, name in enumerate(NAMES, 1)}
INK, SOFT, RULE, PAPER, BASE, TUNED, *RUNS = VARIABLES
COLOUR = re.compile("|".join(VARIABLES))
# The page's font, not the one that was measured with.
FONT = re.compile(r"font-family: [^;]*(?:; |$)")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
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
    """Draw for each width an `<svg>` of the class `wide` or `narrow`; the page shows one."""
    from matplotlib import style

    drawn = []
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's font lacks.
        warnings.simplefilter("ignore", UserWarning)
        for variant, width in WIDTHS.items():
            svg = _inline(draw(width), f"{name}-{variant}", title, description)
            drawn.append(svg.replace("<svg ", f'<svg class="plot {variant}" ', 1))
    return "\n".join(drawn)


def _inline(figure: "Figure", name: str, title: str, description: str) -> str:
    """Write a figure as an `<svg>` element; `name` begins its ids, which a page has only once."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    # Our own drawing, whose texts matplotlib escaped: no entities of a stranger.
    root = ET.fromstring(drawn.getvalue())  # noqa: S314
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    _rename(root, name)
    for element in root.iter():
        if style := element.get("style"):
            painted = COLOUR.sub(lambda found: VARIABLES[found[0]], style)
            element.set("style", FONT.sub("", painted))
    _describe(root, name, title, description)
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def _rename(root: ET.Element, name: str) -> None:
    """Give the ids that are referred to a prefix, and drop the others."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    referred = {one for value in values for one in REFERENCE.findall(value)}
    referred |= {element.attrib[LINK][1:] for element in root.iter() if LINK in element.attrib}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in referred:
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
    """Make a figure of so many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72))


def place(figure: "Figure", box: tuple[float, float, float, float]) -> "Axes":
    """Add axes with margins of so many pixels: left, top, right and bottom."""
    width, height = figure.get_size_inches() * 72
    left, top, right, bottom = box
    size = ((width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes((left / width, bottom / height, *size))
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


def dimension_axis(axes: "Axes", dimensions: Sequence[str], spare: float) -> None:
    """Name dimensions below the axes, with some room on both sides; scores stand upwards."""
    axes.set_xticks(range(len(dimensions)), dimensions)
    axes.set_xlim(-spare, len(dimensions) - 1 + spare)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("dimensions", labelpad=8)
    head(axes, "nDCG@10")
    score_axis(axes)


def legend_of(axes: "Axes", handles: Sequence[Any], *, columns: int, above: float) -> None:
    """Put a legend `above` pixels over the axes, at the figure's left edge."""
    corner = (_left_edge(axes), 1 + above / axes.bbox.height)
    axes.legend(handles=handles, loc="lower left", ncols=columns, bbox_to_anchor=corner)


def _left_edge(axes: "Axes") -> float:
    """Return where the figure begins, as a share of the axes' width."""
    position = axes.get_position()
    return -float(position.x0 / position.width)
