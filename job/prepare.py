"""Prepare a run: fetch its inputs on every host, read and split the data, load the base model."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from job.core.memory import LoraChoice
from job.data.dataset import Dataset, load_dataset, write_splits
from job.distributed import process_group
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.documents import WrittenPairs, write_pairs
from job.evaluation.auxiliary_tests import AuxiliaryTest, auxiliary_tests
from job.evaluation.dimensions import Dimensions
from job.evaluation.evaluate import choose_dimensions
from job.evaluation.truncation import fit_length
from job.inputs import Inputs, fetch_inputs
from job.model.device import Machine
from job.model.encoder import Model, load_model, size_of
from job.model.parts import limit_tokens
from job.runtime.logs import Progress, warn
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace
from job.training.disk_space import require_disk_space
from job.training.hyperparameters import choose_before_loading
from job.training.provenance import require_same_inputs


@dataclass(frozen=True)
class RunInputs:
    """The prepared inputs of a run: device, data, auxiliary tests and the base model."""

    machine: Machine
    fetched: Inputs
    dataset: Dataset
    # Auxiliary tests by name, such as `out_of_domain`.
    auxiliary: Mapping[str, AuxiliaryTest]
    model: Model
    dimensions: Dimensions
    lora: LoraChoice
    written: WrittenPairs


def prepare_inputs(
    spec: JobSpec, workspace: Workspace, machine: Machine, progress: Progress
) -> RunInputs:
    """Fetch the inputs, read and split the data, and load the base model."""
    with progress.stage("fetch") as facts:
        fetched = fetch_on_each_host(spec, workspace)
        facts.update({role: found["uri"] for role, found in fetched.facts.items()})

    written = write_pairs(spec, workspace, machine, fetched, progress)
    fetched, data = written.inputs, written.data

    def read() -> tuple[Dataset, dict[str, AuxiliaryTest]]:
        folds = spec.evaluation.folds
        dataset = load_dataset(data, fetched.channels, spec.evaluation.protocol, folds)
        read_as = spec.model_copy(update={"data": data})
        return dataset, auxiliary_tests(read_as, fetched.channels, dataset)

    with progress.stage("data") as facts:
        dataset, auxiliary = process_group.once_per_host(read)
        require_same_inputs(dataset.facts["fingerprint"], fetched.model)
        if is_rank_zero():
            write_splits(dataset, workspace.splits)
            for warning in dataset.facts["warnings"]:
                warn("data", warning)
        facts.update(format=dataset.facts["format"], **dataset.facts["splits"])
        facts.update(corpus=len(dataset.corpus))
    with progress.stage("model") as facts:
        lora = from_rank_zero(
            lambda: choose_before_loading(spec.training, fetched.model, machine, workspace)
        )
        model = load_base(spec, machine, fetched, dataset, lora)
        dimensions = choose_dimensions(spec.evaluation, model.width)
        if spec.training.epochs != 0 and is_rank_zero():
            size = size_of(model) if lora.on else None
            adapter = size.adapter_parameters(spec.training.lora_rank) if size else None
            refits = int(spec.training.refit)
            trainings = (spec.evaluation.folds or spec.training.seeds) + refits
            models = 1 + refits + len(spec.output.exports)
            require_disk_space(model, workspace, trainings, adapter, models)
        facts.update(vars(machine), attention=model.encoding_attention)
    return RunInputs(machine, fetched, dataset, auxiliary, model, dimensions, lora, written)


def load_base(
    spec: JobSpec, machine: Machine, fetched: Inputs, dataset: Dataset, lora: LoraChoice
) -> Model:
    """Load the base model, with a limit in tokens that suits the data."""
    model = load_model(spec.model, machine, fetched.model, frozen=lora.on)
    if spec.model.max_length == "auto":
        length = from_rank_zero(lambda: fit_length(model, dataset))
        if length is not None:
            limit_tokens(model.encoder, length)
    return model


def fetch_on_each_host(spec: JobSpec, workspace: Workspace) -> Inputs:
    """Fetch the inputs on rank 0, then the same versions on the other hosts."""
    fetched = fetch_inputs(spec, workspace) if is_rank_zero() else None
    facts = from_rank_zero(lambda: fetched.facts if fetched else {})
    resolved = {role: found for role, found in facts.items() if {"commit", "version"} & {*found}}

    def fetch_resolved() -> Inputs:
        # An earlier, interrupted start may have left incomplete files.
        shutil.rmtree(workspace.fetched, ignore_errors=True)
        return fetch_inputs(spec, workspace, resolved)

    return process_group.once_per_host(lambda: fetched or fetch_resolved())
