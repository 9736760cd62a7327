"""`embedtune ls`: the list of runs; `launcher.tables` has its columns."""

import click

from launcher.commands.options import output_option


@click.command()
@output_option
def ls(output: str) -> None:
    """List the runs, latest first."""
    from launcher.lookup import list_runs
    from launcher.runs.run import preload
    from launcher.tables import run_lines, show

    runs = list_runs(output)
    if runs:
        preload(runs)
        show(run_lines(runs))
    else:
        click.echo(f"No runs in {output} yet. Start one with: embedtune launch", err=True)
