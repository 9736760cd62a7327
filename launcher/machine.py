"""MachineOptions: where a job runs and on what; the spec says what it does."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

GIVEN_TO_ALL = {"backend", "device", "price_per_hour", "yes"}

# One A10G, 24 GB: what the article ran on.
USUAL_INSTANCE = "ml.g5.2xlarge"


@dataclass(frozen=True)
class MachineOptions:
    """Options of `embedtune launch` by their names; a backend's `OPTIONS` are those it takes."""

    backend: str = "process"
    device: str = "auto"
    price_per_hour: float | None = None
    image: str | None = None
    # Docker's; sizes as it writes them (`16g`).
    gpus: str = "auto"
    memory: str | None = None
    shm_size: str | None = None
    network: str | None = None
    hosts: int = 1
    # SageMaker's. Several instance types are tried in their order.
    instance_type: tuple[str, ...] = ()
    instances: int = 1
    volume_gb: int = 100
    spot: bool = False
    max_runtime: int = 4 * 3600
    max_wait: int | None = None
    keep_alive: int = 0
    input_mode: str = "File"
    isolate: bool = False
    subnet: tuple[str, ...] = ()
    security_group: tuple[str, ...] = ()
    volume_kms_key: str | None = None
    hf_token_secret: str | None = None
    max_cost: float = 10.0
    tag: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    role: str | None = None
    stack: str = "embedtune"
    profile: str | None = None
    region: str | None = None
    stop_on_interrupt: bool = False
    yes: bool = False

    @property
    def instance_types(self) -> tuple[str, ...]:
        return self.instance_type or (USUAL_INSTANCE,)

    def given(self) -> dict[str, object]:
        """Return the fields that are not as usual."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}

    def arguments(self) -> list[str]:
        """Write them as arguments of `embedtune launch`."""
        return [part for name, value in self.given().items() for part in _written(name, value)]


def option(field: str) -> str:
    """Return the name by which `embedtune launch` takes a field."""
    return "--" + field.replace("_", "-")


def _written(field: str, value: object) -> Iterator[str]:
    if value is True:
        yield option(field)
        return
    for each in value if isinstance(value, tuple) else (value,):
        yield from (option(field), str(each))
