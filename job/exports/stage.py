"""The exports of a run: proven at its start, made and measured at its end."""

from collections.abc import Collection

from job.data.dataset import Dataset
from job.distributed.process_group import from_rank_zero
from job.evaluation.dimensions import Dimensions
from job.evaluation.results import Swap
from job.evaluation.significance import GroupedQueries
from job.exports.build import Step, export_model
from job.exports.kinds import kind_of, require_packages
from job.exports.measure import TestSet
from job.exports.proof import prove_exportable
from job.exports.results import Exports
from job.exports.write import CALIBRATION
from job.model.encoder import Model
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace

# Texts that prove, before the training, that an export embeds like the model.
PROOF_TEXTS = 4


def require_packages_for(names: Collection[str]) -> None:
    """Raise `MachineError` if the exports with these names need a package that is missing."""
    require_packages([kind_of(name) for name in names])


def prove_exports(spec: JobSpec, model: Model, dataset: Dataset, workspace: Workspace) -> None:
    """Raise `ModelError` if the base model cannot be exported. A collective call."""
    kinds = [kind_of(name) for name in spec.output.exports]
    texts = dataset.test.texts[:PROOF_TEXTS].to_pylist()
    if kinds:
        base, folder = spec.model.base, workspace.root
        from_rank_zero(lambda: prove_exportable(model, base, kinds, texts, folder))


def export_tuned(
    spec: JobSpec,
    dataset: Dataset,
    dimensions: Dimensions,
    swap: Swap,
    workspace: Workspace,
    step: Step,
) -> list[Exports]:
    """Export the stored model as `output.exports` says, and measure the exports; on rank 0 only."""
    test, evaluation = dataset.test, spec.evaluation
    if not spec.output.exports:
        return []
    return export_model(
        workspace.model,
        workspace.exports,
        [kind_of(name) for name in spec.output.exports],
        TestSet.of(
            test,
            dataset.corpus,
            by_group=GroupedQueries(test.groups, evaluation.permutations, spec.data.seed),
            dimensions=dimensions.all,
            precisions=evaluation.precisions,
            recommended=(swap.dimension, swap.precision),
            retention=evaluation.retention,
            batch_size=evaluation.batch_size,
        ),
        dataset.train.table["positive"][:CALIBRATION].to_pylist(),
        step,
        trust_code=spec.model.trust_remote_code,
    )
