"""Plan: a spec and machine options, from which all paths and inputs of a launch follow."""

from dataclasses import dataclass
from pathlib import Path

from job.core.errors import DataError, ModelError
from job.spec.generation_section import local_model
from job.spec.schema import JobSpec
from job.storage.stores import S3, Store, open_store
from launcher.plan.machine import MachineOptions

WORKSPACE = ".work"
DEFAULT_OUTPUT = "runs"
BUILTIN = "builtin:"
# Channels of models; the others have data.
MODELS = ("model", "llm", "judge")


def local_folder(output: str) -> Path:
    """Return the local folder with an output's workspaces and fetched reports."""
    return Path(DEFAULT_OUTPUT if output.startswith(S3) else output)


@dataclass(frozen=True)
class Plan:
    name: str
    spec: JobSpec
    machine: MachineOptions

    @property
    def folder(self) -> Path:
        """The run's folder on this machine."""
        return local_folder(self.spec.output.uri) / self.name

    @property
    def destination(self) -> Store:
        """The store for results: the same folder, or a prefix in S3."""
        return open_store(self.spec.output.uri, self.spec.output.kms_key).join(self.name)

    @property
    def workspace(self) -> Path:
        return self.folder / WORKSPACE

    @property
    def environment(self) -> dict[str, str]:
        """The job's environment variables."""
        machine = self.machine
        # Both names, since an EMBEDTUNE_RUN of the caller would override TRAINING_JOB_NAME.
        names = {"TRAINING_JOB_NAME": self.name, "EMBEDTUNE_RUN": self.name}
        variables = {**names, "EMBEDTUNE_DEVICE": machine.device}
        if machine.price_per_hour is not None:
            variables["EMBEDTUNE_PRICE_PER_HOUR"] = str(machine.price_per_hour)
        return variables

    @property
    def sources(self) -> dict[str, str]:
        """All inputs of the job, by channel."""
        data = self.spec.data
        sources = {
            "data": data.source,
            "validation": data.validation,
            "test": data.test,
            "corpus": data.corpus,
            "out_of_domain": self.spec.evaluation.out_of_domain,
            "documents": data.documents,
            "model": self.spec.model.base,
        }
        if data.documents:
            asked = self.spec.generation.models.items()
            sources |= {field: found[0] for field, name in asked if (found := local_model(name))}
        return {name: source for name, source in sources.items() if source}

    @property
    def inputs(self) -> dict[str, Path]:
        """The inputs that are local files or folders, by channel."""
        return {n: Path(path) for n, path in self.sources.items() if _is_local(n, path)}

    @property
    def bedrock_models(self) -> tuple[str, ...]:
        """The models of Amazon Bedrock that the job asks."""
        return self.spec.generation.models_of("bedrock") if self.spec.data.documents else ()

    @property
    def uses_aws(self) -> bool:
        """Whether the job needs AWS credentials: for S3 or Amazon Bedrock."""
        uris = (*self.sources.values(), self.spec.output.uri)
        return bool(self.bedrock_models) or any(uri.startswith(S3) for uri in uris)

    @property
    def uses_hub(self) -> bool:
        """Whether the job reads from the Hub or writes to it."""
        remote = [uri for name, uri in self.sources.items() if name not in self.inputs]
        on_hub = (uri for uri in remote if not uri.startswith((S3, BUILTIN)))
        return self.spec.output.hub is not None or any(on_hub)


def _is_local(channel: str, source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError as error:
        # Without access to its folder, a path's existence is unknown.
        msg = f"`{source}` cannot be read: {error.strerror}. Make it readable, or use another path."
        raise (ModelError if channel in MODELS else DataError)(msg) from None
