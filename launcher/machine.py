"""MachineOptions: where a job runs and on what; the spec says what it does."""

from dataclasses import dataclass, fields

GIVEN_TO_ALL = {"backend", "device", "price_per_hour"}


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

    def given(self) -> dict[str, object]:
        """Return the fields that are not as usual."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}

    def arguments(self) -> list[str]:
        """Write them as arguments of `embedtune launch`."""
        given = self.given().items()
        return [part for name, value in given for part in (option(name), str(value))]


def option(field: str) -> str:
    """Return the name by which `embedtune launch` takes a field."""
    return "--" + field.replace("_", "-")
