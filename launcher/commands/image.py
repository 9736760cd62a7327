"""`embedtune image build`, `push`, `inspect`: the image that jobs run in."""

import json
import shlex
from pathlib import Path

import click
from click.core import ParameterSource

from launcher.commands.machine import machine_options
from launcher.plan.machine import option_name

# Options of `build` that only one place has.
ONLY_ON = {"docker": ("platform", "pip_conf", "network"), "aws": ("stack", "profile", "region")}

image_argument = click.argument("image_name", metavar="IMAGE", default="embedtune")


@click.group()
def image() -> None:
    """Build the job's image, push it to a registry, and inspect it."""


@image.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option(
    "--on",
    "place",
    type=click.Choice(list(ONLY_ON)),
    default="docker",
    show_default=True,
    help="Where to build: with Docker on this machine, or on AWS, which needs no Docker here.",
)
@click.option(
    "--tag",
    help="docker: name of the image, by default embedtune; aws: its tag in the stack's repository.",
)
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
@machine_options("stack", "profile", "region")
@click.option("--dry-run", is_flag=True, help="Print the command or request; build nothing.")
def build(
    folder: Path,
    place: str,
    tag: str | None,
    platform: str,
    arguments: tuple[str, ...],
    pip_conf: Path | None,
    network: str | None,
    stack: str,
    profile: str | None,
    region: str | None,
    *,
    cpu: bool,
    demo: bool,
    dry_run: bool,
) -> None:
    """Build the image from FOLDER, a checkout of embedtune, and print its name.

    On AWS its name is that by digest; the next launch uses it, as the stack's newest image.
    """
    from launcher.containers.image import build_arguments, build_command, build_image

    _check_place(click.get_current_context(), place)
    chosen = build_arguments(folder, cpu=cpu, demo=demo) | dict(map(_name_and_value, arguments))
    if place == "aws":
        _build_on_aws(folder, chosen, tag, (stack, profile, region), dry_run=dry_run)
        return
    tag = tag or "embedtune"
    command = build_command(folder, tag, platform, chosen, pip_conf, network)
    click.echo(shlex.join(command), err=not dry_run)
    if not dry_run:
        build_image(command)
        click.echo(tag)


@image.command()
@image_argument
@click.argument("reference", required=False)
@machine_options("stack", "profile", "region")
def push(
    image_name: str, reference: str | None, stack: str, profile: str | None, region: str | None
) -> None:
    """Push IMAGE as REFERENCE (REGISTRY/REPOSITORY[:TAG]), and print its name by digest.

    Logs in to ECR if needed. The default REFERENCE is the stack's repository; the default tag is
    the revision that the image was built from.
    """
    from launcher.containers.image import push_image

    if reference is None:
        from launcher.aws.sessions import open_session
        from launcher.aws.stack import require_stack

        reference = require_stack(open_session(profile, region), stack).image
    click.echo(push_image(image_name, reference, profile, region))


@image.command()
@image_argument
def inspect(image_name: str) -> None:
    """Show the labels of IMAGE and the size of each layer; a pipe gets full commands."""
    from launcher.containers.image import inspect_image
    from launcher.tables import image_lines, show

    show(image_lines(image_name, inspect_image(image_name)))


def _check_place(context: click.Context, place: str) -> None:
    """Refuse options of the other place."""
    for other in ONLY_ON.keys() - {place}:
        for name in ONLY_ON[other]:
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                msg = f"`--on {place}` does not accept `{option_name(name)}`."
                raise click.UsageError(msg)


def _build_on_aws(
    folder: Path,
    arguments: dict[str, str],
    tag: str | None,
    where: tuple[str, str | None, str | None],
    *,
    dry_run: bool,
) -> None:
    from launcher.aws.sessions import open_session
    from launcher.aws.stack import require_stack
    from launcher.containers.cloud_image import build_on_aws, plan_build
    from launcher.containers.image import require_checkout
    from launcher.lookup import sigterm_as_interrupt

    require_checkout(folder)
    stack, profile, region = where
    session = open_session(profile, region)
    planned = plan_build(require_stack(session, stack), folder, arguments, tag)
    if dry_run:
        click.echo(json.dumps(planned.as_document(), indent=2))
        return
    with sigterm_as_interrupt():
        click.echo(build_on_aws(session, planned, lambda line: click.echo(line, err=True)))


def _name_and_value(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not (name and equals):
        msg = f"`--build-arg {argument}`: expected NAME=VALUE."
        raise click.UsageError(msg)
    return name, value
