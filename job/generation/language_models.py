"""The language models of a stage: a local one is loaded once, and freed when no longer needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from job.generation.journal import Journal
from job.generation.llm import local
from job.generation.llm.kinds import open_llm
from job.generation.llm.local import Loaded, LocalModel
from job.generation.llm.protocol import Ask
from job.model.device import Machine
from job.spec.schema import GenerationSpec, ModelSpec

# Returns what identifies a version, for a field (`llm`, `judge`) and the version so far, if known.
Fetch = Callable[[str, Mapping[str, Any]], "Fetched"]


@dataclass(frozen=True)
class Fetched:
    """A local model as a section `model` of the spec, its folder, and facts of its version."""

    spec: ModelSpec
    folder: Path
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Host:
    """Where local models come from, and the device that computes them."""

    machine: Machine
    fetch: Fetch


class LanguageModels:
    """Opens the models of `generation.llm` and `judge`; `free` gives back their memory."""

    def __init__(self, spec: GenerationSpec, journal: Journal, host: Host) -> None:
        self._spec, self._journal, self._host = spec, journal, host
        self._opened: dict[str, Ask | LocalModel] = {}

    def open(self, field: str) -> Ask | LocalModel:
        """Return the model of a field (`llm`, `judge`); the same one for the same name."""
        name = self._spec.models[field]
        if name not in self._opened:
            model = open_llm(name, self._spec)
            if isinstance(model, LocalModel):
                model.load_with(partial(self._load, field, name))
            self._opened[name] = model
        return self._opened[name]

    def free(self, *, but: str | None = None) -> None:
        """Free the memory of all local models but the one of this name."""
        for name, model in self._opened.items():
            if isinstance(model, LocalModel) and name != but:
                model.free()

    def _load(self, field: str, name: str) -> Loaded:
        found = self._host.fetch(field, self._journal.versions.get(name, {}))
        # Answers of two versions would be taken for those of one.
        self._journal.add_version(name, found.facts)
        return local.load(found.spec, found.folder, self._host.machine)
