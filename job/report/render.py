"""report.html, one page that needs nothing else, and report.md; a stranger's texts stay texts."""

from job.core import formatting
from job.evaluation.metrics import DEPTH
from job.evaluation.quantization import RESCORE_MULTIPLIER
from job.evaluation.results import METRIC
from job.report.charts import KINDS_DRAWN, draw
from job.report.document import Report
from job.report.templating import render, safe


def to_markdown(report: Report) -> str:
    """Write it for GitHub and for a terminal without colours."""
    rescored = RESCORE_MULTIPLIER * DEPTH
    text = render("report.md", report=report, metric=METRIC, rescored=rescored)
    return formatting.escape_keeping_lines(text)


def to_html(report: Report) -> str:
    precisions = [name for name, _ in next(iter(report.comparison.values())).items()]
    vectors = {dimension: found.float32 for dimension, found in report.comparison.items()}
    fused = report.fusion.comparison
    return render(
        "report.html",
        report=report,
        against_full_base={d: found.against_full_base for d, found in vectors.items()},
        differences={
            "Tuned minus BM25": {d: found.against_bm25 for d, found in vectors.items()},
            "Fused with BM25: tuned minus base": fused,
            "Tuned: fused with BM25 minus alone": {d: f.against_alone for d, f in fused.items()},
        },
        kinds_drawn=KINDS_DRAWN,
        plot=lambda *words: safe(draw(report, *words)),
        # How vectors are searched takes no space.
        stored=[name for name in precisions if not name.endswith(formatting.RESCORED)],
    )
