"""A run, step by step: data → proof → score → train → score → compare → refit → report → publish.

Every process of a run executes these steps: all ranks read, encode and train; rank 0 computes the
statistics and writes the results.
"""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.baseline import Baseline
from job.evaluation.cache import load_seconds, save_seconds
from job.evaluation.results import Both, Stored
from job.exports.stage import export_tuned, prove_exports, require_packages_for
from job.folds import (
    FoldResult,
    describe_folds,
    median_share,
    stored_average,
    train_folds,
    with_fold_scores,
)
from job.model.device import choose_machine
from job.model.save import VectorSizes, fingerprint, save_model
from job.prepare import RunInputs, load_base, prepare_inputs
from job.refit import Tested, refit, skipped, store_refit
from job.report.build import Results, build_report, job_cost
from job.report.model_card import write_card
from job.report.scope import Trainings, add_scope
from job.report.write import write_per_query, write_report
from job.run_context import RunContext
from job.runtime.logs import Progress, disable_progress_bars, log_scores, log_to_folder, tell
from job.runtime.signals import StopSignal
from job.scoring import (
    compare_kept_index,
    compare_models,
    embed_kept_index,
    log_base_scores,
    score_base_once,
    score_tuned,
)
from job.spec.schema import JobSpec
from job.storage import publish
from job.storage.hub import Push
from job.storage.stores import open_store
from job.storage.workspace import Workspace
from job.training.proof import prove_trainable
from job.training.refit import share_of_schedule
from job.training.seeds import SeedResult, train_seeds
from job.training.train import TrainingContext


def run(spec: JobSpec, workspace: Workspace, context: RunContext, stop: StopSignal) -> None:
    """Run the whole job; write the results to the workspace and publish them to `output.uri`/name.

    Does nothing if the results are published already.
    """
    output = spec.output
    destination, push = None, None
    if context.publish:
        destination = open_store(output.uri, output.kms_key).join(context.name)
    if output.hub:
        push = Push(output.hub, private=output.hub_private)

    def clear() -> None:
        # Checkpoints are several times larger than the model.
        shutil.rmtree(workspace.checkpoints, ignore_errors=True)
        if destination and context.delete_published:
            publish.delete_results(workspace)

    def is_finished() -> bool:
        if destination:
            publish.reserve(destination, spec)
            if publish.is_complete(destination):
                tell("run", f"`{destination.uri}` is already finished; nothing to do")
                clear()
                return True
        workspace.write_spec(spec)
        return False

    def publish_results() -> None:
        if not workspace.is_complete:
            publish.write_manifest(workspace)
        if destination:
            publish.upload(workspace, destination)
        if push:
            publish.push_model(workspace, push, context.name, always=output.hub_always)
        if destination:
            publish.complete(workspace, destination)
        clear()

    if from_rank_zero(is_finished):
        return
    disable_progress_bars()
    if not from_rank_zero(lambda: workspace.is_complete):
        with log_to_folder(workspace.logs) if is_rank_zero() else nullcontext():
            if push and is_rank_zero():
                push.prepare()
            produce_results(spec, workspace, context, stop, push)
    stop.check()
    from_rank_zero(publish_results)


def produce_results(
    spec: JobSpec, workspace: Workspace, context: RunContext, stop: StopSignal, push: Push | None
) -> None:
    """Write all results of a run to the workspace."""
    progress = Progress(context.started, load_seconds(workspace.seconds), stop.check)
    # Choose the device first: a missing GPU must be reported before anything is downloaded.
    machine = choose_machine(context.device, spec.model.precision)
    require_packages_for(spec.output.exports)
    inputs = prepare_inputs(spec, workspace, machine, progress)
    dataset = inputs.dataset
    prove(inputs, spec, workspace, progress)
    with progress.stage("score base") as facts:
        base = score_base_once(inputs, spec, workspace)
        if is_rank_zero():
            log_base_scores(base)
            save_seconds(workspace.seconds, progress.seconds)
        facts.update(dimension=inputs.dimensions.main, validation=round(base.validation.base, 4))

    def on_checkpoint(folder: Path) -> None:
        progress.update()
        save_seconds(workspace.seconds, progress.seconds)
        if push and spec.output.hub_strategy == "checkpoint":
            push.checkpoint(folder, f"{context.name}{workspace.training_suffix(folder)}")

    training_context = TrainingContext(
        workspace,
        stop,
        on_checkpoint,
        base.corpus_vectors,
        keeps_index=spec.evaluation.keep_index,
        lora=inputs.lora,
        base=spec.model.base,
    )
    if spec.training.refit:
        pairs = len(dataset.train), len(dataset.all_pairs)
        tell("refit", "follows the test", tested_pairs=pairs[0], pairs=pairs[1])
    tested = train_and_score(inputs, spec, base, training_context, progress)
    results = None
    if is_rank_zero():
        with progress.stage("compare"):
            results = compare_models(inputs, spec, base, tested.training, tested.tuned)
            if kept := tested.kept_index:
                results, adapter = compare_kept_index(kept, spec, base, tested.tuned, results)
                np.save(workspace.query_adapter, adapter.matrix.numpy())
        with progress.stage("store"):
            store(tested, results, workspace)
    if spec.training.refit:
        stored = refit_if_improved(tested, results, training_context, progress)
        tested = replace(tested, stored=stored)
    if results:
        write_results(tested, results, workspace, context, progress)


