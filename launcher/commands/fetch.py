"""`embedtune fetch`: a run's results, verified against its manifest."""

from pathlib import Path

import click

from launcher.commands.options import account_options, output_option


@click.command()
@click.argument("name")
@output_option
@click.option("--model", "with_model", is_flag=True, help="Also fetch the model and its exports.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to fetch into.  [default: runs/NAME]",
)
@account_options
def fetch(name: str, output: str, folder: Path | None, *, with_model: bool) -> None:
    """Fetch the results of the run NAME (or s3://…/NAME), verified against its manifest."""
    from launcher.lookup import find_result
    from launcher.runs.run import fetch_results

    run = find_result(output, name)
    names = fetch_results(run, folder or run.folder, with_model=with_model)
    click.echo(f"{len(names)} files in {folder or run.folder}, verified against the manifest")
