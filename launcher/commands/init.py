"""`embedtune init`: a commented job file to start from."""

from pathlib import Path

import click

from job.core.errors import StorageError


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="job.yaml")
def init(path: Path) -> None:
    """Write a commented job file, with the article's job, to PATH."""
    from importlib import resources

    from job.storage.workspace import write_atomically

    if path.exists():
        msg = f"`{path}` already exists, and was not changed. Choose another path."
        raise StorageError(msg)
    write_atomically(path, resources.files("launcher").joinpath("job.yaml").read_text("utf-8"))
    click.echo(f"Wrote {path}. Next: embedtune launch {path}")
