"""`embedtune image build`, `push`, `inspect`: the image that jobs run in."""

import shlex
from pathlib import Path

import click

image_argument = click.argument("image_name", metavar="IMAGE", default="embedtune")


@click.group()
def image() -> None:
    """Build the job's image, put it into a registry, look at what is in it."""


@image.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--tag", default="embedtune", show_default=True, help="Name of the image.")
@click.option(
    "--platform",
    default="linux/amd64",
    show_default=True,
    help="That of the machine it will run on, whatever this one is.",
)
@click.option("--cpu", is_flag=True, help="torch for CPUs: 4 GB less, and no GPU.")
@click.option("--demo", is_flag=True, help="With the demo's model, builtin:minilm.")
@click.option(
    "--build-arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="One of the Dockerfile's own: BASE_IMAGE, TORCH_INDEX.",
)
@click.option(
    "--pip-conf",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="pip's settings for the build alone: a mirror, a proxy's certificate.",
)
@click.option("--network", metavar="NAME", help="The build's network.")
@click.option("--dry-run", is_flag=True, help="Print the command only.")
def build(
    folder: Path,
    tag: str,
    platform: str,
    arguments: tuple[str, ...],
    pip_conf: Path | None,
    network: str | None,
    *,
    cpu: bool,
    demo: bool,
    dry_run: bool,
) -> None:
    """Build the image from FOLDER, a checkout of embedtune."""
    from launcher.containers.image import build_arguments, build_command, build_image

    chosen = build_arguments(folder, cpu=cpu, demo=demo) | dict(map(_pair, arguments))
    command = build_command(folder, tag, platform, chosen, pip_conf, network)
    click.echo(shlex.join(command), err=not dry_run)
    if not dry_run:
        build_image(command)
        click.echo(tag)


@image.command()
@image_argument
@click.argument("reference")
def push(image_name: str, reference: str) -> None:
    """Push IMAGE as REFERENCE, REGISTRY/REPOSITORY[:TAG]; prints the name that never changes.

    To ECR it logs in by itself. Without a tag it is the revision that the image was built from.
    """
    from launcher.containers.image import push_image

    click.echo(push_image(image_name, reference))


@image.command()
@image_argument
def inspect(image_name: str) -> None:
    """Show what IMAGE was built from, and the size of each layer."""
    from rich.console import Console

    from launcher.containers.image import inspect_image
    from launcher.tables import image_table

    Console(highlight=False).print(image_table(image_name, inspect_image(image_name)))


def _pair(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not (name and equals):
        msg = f"`--build-arg {argument}`: expected NAME=VALUE."
        raise click.UsageError(msg)
    return name, value
