"""`embedtune status`: the state of a run, even if its launcher was killed."""

import click

from launcher.commands.options import NAME_HELP, account_options, output_option


@click.command(epilog=NAME_HELP)
@click.argument("name", required=False)
@output_option
@account_options
def status(name: str | None, output: str) -> None:
    """Show the state of the run NAME."""
    from launcher.lookup import find_job
    from launcher.tables import show, status_lines

    show(status_lines(find_job(output, name)))
