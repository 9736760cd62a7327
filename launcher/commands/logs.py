"""`embedtune logs`: what a job has logged, so far or to its end."""

import sys
from typing import TYPE_CHECKING

import click

from launcher.commands.options import NAME_HELP, account_options, output_option, view_options

if TYPE_CHECKING:
    from launcher.live.view import Style


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Follow until the job ends; exit with its code.",
)
@view_options
@account_options
def logs(name: str | None, output: str, style: "Style | None", *, follow: bool) -> None:
    """Print the log of the run NAME; Ctrl-C does not stop the job."""
    from launcher.lookup import find_job, job_of, print_log
    from launcher.lookup import follow as follow_to_end

    run = find_job(output, name)
    job = job_of(run)
    if follow and job and run.state == "running":
        sys.exit(follow_to_end(run, job, sys.stdout, style or "auto", stop_on_interrupt=False))
    print_log(run)
    if follow:
        # The launcher may still be writing the receipt of a job that has just ended.
        code = job.outcome() if job and not run.receipt else (run.receipt or {}).get("exit_code", 0)
        sys.exit(code)
