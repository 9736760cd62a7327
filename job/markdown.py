"""report.json as Markdown: for GitHub and for a terminal without colours."""

from job.precision import RESCORE_MULTIPLIER
from job.ranking import DEPTH
from job.report_document import Report
from job.report_scores import METRIC
from job.templating import render
from job.wording import on_its_lines


def to_markdown(report: Report) -> str:
    rescored = RESCORE_MULTIPLIER * DEPTH
    return on_its_lines(render("report.md", report=report, metric=METRIC, rescored=rescored))
