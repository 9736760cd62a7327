"""A run, step by step: data → score → train → score → compare → report → publish.

Every process of a run executes these steps: all ranks read, encode and train; rank 0 computes the
statistics and writes the results.
"""

import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.base_vs_tuned import compare, compare_swap
from job.evaluation.baseline import Baseline, load_baseline, save_baseline, score_base
from job.evaluation.cache import load_seconds, save_seconds
from job.evaluation.corpus_sizes import measure_sizes
from job.evaluation.error_analysis import analyze_errors
from job.evaluation.evaluate import Vectors, embed, score_vectors
from job.evaluation.hybrid import hybrid_search
from job.evaluation.metrics import Scores
from job.evaluation.recommendation import choose
from job.evaluation.results import Both, NumberFormats
from job.evaluation.significance import GroupedQueries
from job.evaluation.truncation import count_truncated
from job.model.device import choose_machine
from job.model.dtypes import published_dtype, round_weights, stored_dtype, weights_dtype
from job.model.encoder import Model
from job.model.save import fingerprint, save_model
from job.prepare import RunInputs, load_base, prepare_inputs
from job.report.build import Results, build_report, job_cost
from job.report.document import Report
from job.report.model_card import write_card
from job.report.scope import add_scope
from job.report.write import write_per_query, write_report
from job.runtime.logs import Progress, disable_progress_bars, log_scores, log_to_folder, tell
from job.runtime.signals import StopSignal
from job.spec.schema import JobSpec
from job.storage import publish
from job.storage.hub import Push
from job.storage.stores import open_store
from job.storage.workspace import Workspace
from job.training.proof import prove_trainable
from job.training.provenance import provenance_of, verify_checkpoints
from job.training.seeds import SeedResult, train_seeds
from job.training.train import Training, TrainingContext


@dataclass(frozen=True)
class RunContext:
    """Settings of a run that are not part of its spec."""

    name: str
    device: str = "auto"
    price_per_hour: float | None = None
    # False leaves the results in the workspace, for jobs that can write nowhere else.
    publish: bool = True
    # Value of `time.perf_counter()` at the start of the process.
    started: float = field(default_factory=time.perf_counter)


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

    def is_finished() -> bool:
        if destination:
            publish.reserve(destination, spec)
            if publish.is_complete(destination):
                tell("run", f"`{destination.uri}` is already finished; nothing to do")
                _clear(workspace)
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
        _clear(workspace)

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


def _clear(workspace: Workspace) -> None:
    """Remove the checkpoints, which are several times larger than the model."""
    shutil.rmtree(workspace.checkpoints, ignore_errors=True)


def produce_results(
    spec: JobSpec, workspace: Workspace, context: RunContext, stop: StopSignal, push: Push | None
) -> None:
    """Write all results of a run to the workspace."""
    progress = Progress(context.started, load_seconds(workspace.seconds), stop.check)
    # Choose the device first: a missing GPU must be reported before anything is downloaded.
    machine = choose_machine(context.device, spec.model.precision)
    inputs = prepare_inputs(spec, workspace, machine, progress)
    dataset, base_folder = inputs.dataset, inputs.fetched.model
    prove(inputs, spec, workspace, progress)
    with progress.stage("score base") as facts:
        base = score_base_once(inputs, spec, workspace)
        if is_rank_zero():
            log_base_scores(base)
            save_seconds(workspace.seconds, progress.seconds)
        facts.update(dimension=inputs.dimensions.main, validation=round(base.validation.base, 4))
    with progress.stage("train") as facts:

        def on_checkpoint(folder: Path) -> None:
            progress.update()
            save_seconds(workspace.seconds, progress.seconds)
            if push and spec.output.hub_strategy == "checkpoint":
                push.checkpoint(folder, context.name)

        training_context = TrainingContext(
            workspace, stop, on_checkpoint, base.corpus_vectors, inputs.lora, spec.model.base
        )
        reload = partial(load_base, spec, machine, inputs.fetched, dataset, inputs.lora)
        training, seeds = train_seeds(inputs.model, reload, dataset, base, spec, training_context)
        facts.update(steps=training.steps, resumed_from_step=training.resumed_from_step)
    with progress.stage("score tuned"):
        tuned = score_tuned(inputs, spec, base, training)
        log_scores("tuned", {d: scores["float32"].means() for d, scores in tuned.scores.items()})
    if not is_rank_zero():
        return
    with progress.stage("compare"):
        results = compare_models(inputs, spec, base, training, tuned)
    with progress.stage("store"):
        save_model(tuned.model, workspace.model, dataset, tuned.dtype)
        scores = {"bm25": {0: {"float32": base.bm25}}, "base": base.test, "tuned": tuned.scores}
        write_per_query(workspace.per_query, dataset, scores)
        weights = Both[str](base=fingerprint(base_folder), tuned=fingerprint(workspace.model))
    cost = job_cost(progress.seconds, context.price_per_hour)
    report = build_report(context.name, spec, results, weights, progress.seconds, cost)
    report = describe_scope(report, inputs, spec, base, tuned, seeds)
    write_card(workspace.model, spec.model, base_folder, report)
    write_report(report, workspace.report)
    tell("verdict", report.verdict.sentence)


