"""`embedtune ls`: the list of runs; `launcher.tables` has its columns."""

import click

from launcher.commands.options import account_options, output_option


@click.command()
@output_option
@account_options
def ls(output: str) -> None:
    """List the runs, latest first."""
    from job.core.errors import StorageError
    from launcher.lookup import list_runs
    from launcher.tables import run_lines, show

    listing = list_runs(output)
    lines = [f"No answer from {name}: {reason}" for name, reason in listing.failures.items()]
    if listing.runs:
        show(run_lines(listing.runs))
        for line in lines:
            click.echo(line, err=True)
    elif lines:
        raise StorageError(" ".join(lines))
    else:
        click.echo(f"No runs in {output} yet. Start one with: embedtune launch", err=True)
