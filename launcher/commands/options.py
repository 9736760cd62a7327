"""Options and output that several commands share."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from launcher.commands.machine import machine_options

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


def account_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--profile` and `--region`; they apply to all that the command asks of AWS."""

    @wraps(command)
    def chosen(profile: str | None, region: str | None, **options: Any) -> None:  # noqa: ANN401
        from launcher.aws.sessions import choose_account

        choose_account(profile, region)
        command(**options)

    add: Callable[[Any], Callable[..., Any]] = machine_options("profile", "region")
    return add(chosen)


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
    from launcher.export_tables import export_tables
    from launcher.tables import decision_lines, report_lines, show

    lines = decision_lines if sys.stdout.isatty() else report_lines
    report = run.report()
    show([*lines(report, run.fetch_report()), *export_tables(report)])
