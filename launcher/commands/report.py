"""`embedtune report`: the report of a finished run, and conditions that it must meet."""

import click

from launcher.commands.options import account_options, output_option, print_report, require_option


@click.command()
@click.argument("name", required=False)
@output_option
@click.option("--open", "open_it", is_flag=True, help="Also open the page in the browser.")
@require_option
@account_options
def report(name: str | None, output: str, requirements: tuple[str, ...], *, open_it: bool) -> None:
    """Show the report of the run NAME (or s3://…/NAME), or of the latest finished run.

    From S3, only the report is fetched, into runs/NAME/report.
    """
    from launcher.lookup import find_result
    from launcher.runs.requirements import parse_requirement, require
    from launcher.tables import PAGE

    required = list(map(parse_requirement, requirements))
    run = find_result(output, name)
    print_report(run)
    if open_it:
        click.launch(str(run.folder / "report" / PAGE))
    require(run.report(), required)