def train_and_score(
    inputs: RunInputs, spec: JobSpec, base: Baseline, context: TrainingContext, progress: Progress
) -> Tested:
    """Train once, or for each seed or fold, and score the model, or with folds each of them."""
    dataset = inputs.dataset
    seeds: list[SeedResult] = []
    folds: list[FoldResult] = []
    with progress.stage("train") as facts:
        if dataset.folds:
            training, folds = train_folds(inputs, spec, base, context)
        else:
            machine, fetched = inputs.machine, inputs.fetched
            reload = partial(load_base, spec, machine, fetched, dataset, inputs.lora)
            training, seeds = train_seeds(inputs.model, reload, dataset, base, spec, context)
        facts.update(steps=training.steps, resumed_from_step=training.resumed_from_step)
        facts.update(best_validation=round(training.best_validation, 4))  # read by SageMaker
    with progress.stage("score tuned"):
        tuned, stored = score_tuned(inputs, spec, base, training), None
        if folds and training.improved_on_validation:
            average, tuned = tuned, with_fold_scores(tuned, folds)
            if not spec.training.refit:
                stored = from_rank_zero(
                    lambda: stored_average(average, tuned, base, dataset, folds)
                )
        kept_index = embed_kept_index(inputs, spec, base)
        log_scores("tuned", {d: scores["float32"].means() for d, scores in tuned.scores.items()})
    described = from_rank_zero(lambda: describe_folds(folds, base, dataset))
    trainings = Trainings(seeds, described)
    resolved = training.hyperparameters.spec
    best_share = (
        median_share(resolved, folds, dataset)
        if folds
        else share_of_schedule(resolved, training.best_step, len(dataset.train))
    )
    return Tested(inputs, spec, base, training, tuned, best_share, trainings, stored, kept_index)


def store(tested: Tested, results: Results, workspace: Workspace) -> None:
    """Write the tested model and the scores of each query."""
    inputs, spec, base, tuned = tested.inputs, tested.spec, tested.base, tested.tuned
    dataset = inputs.dataset
    sizes = vector_sizes(inputs, spec, results)
    save_model(tuned.model, workspace.model, dataset, tuned.dtype, sizes)
    scores = {"bm25": {0: {"float32": base.bm25}}, "base": base.test, "tuned": tuned.scores}
    write_per_query(workspace.per_query, dataset, scores)


def vector_sizes(inputs: RunInputs, spec: JobSpec, results: Results) -> VectorSizes:
    default = results.swap.dimension if spec.output.truncate else None
    return VectorSizes(inputs.dimensions.all, default)


def refit_if_improved(
    tested: Tested, results: Results | None, context: TrainingContext, progress: Progress
) -> Stored | None:
    """Store a model of all pairs if the test shows a gain; a collective call.

    Only rank 0 has results, and gets the facts for the report.
    """
    workspace = context.workspace
    if not from_rank_zero(lambda: results is not None and results.improved):
        return skipped(tested, workspace) if results else None
    own = replace(context, workspace=workspace.for_refit())
    with progress.stage("refit") as facts:
        found = refit(tested, own)
        facts.update(steps=found.training.steps)
        if results is None:
            return None
        sizes = vector_sizes(tested.inputs, tested.spec, results)
        return store_refit(found, tested, sizes, workspace)


def write_results(
    tested: Tested, results: Results, workspace: Workspace, context: RunContext, progress: Progress
) -> None:
    """Write the exports of the stored model, the card and the report."""
    inputs, spec, scores = tested.inputs, tested.spec, (tested.base.test, tested.tuned.scores)
    dataset, base_folder = inputs.dataset, inputs.fetched.model
    weights = Both[str](base=fingerprint(base_folder), tuned=fingerprint(workspace.model))
    step = partial(progress.stage, "export")
    exports = export_tuned(spec, dataset, inputs.dimensions, results.swap, workspace, step)
    cost = job_cost(progress.seconds, context.price_per_hour)
    report = build_report(context.name, spec, results, weights, progress.seconds, cost)
    report = add_scope(report, dataset, *scores, results.sizes, tested.trainings)
    added = {"exports": exports, "stored": tested.stored}
    report = report.model_copy(update={name: found for name, found in added.items() if found})
    write_card(workspace.model, spec.model, base_folder, report)
    write_report(report, workspace.report)
    tell("verdict", report.verdict.sentence)


def prove(inputs: RunInputs, spec: JobSpec, workspace: Workspace, progress: Progress) -> None:
    """Prove that the base model can be trained, saved and exported, before it is scored."""
    epochs, exports = spec.training.epochs, spec.output.exports
    if epochs == 0 and not exports:
        return
    pairs, dimensions = inputs.dataset.train, inputs.dimensions.all
    found = (inputs.model, spec.model.base, pairs, dimensions, spec.training, workspace.root)
    with progress.stage("proof"):
        if epochs:
            prove_trainable(*found)
        prove_exports(spec, inputs.model, inputs.dataset, workspace)
