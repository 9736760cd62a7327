"""Matplotlib's SVG, fit to stand in a page: the page's colours and font, ids of its own, a name."""

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
# Colours to draw with; each becomes the page's variable, light or dark.
INK, SOFT, RULE, PAPER = "#010101", "#010102", "#010103", "#010104"
BASE, TUNED = "#010105", "#010106"
VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    BASE: "var(--base)",
    TUNED: "var(--tuned)",
}
COLOUR = re.compile("|".join(VARIABLES))
# The page's font, not the one that was measured with.
FONT = re.compile(r"font-family: [^;]*(?:; |$)")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
# What XML or a reader's eye does not take: written as a sign for it.
SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    **dict.fromkeys((*range(128, 160), *range(55296, 57344), 65534, 65535), "�"),
    ord("\t"): "\t",
    ord("\n"): "\n",
    ord("\r"): " ",
    0x7F: "\u2421",
}


def visible(text: str) -> str:
    """Replace control characters, which have no form of their own and which XML forbids."""
    return text.translate(SIGNS)


def inline(figure: "Figure", name: str, title: str, description: str) -> str:
    """Write a figure as an `<svg>` element; `name` begins its ids, which a page has only once."""
    root = _draw(figure)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    _rename(root, name)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", FONT.sub("", COLOUR.sub(_variable, element.get("style", ""))))
    _describe(root, name, title, description)
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def _draw(figure: "Figure") -> ET.Element:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    # Our own drawing, whose texts matplotlib escaped: no entities of a stranger.
    return ET.fromstring(drawn.getvalue())  # noqa: S314


def _rename(root: ET.Element, name: str) -> None:
    """Give the ids that are referred to a prefix, and drop the others."""
    referred = set(_references(root))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in referred:
            element.set("id", f"{name}-{own}")
        if LINK in element.attrib:
            element.set("href", f"#{name}-{element.attrib.pop(LINK)[1:]}")
        for key, value in element.attrib.items():
            element.set(key, REFERENCE.sub(rf"url(#{name}-\1)", value))


def _references(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        if LINK in element.attrib:
            yield element.attrib[LINK][1:]
        for value in element.attrib.values():
            yield from REFERENCE.findall(value)


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


def _variable(found: re.Match[str]) -> str:
    return VARIABLES[found[0]]
