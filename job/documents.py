"""The stage `generate` of a run: pairs written about documents take the place of its data."""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from job.distributed import process_group
from job.distributed.process_group import from_rank_zero
from job.generation.chunks import token_splitter
from job.generation.facts import Generation
from job.generation.language_models import Host
from job.generation.results import CORPUS, PAIRS, SYNTHETIC_TEST
from job.generation.round_trip import base_searches
from job.generation.stage import data_of_pairs, generate_once
from job.inputs import Inputs, fetch_language_model
from job.model.device import Machine
from job.report.pairs_page import write_page
from job.runtime.logs import Progress
from job.spec.schema import DataSpec, JobSpec
from job.storage.workspace import Workspace, link_or_copy

FILES = (PAIRS, SYNTHETIC_TEST, CORPUS)
# Channels that contain a role's data, whatever the spec names.
GIVEN = ("validation", "test")


@dataclass(frozen=True)
class WrittenPairs:
    """The inputs with the written pairs as data, how to read them, and facts for the report."""

    inputs: Inputs
    data: DataSpec
    facts: Generation | None = None
    # The language model that wrote the test questions; None if people did.
    test_by: str | None = None


def write_pairs(
    spec: JobSpec, workspace: Workspace, machine: Machine, inputs: Inputs, progress: Progress
) -> WrittenPairs:
    """Write pairs about the documents of a run, if it has documents, on rank 0 only."""
    documents = inputs.channels.get("documents") or spec.data.documents
    given = {role: str(inputs.channels[role]) for role in GIVEN if role in inputs.channels}
    spec = spec.model_copy(update={"data": spec.data.model_copy(update=given)})
    if documents is None:
        return WrittenPairs(inputs, spec.data, None, _test_by(spec.data.questions_by, spec.data))
    with progress.stage("generate") as log_facts:
        facts = from_rank_zero(
            lambda: generate_once(
                Path(documents),
                spec,
                workspace.generation,
                lambda: token_splitter(inputs.model),
                lambda: base_searches(spec, machine, inputs.model),
                write_page,
                Host(machine, partial(fetch_language_model, spec=spec, workspace=workspace)),
            )
        )
        folder = _on_each_host(workspace)
        if process_group.is_rank_zero():
            _publish(workspace)
        log_facts.update(kept=facts.kept, questions=facts.questions)
    channels = {**inputs.channels, "data": folder}
    if spec.data.test:
        channels["synthetic_test"] = folder.with_name("synthetic") / SYNTHETIC_TEST
    test_by = _test_by(facts.llm, spec.data)
    return WrittenPairs(
        replace(inputs, channels=channels), data_of_pairs(spec.data), facts, test_by
    )


def _test_by(llm: str | None, data: DataSpec) -> str | None:
    return None if data.test else llm


def _on_each_host(workspace: Workspace) -> Path:
    """Put rank 0's files where the data is read, on every host; return the folder of the pairs."""
    texts = None
    if process_group.host_count() > 1:
        texts = from_rank_zero(lambda: [(workspace.generation / n).read_bytes() for n in FILES])

    def write() -> Path:
        # Not one folder: the test would be read as pairs to train on.
        folders = (workspace.fetched / "written" / part for part in ("pairs", "synthetic", "pairs"))
        shutil.rmtree(workspace.fetched / "written", ignore_errors=True)
        for number, (name, folder) in enumerate(zip(FILES, folders, strict=True)):
            folder.mkdir(parents=True, exist_ok=True)
            if texts is None:
                link_or_copy(workspace.generation / name, folder / name)
            else:
                (folder / name).write_bytes(texts[number])
        return workspace.fetched / "written" / "pairs"

    return process_group.once_per_host(write)


def _publish(workspace: Workspace) -> None:
    """Copy the results of the stage, the journal too: its answers were paid for."""
    shutil.rmtree(workspace.generated, ignore_errors=True)
    workspace.generated.mkdir(parents=True)
    for path in workspace.generation.iterdir():
        if not path.name.startswith("."):
            link_or_copy(path, workspace.generated / path.name)
