"""From a spec and machine options to a plan: everything decided, nothing done yet."""

from dataclasses import dataclass
from pathlib import Path

from job.places import S3, Place, open_place
from job.spec import JobSpec
from launcher.machine import MachineOptions

WORKSPACE = ".work"
DEFAULT_OUTPUT = "runs"


def local_folder(output: str) -> Path:
    """Return the folder on this machine that holds an output's workspaces and fetched reports."""
    return Path(DEFAULT_OUTPUT if output.startswith(S3) else output)


@dataclass(frozen=True)
class Plan:
    name: str
    spec: JobSpec
    machine: MachineOptions

    @property
    def folder(self) -> Path:
        """The run's own folder on this machine."""
        return local_folder(self.spec.output.uri) / self.name

    @property
    def destination(self) -> Place:
        """Where its results go: the same folder, or a prefix in S3."""
        return open_place(self.spec.output.uri, self.spec.output.kms_key).join(self.name)

    @property
    def workspace(self) -> Path:
        return self.folder / WORKSPACE

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
