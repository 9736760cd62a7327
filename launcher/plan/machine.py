"""MachineOptions: where a job runs and on which hardware; the spec says what the job does.

Each field defines an option: its type, default, help, and the backends that accept it.
`launcher.commands.machine` turns the fields into command-line options.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

import click

# One A10G with 24 GB, as in the article.
DEFAULT_INSTANCE = "ml.g5.2xlarge"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """An integer of seconds, or a number with a unit: 90m, 4h, 1d."""

    name = "duration"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([smhd]?)", value)
        if not found:
            self.fail(f"{value!r} is not a duration; expected 90m, 4h or 1d.", param, ctx)
        return int(found[1]) * UNITS[found[2] or "s"]


def _option(default: Any, text: str, backends: tuple[str, ...] = (), **shown: Any) -> Any:  # noqa: ANN401
    """Declare a field; `shown` holds further arguments for Click (`metavar`, `show_default`)."""
    return field(default=default, metadata={"help": text, "backends": backends, "shown": shown})


_docker = partial(_option, backends=("docker",))
_sagemaker = partial(_option, backends=("sagemaker",))


@dataclass(frozen=True)
class MachineOptions:
    backend: Literal["process", "docker", "sagemaker"] = _option("process", "Where the job runs.")
    device: Literal["auto", "cuda", "mps", "cpu"] = _option("auto", "Device to compute on.")
    price_per_hour: float | None = _option(
        None, "Price of the machine in USD per hour, to report the cost of the run."
    )
    image: str | None = _option(
        None,
        "image to run.  [default: embedtune; the stack's newest]",
        ("docker", "sagemaker"),
    )

    gpus: Literal["auto", "all", "none"] = _docker(
        "auto", "GPUs of each container; auto: all, if there are any."
    )
    memory: str | None = _docker(
        None, "memory limit of each container, such as 16g.", metavar="SIZE"
    )
    shm_size: str | None = _docker(
        None, "size of /dev/shm in each container.  [default: 1g]", metavar="SIZE"
    )
    network: str | None = _docker(None, "host, none, or the name of a network.", metavar="NAME")
    hosts: int = _docker(1, "number of containers that train together, on a private network.")

    instance_type: tuple[str, ...] = _sagemaker(
        (),
        f"may be repeated, to try them in order.  [default: {DEFAULT_INSTANCE}]",
    )
    instances: int = _sagemaker(1, "number of machines that train together.")
    volume_gb: int = _sagemaker(100, "disk size, for instances without a disk of their own.")
    spot: bool = _sagemaker(False, "use cheaper machines, which AWS may interrupt.")  # noqa: FBT003
    max_runtime: int = _sagemaker(
        4 * 3600,
        "stop the job, and billing, after this time; relaunch to resume.",
        type=Duration(),
        show_default="4h",
    )
    max_wait: int | None = _sagemaker(
        None,
        "with --spot, limit of waiting and running time together.  "
        "[default: --max-runtime plus one hour]",
        type=Duration(),
    )
    keep_alive: int = _sagemaker(
        0, "keep the machine for the next job this long, at its price.", type=Duration()
    )
    input_mode: Literal["File", "FastFile"] = _sagemaker(
        "File", "File copies the data to the machine, FastFile streams it."
    )
    isolate: bool = _sagemaker(False, "run the job without network access.")  # noqa: FBT003
    encrypt_traffic: bool = _sagemaker(
        False,  # noqa: FBT003
        "encrypt the traffic between the machines of a job, which slows training down.",
    )
    subnet: tuple[str, ...] = _sagemaker((), "subnet of your VPC; may be repeated.", metavar="ID")
    security_group: tuple[str, ...] = _sagemaker(
        (), "security group of your VPC; may be repeated.", metavar="ID"
    )
    volume_kms_key: str | None = _sagemaker(None, "KMS key for the machine's disk.", metavar="ARN")
    hf_token_secret: str | None = _sagemaker(None, "secret with the Hub token.", metavar="ARN")
    llm_key_secret: str | None = _sagemaker(
        None, "secret with the key of --llm-url.", metavar="ARN"
    )
    tag: tuple[str, ...] = _sagemaker(
        (), "tag of the job, for cost reports; may be repeated.", metavar="NAME=VALUE"
    )
    env: tuple[str, ...] = _sagemaker(
        (),
        "environment of the job, not for secrets; may be repeated.",
        metavar="NAME=VALUE",
    )
    role: str | None = _sagemaker(None, "role of the job, instead of the stack's.", metavar="ARN")
    max_cost: float = _sagemaker(10.0, "ask before launching a job that may cost more, in USD.")
    stack: str = _sagemaker("embedtune", "name of the stack.", metavar="NAME")
    profile: str | None = _sagemaker(None, "AWS profile.  [env: AWS_PROFILE]", metavar="NAME")
    region: str | None = _sagemaker(
        None, "AWS region, instead of the profile's.  [env: AWS_REGION]", metavar="NAME"
    )
    stop_on_interrupt: bool = _sagemaker(False, "let Ctrl-C also stop the job.")  # noqa: FBT003
    yes: bool = _option(False, "Do not ask for confirmation.")  # noqa: FBT003

    @property
    def instance_types(self) -> tuple[str, ...]:
        return self.instance_type or (DEFAULT_INSTANCE,)

    def given(self) -> dict[str, object]:
        """Return the fields that differ from their defaults."""
        defaults = {each.name: each.default for each in fields(self)}
        values = {name: getattr(self, name) for name in defaults}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def unsupported(self) -> list[str]:
        """Return the given options that the backend does not accept."""
        backends = {each.name: each.metadata["backends"] for each in fields(self)}
        refused = (n for n in self.given() if backends[n] and self.backend not in backends[n])
        return sorted(map(option_name, refused))

    def arguments(self) -> list[str]:
        """Return them as arguments of `embedtune launch`."""
        return [part for name, value in self.given().items() for part in _arguments(name, value)]


def option_name(field_name: str) -> str:
    """Return a field's option on the command line."""
    return "--" + field_name.replace("_", "-")


def _arguments(field_name: str, value: object) -> Iterator[str]:
    if value is True:
        yield option_name(field_name)
        return
    for each in value if isinstance(value, tuple) else (value,):
        yield from (option_name(field_name), str(each))
