"""The options that say where a job runs and on what; their fields are `MachineOptions`."""

import re
from collections.abc import Callable
from typing import Any

import click

from launcher.backends import BACKENDS

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """Seconds, or a number with its unit: 90m, 4h, 1d."""

    name = "duration"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([smhd]?)", value)
        if not found:
            self.fail(f"{value!r} is no time; expected 90m, 4h or 1d.", param, ctx)
        return int(found[1]) * UNITS[found[2] or "s"]


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
        help="docker, sagemaker: image to run.  [default: embedtune; the stack's newest]",
    ),
    click.option(
        "--gpus",
        type=click.Choice(["auto", "all", "none"]),
        default="auto",
        show_default=True,
        help="docker: GPUs for each container; auto: all, where there are any.",
    ),
    click.option("--memory", metavar="SIZE", help="docker: memory that each may take, as in 16g."),
    click.option("--shm-size", metavar="SIZE", help="docker: its /dev/shm.  [default: 1g]"),
    click.option("--network", metavar="NAME", help="docker: host, none, or one of your own."),
    click.option(
        "--hosts",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="docker: so many containers do the work together, on a private network.",
    ),
    click.option(
        "--instance-type",
        multiple=True,
        help="sagemaker: give several to try them in turn.  [default: ml.g5.2xlarge]",
    ),
    click.option(
        "--instances",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="sagemaker: so many machines do the work together.",
    ),
    click.option(
        "--volume-gb",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="sagemaker: disk, where the instance has none of its own.",
    ),
    click.option(
        "--spot", is_flag=True, help="sagemaker: cheaper machines that may be taken away."
    ),
    click.option(
        "--max-runtime",
        type=Duration(),
        default=4 * 3600,
        show_default="4h",
        help="sagemaker: ends the job, and its costs; launched again it goes on.",
    ),
    click.option(
        "--max-wait",
        type=Duration(),
        help="sagemaker: with --spot, its time and the wait for machines.  "
        "[default: an hour more than --max-runtime]",
    ),
    click.option(
        "--keep-alive",
        type=Duration(),
        default=0,
        help="sagemaker: keeps the machine, at its price, for the next job.",
    ),
    click.option(
        "--input-mode",
        type=click.Choice(["File", "FastFile"]),
        default="File",
        show_default=True,
        help="sagemaker: data copied to the machine, or streamed.",
    ),
    click.option("--isolate", is_flag=True, help="sagemaker: no network for the job."),
    click.option("--subnet", multiple=True, help="sagemaker: of your VPC."),
    click.option("--security-group", multiple=True, help="sagemaker: of your VPC."),
    click.option("--volume-kms-key", metavar="ARN", help="sagemaker: encrypts that disk."),
    click.option(
        "--hf-token-secret", metavar="ARN", help="sagemaker: the secret with the Hub's token."
    ),
    click.option("--tag", multiple=True, metavar="NAME=VALUE", help="sagemaker: for your bills."),
    click.option("--env", multiple=True, metavar="NAME=VALUE", help="sagemaker: not for secrets."),
    click.option("--role", metavar="ARN", help="sagemaker: instead of the stack's."),
    click.option(
        "--max-cost",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="sagemaker: asks before a job that may cost more USD.",
    ),
    click.option("--stack", default="embedtune", show_default=True, help="sagemaker: its name."),
    click.option("--profile", help="sagemaker: your AWS profile."),
    click.option("--region", help="sagemaker: instead of your profile's."),
    click.option(
        "--stop-on-interrupt", is_flag=True, help="sagemaker: Ctrl-C ends the job as well."
    ),
    click.option("--yes", is_flag=True, help="Ask nothing."),
)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all of them to a command, which gets them as keyword arguments."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
