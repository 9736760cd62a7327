"""`embedtune status`, `logs`, `stop`: of a job, whatever became of its launcher."""

import sys

import click

from launcher.commands.options import output_option

NAME_HELP = "NAME is the latest run unless given."


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
def status(name: str | None, output: str) -> None:
    """Show how far the run NAME came."""
    from rich.console import Console

    from launcher.jobs import find_job
    from launcher.show import status_table

    Console(highlight=False).print(status_table(find_job(output, name)))


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
@click.option("-f", "--follow", is_flag=True, help="Until it ends; exits with the job's code.")
def logs(name: str | None, output: str, *, follow: bool) -> None:
    """Print the log of the run NAME; Ctrl-C leaves the job running."""
    from launcher.backends import load_backend
    from launcher.jobs import find_job, print_log

    run = find_job(output, name)
    if follow and run.state == "running" and run.launch:
        sys.exit(load_backend(run.launch["backend"]).follow(run))
    print_log(run)
    if follow:
        sys.exit((run.receipt or {}).get("exit_code", 0))


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
def stop(name: str | None, output: str) -> None:
    """Ask the job of the run NAME to write a checkpoint and end; launching it again resumes it."""
    from launcher.backends import load_backend
    from launcher.jobs import find_job
    from launcher.runs import Run

    run = find_job(output, name)
    if run.state != "running" or run.launch is None:
        click.echo(f"The run {run.name} is {run.state}; there is nothing to stop.", err=True)
        return
    load_backend(run.launch["backend"]).stop(run)
    # As it is now: it may have finished before it could be stopped.
    click.echo(f"The run {run.name} is {Run(run.folder, run.published).state}.", err=True)
