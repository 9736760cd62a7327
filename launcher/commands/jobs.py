"""`embedtune status`, `logs`, `stop`: work for any job, even if its launcher was killed."""

import sys

import click

from launcher.commands.options import output_option

NAME_HELP = "The default NAME is the latest run."


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
def status(name: str | None, output: str) -> None:
    """Show the state of the run NAME."""
    from launcher.lookup import find_job
    from launcher.tables import show, status_lines

    show(status_lines(find_job(output, name)))


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Follow until the job ends; exit with its code.",
)
def logs(name: str | None, output: str, *, follow: bool) -> None:
    """Print the log of the run NAME; Ctrl-C does not stop the job."""
    from launcher.lookup import find_job, job_of, print_log
    from launcher.lookup import follow as follow_to_end

    run = find_job(output, name)
    job = job_of(run)
    if follow and job and run.state == "running":
        sys.exit(follow_to_end(run, job, sys.stdout, stop_on_interrupt=False))
    print_log(run)
    if follow:
        sys.exit((run.receipt or {}).get("exit_code", 0))


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
def stop(name: str | None, output: str) -> None:
    """Stop the run NAME after it writes a checkpoint; launch it again to resume."""
    from launcher.lookup import find_job, job_of
    from launcher.runs.runs import Run

    run = find_job(output, name)
    job = job_of(run)
    if job is None or run.state != "running":
        click.echo(f"The run {run.name} is {run.state}; there is nothing to stop.", err=True)
        return
    job.stop()
    # Read the state again: the run may have finished before it could be stopped.
    click.echo(f"The run {run.name} is {Run(run.folder, run.published).state}.", err=True)
