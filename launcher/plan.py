"""From a spec and machine options to a plan: everything decided, nothing done yet."""

from dataclasses import dataclass
from pathlib import Path

from job.spec import JobSpec
from launcher.machine import MachineOptions

WORKSPACE = ".work"


@dataclass(frozen=True)
class Plan:
    name: str
    spec: JobSpec
    machine: MachineOptions

    @property
    def result_folder(self) -> Path:
        return Path(self.spec.output.uri) / self.name

    @property
    def workspace(self) -> Path:
        return self.result_folder / WORKSPACE

    @property
    def inputs(self) -> dict[str, Path]:
        """Local files and folders that become channels, by channel."""
        data = self.spec.data
        sources = {
            "data": data.source,
            "validation": data.validation,
            "test": data.test,
            "corpus": data.corpus,
        }
        return {name: Path(path) for name, path in sources.items() if path and Path(path).exists()}