def prove(inputs: RunInputs, spec: JobSpec, workspace: Workspace, progress: Progress) -> None:
    """Prove that the base model can be trained and saved, before its scores are computed."""
    if spec.training.epochs == 0:
        return
    pairs, dimensions = inputs.dataset.train, inputs.dimensions.all
    found = (inputs.model, spec.model.base, pairs, dimensions, spec.training, workspace.root)
    with progress.stage("proof"):
        prove_trainable(*found)


def score_base_once(inputs: RunInputs, spec: JobSpec, workspace: Workspace) -> Baseline:
    """Score the base model, or load the scores from an earlier start of this run."""
    if is_rank_zero():
        weights = fingerprint(inputs.fetched.model)
        data, precision = inputs.dataset.facts["fingerprint"], inputs.machine.precision
        verify_checkpoints(workspace, provenance_of(spec, data, weights, precision))
    base = load_baseline(workspace.baseline, inputs.model, inputs.dataset, inputs.dimensions, spec)
    if base:
        tell("score base", "reusing the scores from an earlier start of this run")
        return base
    base = score_base(inputs.model, inputs.dataset, inputs.dimensions, spec, inputs.auxiliary)
    if is_rank_zero():
        save_baseline(base, workspace.baseline)
    return base


def log_base_scores(base: Baseline) -> None:
    log_scores("bm25", {0: base.bm25.means()})
    log_scores("base", {d: scores["float32"].means() for d, scores in base.test.items()})


@dataclass(frozen=True)
class Tuned:
    """The tuned model (the base model if no checkpoint was better) and its scores.

    Its weights are rounded to the number format in which they are stored.
    """

    model: Model
    dtype: str
    # By dimension and precision.
    scores: Mapping[int, Mapping[str, Scores]]
    # Scores on the auxiliary tests, by name and dimension.
    auxiliary: Mapping[str, Mapping[int, Scores]]
    # Of the test queries and the whole corpus.
    vectors: Vectors


def score_tuned(inputs: RunInputs, spec: JobSpec, base: Baseline, training: Training) -> Tuned:
    """Score the tuned model, or the base model if no checkpoint was better on validation."""
    evaluation, dimensions = spec.evaluation, inputs.dimensions
    if training.improved_on_validation:
        model = training.model
    else:
        # Load the base model again: training has changed the weights in memory.
        untuned = load_base(spec, inputs.machine, inputs.fetched, inputs.dataset, inputs.lora)
        model = untuned.with_prompts(base.prompts.used)
    dtype = stored_dtype(spec.output.dtype, model)
    is_rounded = round_weights(model.encoder, dtype)
    auxiliary: Mapping[str, Mapping[int, Scores]] = base.auxiliary
    vectors = base.vectors
    if training.improved_on_validation or is_rounded:
        vectors = None
        auxiliary = {
            name: test.score(model, dimensions, evaluation.batch_size)
            for name, test in inputs.auxiliary.items()
        }
    vectors = vectors or embed(
        model, inputs.dataset.test, inputs.dataset.corpus, evaluation.batch_size
    )
    scores = score_vectors(vectors, inputs.dataset.test, dimensions.all, evaluation.precisions)
    return Tuned(model, dtype, scores, auxiliary, vectors)


def compare_models(
    inputs: RunInputs, spec: JobSpec, base: Baseline, training: Training, tuned: Tuned
) -> Results:
    """Compare base and tuned scores; the model is only used to count tokens."""
    test, corpus, evaluation = inputs.dataset.test, inputs.dataset.corpus, spec.evaluation
    by_group = GroupedQueries(test.groups, evaluation.permutations, spec.data.seed)
    scores = (base.test, tuned.scores)
    comparison = compare(*scores, base.bm25, by_group, inputs.dimensions)
    recommended = choose(comparison.points, evaluation)[0]
    swap = compare_swap(*scores, base.bm25, by_group, recommended)
    return Results(
        machine=inputs.machine,
        inputs=inputs.fetched.facts,
        dataset=inputs.dataset,
        base=base,
        training=training,
        tuned_prompts=tuned.model.prompts,
        formats=NumberFormats(
            published=published_dtype(inputs.fetched.model),
            weights=weights_dtype(tuned.model.encoder),
            activations=inputs.machine.precision,
            stored=tuned.dtype,
        ),
        attention={
            "encoding": tuned.model.encoding_attention,
            "training": tuned.model.training_attention,
        },
        tuned=tuned.scores,
        comparison=comparison,
        swap=swap,
        hybrid=hybrid_search(base.bm25, *scores, test, by_group, swap, evaluation.worth),
        error_analysis=analyze_errors(
            test,
            corpus,
            base.test[swap.full_dimension]["float32"],
            tuned.scores[swap.dimension][swap.precision],
            base.bm25,
            spec.data.columns.group,
            spec.data.near_duplicate_threshold,
        ),
        truncation=count_truncated(tuned.model, test, corpus),
        auxiliary={
            name: each.compare(base.auxiliary[name], tuned.auxiliary[name], swap.dimension, spec)
            for name, each in inputs.auxiliary.items()
        },
    )


def describe_scope(
    report: Report,
    inputs: RunInputs,
    spec: JobSpec,
    base: Baseline,
    tuned: Tuned,
    seeds: list[SeedResult],
) -> Report:
    """Add what the results hold for: the size of the corpus, the questions, the trainings."""
    vectors = report.recommendation.dimension, report.recommendation.precision
    sizes = measure_sizes(tuned.vectors, tuned.scores, inputs.dataset, vectors, spec.data.seed)
    return add_scope(report, inputs.dataset, base.test, tuned.scores, sizes, seeds)
