"""report.html: one page that needs nothing else, rendered from report.json alone."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job import wording
from job.report_plots import KINDS_DRAWN, draw
from job.svg import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
VERDICT = re.compile(r"^(Improved\.|Not improved:)")
QUOTED = re.compile(r"`([^`]+)`")


def to_html(report: Mapping[str, Any]) -> str:
    """Render a report for people; all of its texts may be a stranger's."""
    return render(
        "report.html",
        report=report,
        spoken=wording.spoken,
        kinds_drawn=KINDS_DRAWN,
        plot=lambda *words: _safe(draw(report, *words)),
        stored=_stored(report),
        remarks_on=partial(_remarks, report),
    )


def render(template: str, **values: object) -> str:
    return _environment().get_template(template).render(values)


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": wording.score,
        "change": wording.change,
        "interval": wording.interval,
        "share": wording.share,
        "share_interval": wording.share_interval,
        "p": wording.format_p,
        "usd": wording.usd,
        "spoken": wording.spoken,
        "score_interval": _score_interval,
        "gigabytes": wording.gigabytes,
        "one_decimal": "{:.1f}".format,
        "rate": "{:.2e}".format,
        "moment": _moment,
        "json": partial(json.dumps, indent=2, ensure_ascii=False),
        "prose": _prose,
        "headline": _headline,
        "lower_first": lambda text: text[:1].lower() + text[1:],
    }
    return environment


def _safe(html: str) -> "Markup":
    from markupsafe import Markup

    # Only of what was escaped before.
    return Markup(html)  # noqa: S704


def _finalize(value: object) -> object:
    """Make every text that a template writes visible; what is HTML already was made so before."""
    from markupsafe import Markup

    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return visible(str(value)) if is_text else value


def _prose(sentence: str) -> "Markup":
    """Escape a sentence, and set what stands in backticks as code."""
    from markupsafe import escape

    return _safe(QUOTED.sub(r"<code>\1</code>", str(escape(visible(sentence)))))


def _headline(sentence: str) -> "Markup":
    """Set the verdict's first words apart, which say whether it helped."""
    return _safe(VERDICT.sub(r'<span class="verdict">\g<0></span>', str(_prose(sentence))))


def _stored(report: Mapping[str, Any]) -> list[str]:
    """Name what can be stored; how it is searched takes no space."""
    precisions = next(iter(report["comparison"].values()))
    return [precision for precision in precisions if not precision.endswith(wording.RESCORED)]


def _remarks(report: Mapping[str, Any], dimension: str, precision: str) -> list[str]:
    advice, here = report["recommendation"], (dimension, precision)
    frontier = {(str(p["dimension"]), p["precision"]) for p in report["pareto"]}
    remarks = ["recommended"] if (str(advice["dimension"]), advice["precision"]) == here else []
    return remarks + (["frontier"] if here in frontier else [])


def _score_interval(ci: Sequence[float]) -> str:
    return f"[{ci[0]:.3f}, {ci[1]:.3f}]"


def _moment(finished: str) -> str:
    """Write `2026-11-23T18:40:12Z` for people."""
    return f"{finished[:16].replace('T', ' ')} UTC"
