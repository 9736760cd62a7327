"""After the test: train on all pairs, compare with the tested model, and store the new one."""

import shutil
from dataclasses import dataclass

from job.core.formatting import share
from job.data.dataset import Dataset
from job.distributed.process_group import from_rank_zero
from job.evaluation.agreement import compare_rankings, is_plausible
from job.evaluation.baseline import Baseline
from job.evaluation.evaluate import score
from job.evaluation.results import Agreement, Stored
from job.model.dtypes import round_weights
from job.model.save import VectorSizes, fingerprint, save_model
from job.prepare import RunInputs, load_base
from job.report.scope import ONE, Trainings
from job.runtime.logs import warn
from job.scoring import Tuned
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace, link_or_copy
from job.training.query_adapter import BaseVectors
from job.training.refit import RefitTraining, train_on_all
from job.training.train import Training, TrainingContext

SKIPPED = "No model was trained on all pairs (`training.refit`), because the test showed no gain."


@dataclass(frozen=True)
class Tested:
    """The tested model, what it came from, and what the report says of its training."""

    inputs: RunInputs
    spec: JobSpec
    base: Baseline
    training: Training
    tuned: Tuned
    # The share of its schedule at which the training was best; with folds, their median.
    best_share: float
    trainings: Trainings = ONE
    # If the stored model is another one.
    stored: Stored | None = None
    # With `evaluation.keep_index`.
    kept_index: BaseVectors | None = None


@dataclass(frozen=True)
class Refitted:
    """The model of all pairs, and how alike it ranks; `agreement` is None if its training failed.

    Its weights are rounded to the number format in which they are stored.
    """

    training: RefitTraining
    agreement: Agreement | None

    @property
    def fault(self) -> str | None:
        """Why the model must not be stored, as a clause for a sentence."""
        found = self.agreement
        if found is None or self.training.fault:
            return f"its training failed: {self.training.fault}"
        if not is_plausible(found):
            return (
                f"it shares only {share(found.shared_of_ten)} of the first ten documents with the "
                f"tested model, the base model {share(found.base_shared_of_ten)}"
            )
        return None


def refit(tested: Tested, context: TrainingContext) -> Refitted:
    """Train the base model on all pairs like the tested model, and compare their rankings.

    The tested model must be stored: it leaves the GPU, which may not have room for both.
    """
    tested.tuned.model.encoder.to("cpu")
    inputs, dataset, base = tested.inputs, tested.inputs.dataset, tested.base
    model = load_base(tested.spec, inputs.machine, inputs.fetched, dataset, inputs.lora)
    model = model.with_prompts(base.tuned_prompts)
    hyperparameters = tested.training.hyperparameters
    found = train_on_all(
        model, dataset.all_pairs, tested.best_share, hyperparameters, base.validation, context
    )
    if found.fault:
        return Refitted(found, None)
    round_weights(found.model.encoder, tested.tuned.dtype)
    full, batch_size = inputs.dimensions.full, tested.spec.evaluation.batch_size
    searched = score(found.model, dataset.test, dataset.corpus, [full], batch_size)

    def compare() -> Agreement:
        ranked = [scores[full]["float32"].ranked for scores in (tested.tuned.scores, base.test)]
        return compare_rankings(ranked[0], searched[full].ranked, ranked[1])

    return Refitted(found, from_rank_zero(compare))


def store_refit(
    refitted: Refitted, tested: Tested, sizes: VectorSizes, workspace: Workspace
) -> Stored:
    """Store the new model as `model/`, and the tested one beside it; on rank 0 only.

    With folds there is no single tested one. If the new model is unusable, `model/` stays what it
    is.
    """
    dataset, before = tested.inputs.dataset, fingerprint(workspace.model)
    if refitted.fault:
        warn("refit", f"the model of all pairs is not stored: {refitted.fault}")
    else:
        if not dataset.folds:
            shutil.rmtree(workspace.proven_model, ignore_errors=True)
            shutil.copytree(workspace.model, workspace.proven_model, copy_function=link_or_copy)
        model = refitted.training.model
        save_model(model, workspace.model, dataset, tested.tuned.dtype, sizes)
        adapter = workspace.for_refit().adapter
        if adapter.is_dir():
            shutil.copytree(adapter, workspace.adapter, dirs_exist_ok=True)
    without = "fold" if dataset.folds else "tested"
    return Stored(
        kind=without if refitted.fault else "refit",
        pairs=len(dataset.train if refitted.fault else dataset.all_pairs),
        steps=refitted.training.steps,
        agreement=refitted.agreement,
        tested_fingerprint=None if dataset.folds else before,
        sentence=sentence(refitted, dataset),
    )


def skipped(tested: Tested, workspace: Workspace) -> Stored:
    """Return what the report says if the test showed no gain; on rank 0 only."""
    dataset = tested.inputs.dataset
    is_of_fold = bool(dataset.folds) and tested.training.improved_on_validation
    return Stored(
        kind="fold" if is_of_fold else "tested",
        pairs=len(dataset.train),
        steps=0,
        agreement=None,
        tested_fingerprint=None if is_of_fold else fingerprint(workspace.model),
        sentence=f"{SKIPPED} {_of_one_fold(dataset)}" if is_of_fold else SKIPPED,
    )


def _of_one_fold(dataset: Dataset) -> str:
    return (
        f"All scores are those of {len(dataset.folds)} tested models; `model/` holds the model of "
        f"one fold, which was trained on about {len(dataset.train)} pairs: it has seen most of the "
        "test queries, and has no score of its own."
    )


def sentence(refitted: Refitted, dataset: Dataset) -> str:
    pairs, tested_pairs, folds = len(dataset.all_pairs), len(dataset.train), len(dataset.folds)
    found = refitted.agreement
    if found is None or refitted.fault:
        kept = f"`model/` holds the tested model, which was trained on {tested_pairs} pairs."
        return (
            f"A model was trained on all {pairs} pairs, but is not stored: {refitted.fault}. "
            f"{_of_one_fold(dataset) if folds else kept}"
        )
    opening = (
        f"All scores are those of {folds} tested models, each trained on about {tested_pairs} "
        "pairs and tested on those of its fold."
        if folds
        else "All scores are those of the tested model (`model_proven/` of the run), which was "
        f"trained on {tested_pairs} pairs."
    )
    other = "the tested model of its fold" if folds else "the tested model"
    return (
        f"{opening} The stored model (`model/`) was trained in the same way on all {pairs} pairs: "
        "the test shows what this way of training gives. It has no score of its own, because it "
        f"has seen the test queries. {check_sentence(found, other)}"
    )


def check_sentence(found: Agreement, other: str) -> str:
    return (
        f"As a check, it ranks the same document first as {other} for {share(found.same_first)} of "
        f"the {found.queries} test queries, and they share {share(found.shared_of_ten)} of the "
        f"first ten documents (the base model: {share(found.base_shared_of_ten)})."
    )
