"""Renders report.html, one self-contained page, and report.md; user text is escaped."""

from collections.abc import Mapping

from job.core import formatting
from job.evaluation.metrics import DEPTH
from job.evaluation.quantization import RESCORE_MULTIPLIER
from job.evaluation.results import METRIC, Lift
from job.report.charts import SEGMENTS_DRAWN, draw
from job.report.document import Report
from job.report.templating import render, safe


def to_markdown(report: Report) -> str:
    """Render Markdown for GitHub and for plain terminals."""
    rescored = RESCORE_MULTIPLIER * DEPTH
    text = render("report.md", report=report, metric=METRIC, rescored=rescored)
    return formatting.escape_keeping_lines(text)


def to_html(report: Report) -> str:
    precisions = [name for name, _ in next(iter(report.comparison.values())).items()]
    vectors = {dimension: found.float32 for dimension, found in report.comparison.items()}
    fused, main, swap = report.fusion.comparison, report.main, report.swap
    differences: dict[str, Mapping[str, Lift]] = {
        "Tuned minus BM25": {d: found.against_bm25 for d, found in vectors.items()},
        "Fused with BM25: tuned minus base": fused,
        "Tuned: fused with BM25 minus alone": {d: f.against_alone for d, f in fused.items()},
    }
    chosen: dict[str, Lift] = {title: found[main] for title, found in differences.items()}
    if swap and report.fusion.swap:
        chosen = {
            "Recommended vectors minus BM25": swap.against_bm25,
            f"Fused with BM25: recommended minus base at {swap.full_dimension}": report.fusion.swap,
            "Recommended: fused with BM25 minus alone": report.fusion.swap.against_alone,
        }
    return render(
        "report.html",
        report=report,
        against_full_base={d: found.against_full_base for d, found in vectors.items()},
        differences=differences,
        chosen_differences=chosen,
        segments_drawn=SEGMENTS_DRAWN,
        plot=lambda *names: safe(draw(report, *names)),
        # Rescoring changes the search, not the index size.
        stored=[name for name in precisions if not name.endswith(formatting.RESCORED)],
    )
