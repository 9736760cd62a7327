"""`embedtune image build`, `push`, `inspect`: the image that jobs run in."""

import shlex
from pathlib import Path

import click

image_argument = click.argument("image_name", metavar="IMAGE", default="embedtune")


@click.group()
def image() -> None:
    """Build the job's image, push it to a registry, and inspect it."""


@image.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--tag", default="embedtune", show_default=True, help="Name of the image.")
@click.option(
    "--platform",
    default="linux/amd64",
    show_default=True,
    help="Platform of the machines that will run the image.",
)
@click.option("--cpu", is_flag=True, help="Install torch for CPUs only, which saves 4 GB.")
@click.option("--demo", is_flag=True, help="Include the demo model, builtin:minilm.")
@click.option(
    "--build-arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Build argument of the Dockerfile: BASE_IMAGE or TORCH_INDEX; may be repeated.",
)
@click.option(
    "--pip-conf",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="pip configuration for the build only, such as a mirror or a proxy's certificate.",
)
@click.option("--network", metavar="NAME", help="Docker network of the build.")
@click.option("--dry-run", is_flag=True, help="Print the command without running it.")
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

    chosen = build_arguments(folder, cpu=cpu, demo=demo) | dict(map(_name_and_value, arguments))
    command = build_command(folder, tag, platform, chosen, pip_conf, network)
    click.echo(shlex.join(command), err=not dry_run)
    if not dry_run:
        build_image(command)
        click.echo(tag)


@image.command()
@image_argument
@click.argument("reference")
def push(image_name: str, reference: str) -> None:
    """Push IMAGE as REFERENCE (REGISTRY/REPOSITORY[:TAG]), and print its name by digest.

    Logs in to ECR if needed. The default tag is the revision that the image was built from.
    """
    from launcher.containers.image import push_image

    click.echo(push_image(image_name, reference))


@image.command()
@image_argument
def inspect(image_name: str) -> None:
    """Show the labels of IMAGE and the size of each layer; a pipe gets full commands."""
    from launcher.containers.image import inspect_image
    from launcher.tables import image_lines, show

    show(image_lines(image_name, inspect_image(image_name)))


def _name_and_value(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not (name and equals):
        msg = f"`--build-arg {argument}`: expected NAME=VALUE."
        raise click.UsageError(msg)
    return name, value
