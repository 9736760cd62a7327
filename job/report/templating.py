"""Renders the templates for HTML and Markdown, with the same number formats in all of them."""

import json
import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from job.core import formatting
from job.generation.facts import Generation
from job.report import exports

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
# The first words of the verdict, which the page highlights.
VERDICT = re.compile(r"^(Improved[^.:]*[.:]|Not improved:)")
HIGHLIGHTED = r'<span class="verdict">\g<0></span>'
QUOTED = re.compile(r"`([^`]+)`")
# Characters that Markdown or HTML may interpret.
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$@])")


def render(template: str, **values: object) -> str:
    return _environment(is_html=template.endswith(".html")).get_template(template).render(values)


# Compiling the templates takes longer than rendering them.
@cache
def _environment(*, is_html: bool) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=_finalize if is_html else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not is_html,
    )
    environment.globals |= {
        "export_heads": exports.HEADS,
        "export_text": exports.TEXT,
        "export_title": exports.title,
        "export_rows": exports.rows,
        "export_seen": exports.SEEN,
    }
    environment.filters |= vars(formatting) | {
        "p": formatting.format_p,
        # `2026-11-23T18:40:12Z` → `2026-11-23 18:40 UTC`.
        "moment": lambda finished: f"{finished[:16].replace('T', ' ')} UTC",
        "json": partial(json.dumps, indent=2, ensure_ascii=False),
        "prose": _prose,
        "questions_by": questions_by,
        "headline": lambda text: safe(VERDICT.sub(HIGHLIGHTED, str(_prose(text)))),
        "lower_first": lambda text: text[:1].lower() + text[1:],
        "plain": plain,
        "code": code,
    }
    return environment


def questions_by(found: Generation) -> str:
    """Say who wrote the questions, how many were kept, and why the others were not."""
    reasons = ", ".join(f"{why} {formatting.share(part)}" for why, part in found.shares().items())
    price = f", {formatting.usd(found.usd)}" if found.usd else ""
    return (
        f"the language model `{found.llm}` wrote {found.questions} about {found.answers} of "
        f"{found.chunks} chunks of {found.documents} documents; {found.kept} were kept"
        f"{'; rejected: ' * bool(reasons)}{reasons}. It read {found.tokens_read:,} tokens and "
        f"wrote {found.tokens_written:,}{price}."
    )


def safe(html: str) -> "Markup":
    """Mark HTML as safe, in which all user text is already escaped."""
    from markupsafe import Markup

    return Markup(html)  # noqa: S704


def _finalize(value: object) -> object:
    """Make control characters in text visible; existing markup stays as it is."""
    from markupsafe import Markup

    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return formatting.visible(str(value)) if is_text else value


def _prose(sentence: str) -> "Markup":
    """Escape a sentence, and turn text in backticks into `<code>`."""
    from markupsafe import escape

    return safe(QUOTED.sub(r"<code>\1</code>", str(escape(formatting.visible(sentence)))))


def plain(text: str) -> str:
    """Escape user text as one line of Markdown."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Write user text as a Markdown code span, which backticks in the text cannot end."""
    return f"`{formatting.escape_to_one_line(text).replace('`', chr(39))}`"
