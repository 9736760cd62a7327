"""Renders the templates of pages and Markdown, with the same words for numbers in all of them."""

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from job.core import formatting

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
# The verdict's first words, which say whether it helped, are set apart.
VERDICT = re.compile(r"^(Improved\.|Not improved:)")
APART = r'<span class="verdict">\g<0></span>'
QUOTED = re.compile(r"`([^`]+)`")
# Whatever Markdown or HTML could take for its own.
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$@])")


def render(template: str, **values: object) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    is_html = template.endswith(".html")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=_finalize if is_html else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not is_html,
    )
    environment.filters |= vars(formatting) | {
        "p": formatting.format_p,
        # `2026-11-23T18:40:12Z`, for people.
        "moment": lambda finished: f"{finished[:16].replace('T', ' ')} UTC",
        "json": partial(json.dumps, indent=2, ensure_ascii=False),
        "prose": _prose,
        "headline": lambda text: safe(VERDICT.sub(APART, str(_prose(text)))),
        "lower_first": lambda text: text[:1].lower() + text[1:],
        "plain": plain,
        "code": code,
    }
    return environment.get_template(template).render(values)


def safe(html: str) -> "Markup":
    """Mark HTML of which all that is a stranger's was escaped before."""
    from markupsafe import Markup

    return Markup(html)  # noqa: S704


def _finalize(value: object) -> object:
    """Make every text that a page writes visible; what is HTML already was made so before."""
    from markupsafe import Markup

    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return formatting.visible(str(value)) if is_text else value


def _prose(sentence: str) -> "Markup":
    """Escape a sentence, and set what stands in backticks as code."""
    from markupsafe import escape

    return safe(QUOTED.sub(r"<code>\1</code>", str(escape(formatting.visible(sentence)))))


def plain(text: str) -> str:
    """Write a stranger's text as one line of Markdown that shows it as it is."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Set a text as Markdown's code; it may be a stranger's, and must not end the code itself."""
    return f"`{formatting.escape_to_one_line(text).replace('`', chr(39))}`"
