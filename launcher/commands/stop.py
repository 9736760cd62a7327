"""`embedtune stop`: a job writes a checkpoint and ends."""

import click

from launcher.commands.options import NAME_HELP, account_options, output_option


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
@click.option("--pool", is_flag=True, help="End the machines that --keep-alive keeps, instead.")
@account_options
def stop(name: str | None, output: str, *, pool: bool) -> None:
    """Stop the run NAME after it writes a checkpoint; launch it again to resume."""
    from launcher.lookup import end_pool, find_job, job_of
    from launcher.runs.run import Run

    run = find_job(output, name)
    if pool:
        click.echo(end_pool(run), err=True)
        return
    job = job_of(run)
    if job is None or run.state != "running":
        click.echo(f"The run {run.name} is {run.state}; there is nothing to stop.", err=True)
        return
    job.stop()
    # Read the state again: the run may have finished before it could be stopped.
    click.echo(f"The run {run.name} is {Run(run.folder, run.published).state}.", err=True)
