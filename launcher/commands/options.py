"""Options and output that several commands share."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from launcher.runs.run import Run

NAME_HELP = "The default NAME is the latest run."
OUTPUT_SOURCES = "[env: EMBEDTUNE_OUTPUT; default: runs]"


def _output_or_default(_: click.Context, __: click.Parameter, given: str | None) -> str:
    from launcher.plan.settings import default_output

    return given or default_output()


output_option = click.option(
    "--output",
    callback=_output_or_default,
    help=f"Where the runs are: a folder or s3://bucket/prefix.  {OUTPUT_SOURCES}",
)


require_option = click.option(
    "--require",
    "requirements",
    multiple=True,
    metavar="CONDITION",
    help="Such as improved, 'lift>0', 'retention>=0.99', 'probe>=-0.02' or 'ndcg@10>=0.8 at 128'; "
    "exits with 9 unless the lower bound meets it.",
)


def print_report(run: "Run") -> None:
    from launcher.tables import report_lines, show

    show(report_lines(run.report(), run.fetch_report()))
