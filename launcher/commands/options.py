"""Options and output that several commands share."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from launcher.runs.run import Run

NAME_HELP = "The default NAME is the latest run."
VIEW_OPTIONS = {
    "plain": "Show log lines instead of a drawn view, as in a pipe, in CI and with NO_COLOR.",
    "quiet": "Show only the result, and errors.",
    "verbose": "Also show the latest log lines, below the view.",
}
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


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a job is shown; the command gets them as `style`."""
    for name, text in reversed(VIEW_OPTIONS.items()):
        names = [f"--{name}", *(["-v"] if name == "verbose" else [])]
        option = click.option(*names, "style", flag_value=name, default=None, help=text)
        command = option(command)
    return command


def print_report(run: "Run") -> None:
    """Print a report: on a terminal the decision first, in a pipe every sentence."""
    from launcher.tables import decision_lines, report_lines, show

    lines = decision_lines if sys.stdout.isatty() else report_lines
    show(lines(run.report(), run.fetch_report()))
