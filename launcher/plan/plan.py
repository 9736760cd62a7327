"""From a spec and machine options to a plan: everything decided, nothing done yet."""

from dataclasses import dataclass
from pathlib import Path

from job.core.errors import DataError, ModelError
from job.spec.schema import JobSpec
from job.storage.stores import S3, Store, open_store
from launcher.plan.machine import MachineOptions

WORKSPACE = ".work"
DEFAULT_OUTPUT = "runs"
BUILTIN = "builtin:"


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
    def destination(self) -> Store:
        """Where its results go: the same folder, or a prefix in S3."""
        return open_store(self.spec.output.uri, self.spec.output.kms_key).join(self.name)

    @property
    def workspace(self) -> Path:
        return self.folder / WORKSPACE

    @property
    def environment(self) -> dict[str, str]:
        """What the job is told beside its spec."""
        machine = self.machine
        # Both, since a caller's own EMBEDTUNE_RUN would beat the name that the launcher looks for.
        named = {"TRAINING_JOB_NAME": self.name, "EMBEDTUNE_RUN": self.name}
        told = {**named, "EMBEDTUNE_DEVICE": machine.device}
        if machine.price_per_hour is not None:
            told["EMBEDTUNE_PRICE_PER_HOUR"] = str(machine.price_per_hour)
        return told

    @property
    def sources(self) -> dict[str, str]:
        """All that the job reads, by channel."""
        data = self.spec.data
        named = {
            "data": data.source,
            "validation": data.validation,
            "test": data.test,
            "corpus": data.corpus,
            "out_of_domain": self.spec.evaluation.out_of_domain,
            "model": self.spec.model.base,
        }
        return {name: source for name, source in named.items() if source}

    @property
    def inputs(self) -> dict[str, Path]:
        """Local files and folders that become channels, by channel."""
        return {n: Path(path) for n, path in self.sources.items() if _is_here(n, path)}

    @property
    def uses_s3(self) -> bool:
        return any(uri.startswith(S3) for uri in (*self.sources.values(), self.spec.output.uri))

    @property
    def uses_hub(self) -> bool:
        """Whether the job reads from the Hub or writes to it."""
        elsewhere = {n: uri for n, uri in self.sources.items() if n not in self.inputs}
        on_hub = (uri for uri in elsewhere.values() if not uri.startswith((S3, BUILTIN)))
        return self.spec.output.hub is not None or any(on_hub)


def _is_here(channel: str, source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError as error:
        # A folder that may not be entered tells of nothing in it.
        msg = f"`{source}` cannot be read: {error.strerror}. Make it readable, or name another."
        raise (ModelError if channel == "model" else DataError)(msg) from None
