"""MachineOptions: where a job runs and on what; the spec says what it does."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineOptions:
    backend: str = "process"
    device: str = "auto"
    price_per_hour: float | None = None
