"""`embedtune compare`: runs side by side, as tables and as a page."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from job.core.errors import DataError
from launcher.commands.options import output_option

if TYPE_CHECKING:
    from job.report.compare_runs import Group


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME NAME…")
@output_option
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    default="compare.html",
    show_default=True,
    help="Path of the page with plots.",
)
@click.option("--open", "open_it", is_flag=True, help="Also open the page in the browser.")
def compare(names: tuple[str, ...], output: str, page: Path, *, open_it: bool) -> None:
    """Compare runs that were tested on the same queries and documents.

    Validation ranks the runs; on the test set each is tested against the first, query by query.
    """
    from launcher.lookup import find_result
    from launcher.runs.comparison import compared_group
    from launcher.runs.run import by_test_set, preload
    from launcher.tables import compare_lines, show

    runs = [find_result(output, name) for name in names]
    preload(runs)
    test_sets = by_test_set(runs)
    groups = [compared_group(*found, output) for found in test_sets.items()]
    for group in groups:
        show(compare_lines(group))
    if _write_page(page, groups):
        click.echo(f"Page: {page}")
        if open_it:
            click.launch(str(page))
    if len(groups) > 1:
        msg = (
            f"These runs have {len(groups)} different test sets (see the fingerprints), so their "
            "scores cannot be compared. Use the same data, `data.seed` and `data.limit`."
        )
        raise DataError(msg)


def _write_page(page: Path, groups: "list[Group]") -> bool:
    """Write compare.html; returns False, with a message, if packages for it are missing."""
    from job.report.compare_runs import to_compare_html
    from job.storage.workspace import write_atomically

    try:
        html = to_compare_html(groups)
    except ModuleNotFoundError as error:
        reason = f"the package `{error.name}` is missing; run `pip install 'embedtune[report]'`"
        click.echo(f"`{page}` was not written: {reason}.", err=True)
        return False
    write_atomically(page, html)
    return True
