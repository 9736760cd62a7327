"""MachineOptions: where a job runs and on what; the spec says what it does.

A field says all there is to say of an option: its type, default, help, and the backends that take
it. `launcher.commands.machine` makes the command line's options of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

import click

# One A10G, 24 GB: what the article ran on.
USUAL_INSTANCE = "ml.g5.2xlarge"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """int, or a number with its unit: 90m, 4h, 1d."""

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


def _option(default: Any, text: str, backends: tuple[str, ...] = (), **shown: Any) -> Any:  # noqa: ANN401
    """Declare a field; `shown` is what its type does not tell Click (`metavar`, `show_default`)."""
    return field(default=default, metadata={"help": text, "backends": backends, "shown": shown})


_docker = partial(_option, backends=("docker",))
_sagemaker = partial(_option, backends=("sagemaker",))


@dataclass(frozen=True)
class MachineOptions:
    backend: Literal["process", "docker", "sagemaker"] = _option("process", "Where the job runs.")
    device: Literal["auto", "cuda", "mps", "cpu"] = _option("auto", "What it computes on.")
    price_per_hour: float | None = _option(
        None, "The machine's price in USD: puts a cost into the report."
    )
    image: str | None = _option(
        None, "image to run.  [default: embedtune; the stack's newest]", ("docker", "sagemaker")
    )

    gpus: Literal["auto", "all", "none"] = _docker(
        "auto", "GPUs for each container; auto: all, where there are any."
    )
    memory: str | None = _docker(None, "memory that each may take, as in 16g.", metavar="SIZE")
    shm_size: str | None = _docker(None, "its /dev/shm.  [default: 1g]", metavar="SIZE")
    network: str | None = _docker(None, "host, none, or one of your own.", metavar="NAME")
    hosts: int = _docker(1, "so many containers do the work together, on a private network.")

    instance_type: tuple[str, ...] = _sagemaker(
        (), f"give several to try them in turn.  [default: {USUAL_INSTANCE}]"
    )
    instances: int = _sagemaker(1, "so many machines do the work together.")
    volume_gb: int = _sagemaker(100, "disk, where the instance has none of its own.")
    spot: bool = _sagemaker(False, "cheaper machines that may be taken away.")  # noqa: FBT003
    max_runtime: int = _sagemaker(
        4 * 3600,
        "ends the job, and its costs; launched again it goes on.",
        type=Duration(),
        show_default="4h",
    )
    max_wait: int | None = _sagemaker(
        None,
        "with --spot, its time and the wait for machines.  "
        "[default: an hour more than --max-runtime]",
        type=Duration(),
    )
    keep_alive: int = _sagemaker(
        0, "keeps the machine, at its price, for the next job.", type=Duration()
    )
    input_mode: Literal["File", "FastFile"] = _sagemaker(
        "File", "data copied to the machine, or streamed."
    )
    isolate: bool = _sagemaker(False, "no network for the job.")  # noqa: FBT003
    subnet: tuple[str, ...] = _sagemaker((), "of your VPC; may be repeated.", metavar="ID")
    security_group: tuple[str, ...] = _sagemaker((), "of your VPC; may be repeated.", metavar="ID")
    volume_kms_key: str | None = _sagemaker(None, "encrypts that disk.", metavar="ARN")
    hf_token_secret: str | None = _sagemaker(
        None, "the secret with the Hub's token.", metavar="ARN"
    )
    tag: tuple[str, ...] = _sagemaker((), "for your bills.", metavar="NAME=VALUE")
    env: tuple[str, ...] = _sagemaker((), "not for secrets.", metavar="NAME=VALUE")
    role: str | None = _sagemaker(None, "the job's role, instead of the stack's.", metavar="ARN")
    max_cost: float = _sagemaker(10.0, "asks before a job that may cost more USD.")
    stack: str = _sagemaker("embedtune", "name of the stack.", metavar="NAME")
    profile: str | None = _sagemaker(None, "your AWS profile.  [env: AWS_PROFILE]", metavar="NAME")
    region: str | None = _sagemaker(
        None, "instead of your profile's.  [env: AWS_REGION]", metavar="NAME"
    )
    stop_on_interrupt: bool = _sagemaker(False, "Ctrl-C ends the job as well.")  # noqa: FBT003
    yes: bool = _option(False, "Ask nothing.")  # noqa: FBT003

    @property
    def instance_types(self) -> tuple[str, ...]:
        return self.instance_type or (USUAL_INSTANCE,)

    def given(self) -> dict[str, object]:
        """Return the fields that are not as usual."""
        usual = {each.name: each.default for each in fields(self)}
        return {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}

    def foreign(self) -> list[str]:
        """Name the options that were given and that the backend does not take."""
        takers = {each.name: each.metadata["backends"] for each in fields(self)}
        refused = (n for n in self.given() if takers[n] and self.backend not in takers[n])
        return sorted(map(option_name, refused))

    def arguments(self) -> list[str]:
        """Write them as arguments of `embedtune launch`."""
        return [part for name, value in self.given().items() for part in _written(name, value)]


def option_name(field_name: str) -> str:
    """Return the name by which the command line takes a field."""
    return "--" + field_name.replace("_", "-")


def _written(field_name: str, value: object) -> Iterator[str]:
    if value is True:
        yield option_name(field_name)
        return
    for each in value if isinstance(value, tuple) else (value,):
        yield from (option_name(field_name), str(each))
