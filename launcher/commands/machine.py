"""The options that say where a job runs and on what; their fields are `MachineOptions`."""

from collections.abc import Callable
from typing import Any

import click

from launcher.backends import BACKENDS

OPTIONS = (
    click.option(
        "--backend",
        type=click.Choice(list(BACKENDS)),
        default="process",
        show_default=True,
        help="Where the job runs.",
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cuda", "mps", "cpu"]),
        default="auto",
        show_default=True,
        help="What it computes on.",
    ),
    click.option(
        "--price-per-hour",
        type=click.FloatRange(min=0),
        help="The machine's price in USD: puts a cost into the report.",
    ),
    click.option(
        "--image",
        help="docker: image to run.  [default: embedtune]",
    ),
    click.option(
        "--gpus",
        type=click.Choice(["auto", "all", "none"]),
        default="auto",
        show_default=True,
        help="docker: GPUs for the container; auto: all, where there are any.",
    ),
    click.option("--memory", metavar="SIZE", help="docker: memory that it may take, as in 16g."),
    click.option("--shm-size", metavar="SIZE", help="docker: its /dev/shm.  [default: 1g]"),
    click.option("--network", metavar="NAME", help="docker: host, none, or one of your own."),
)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all of them to a command, which gets them as keyword arguments."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
