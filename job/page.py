"""report.html: one page that needs nothing else; all of its texts may be a stranger's."""

from job import wording
from job.report_document import Report
from job.report_plots import KINDS_DRAWN, draw
from job.templating import render, safe


def to_html(report: Report) -> str:
    precisions = [name for name, _ in next(iter(report.comparison.values())).items()]
    return render(
        "report.html",
        report=report,
        spoken=wording.spoken,
        kinds_drawn=KINDS_DRAWN,
        plot=lambda *words: safe(draw(report, *words)),
        # How vectors are searched takes no space.
        stored=[name for name in precisions if not name.endswith(wording.RESCORED)],
    )
