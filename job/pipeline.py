"""A run, step by step: data → score → train → score → compare → report → publish.

Every process of a run executes these steps: all ranks read, encode and train; rank 0 computes the
statistics and writes the results.
"""

import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from job.core.errors import DataError
from job.data.dataset import Dataset, load_dataset, write_splits
from job.distributed import process_group
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.auxiliary_tests import AuxiliaryTest, auxiliary_tests
from job.evaluation.base_vs_tuned import compare
from job.evaluation.baseline import Baseline, load_baseline, save_baseline, score_base
from job.evaluation.cache import load_seconds, save_seconds
from job.evaluation.dimensions import Dimensions
from job.evaluation.error_analysis import analyze_errors
from job.evaluation.evaluate import choose_dimensions, embed, score_vectors
from job.evaluation.hybrid import hybrid_search
from job.evaluation.metrics import Scores
from job.evaluation.results import Both
from job.evaluation.significance import GroupedQueries
from job.evaluation.truncation import count_truncated
from job.inputs import Inputs, fetch_inputs
from job.model.device import Machine, choose_machine
from job.model.encoder import Model, load_model
from job.model.save import fingerprint, save_model
from job.report.build import Results, build_report, job_cost
from job.report.model_card import write_card
from job.report.write import write_per_query, write_report
from job.runtime.logs import Progress, disable_progress_bars, log_scores, log_to_folder, tell, warn
from job.runtime.signals import StopSignal
from job.spec.schema import JobSpec
from job.storage import publish
from job.storage.hub import Push
from job.storage.stores import open_store
from job.storage.workspace import Workspace
from job.training.disk_space import require_disk_space
from job.training.provenance import provenance_of, verify_checkpoints
from job.training.train import Training, TrainingContext, train


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
    with progress.stage("score base") as facts:
        base = score_base_once(inputs, spec, workspace)
        if is_rank_zero():
            log_scores("bm25", {0: base.bm25.means()})
            log_scores("base", {d: scores["float32"].means() for d, scores in base.test.items()})
            save_seconds(workspace.seconds, progress.seconds)
        facts.update(dimension=inputs.dimensions.main, validation=round(base.validation.base, 4))
    with progress.stage("train") as facts:

        def on_checkpoint(folder: Path) -> None:
            progress.update()
            save_seconds(workspace.seconds, progress.seconds)
            if push and spec.output.hub_strategy == "checkpoint":
                push.checkpoint(folder, context.name)

        model = inputs.model.with_prompts(base.tuned_prompts)
        training_context = TrainingContext(workspace, stop, on_checkpoint, base.corpus_vectors)
        training = train(model, dataset.training, base.validation, spec.training, training_context)
        facts.update(steps=training.steps, resumed_from_step=training.resumed_from_step)
    with progress.stage("score tuned"):
        tuned = score_tuned(inputs, spec, base, training)
        log_scores("tuned", {d: scores["float32"].means() for d, scores in tuned.scores.items()})
    if not is_rank_zero():
        return
    with progress.stage("compare"):
        results = compare_models(inputs, spec, base, training, tuned)
    with progress.stage("store"):
        save_model(tuned.model, workspace.model, dataset)
        bm25 = {0: {"float32": base.bm25}}
        every_query = {"bm25": bm25, "base": base.test, "tuned": tuned.scores}
        write_per_query(workspace.per_query, dataset, every_query)
        weights = Both[str](base=fingerprint(base_folder), tuned=fingerprint(workspace.model))
    cost = job_cost(progress.seconds, context.price_per_hour)
    report = build_report(context.name, spec, results, weights, progress.seconds, cost)
    write_card(workspace.model, spec.model, base_folder, report)
    write_report(report, workspace.report)
    tell("verdict", report.verdict.sentence)


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


def prepare_inputs(
    spec: JobSpec, workspace: Workspace, machine: Machine, progress: Progress
) -> RunInputs:
    """Fetch the inputs, read and split the data, and load the base model."""
    with progress.stage("fetch") as facts:
        fetched = fetch_on_each_host(spec, workspace)
        facts.update({role: found["uri"] for role, found in fetched.facts.items()})

    def read() -> tuple[Dataset, dict[str, AuxiliaryTest]]:
        dataset = load_dataset(spec.data, fetched.channels, spec.evaluation.protocol)
        return dataset, auxiliary_tests(spec, fetched.channels, dataset)

    with progress.stage("data") as facts:
        dataset, auxiliary = process_group.once_per_host(read)
        require_same_inputs(dataset, fetched)
        if is_rank_zero():
            write_splits(dataset, workspace.splits)
            for sentence in dataset.facts["warnings"]:
                warn("data", sentence)
        facts.update(format=dataset.facts["format"], **dataset.facts["splits"])
        facts.update(corpus=len(dataset.corpus))
    with progress.stage("model") as facts:
        model = load_model(spec.model, machine, fetched.model)
        dimensions = choose_dimensions(spec.evaluation, model.width)
        if spec.training.epochs != 0 and is_rank_zero():
            require_disk_space(model, workspace)
        facts.update(vars(machine))
    return RunInputs(machine, fetched, dataset, auxiliary, model, dimensions)


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


def require_same_inputs(dataset: Dataset, fetched: Inputs) -> None:
    """Raise `DataError` on every rank unless all hosts read the same data and model."""
    if process_group.host_count() == 1:
        return
    fingerprints = None
    if process_group.local_rank() == 0:
        fingerprints = {"data": dataset.facts["fingerprint"], "model": fingerprint(fetched.model)}
    first, *others = filter(None, process_group.all_gather_objects(fingerprints))
    for host, found in enumerate(others, start=2):
        if found != first:
            what = "base model" if found["data"] == first["data"] else "data"
            msg = (
                f"The {what} of host {host} (of {process_group.host_count()}) differs from that of "
                "host 1. Give every host all files of each channel (`FullyReplicated`)."
            )
            raise DataError(msg)


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


@dataclass(frozen=True)
class Tuned:
    """The tuned model (the base model if no checkpoint was better) and its scores."""

    model: Model
    # By dimension and precision.
    scores: Mapping[int, Mapping[str, Scores]]
    # Scores on the auxiliary tests, by name and dimension.
    auxiliary: Mapping[str, Mapping[int, Scores]]


def score_tuned(inputs: RunInputs, spec: JobSpec, base: Baseline, training: Training) -> Tuned:
    """Score the tuned model, or the base model if no checkpoint was better on validation."""
    evaluation, dimensions = spec.evaluation, inputs.dimensions
    if training.improved_on_validation:
        model = training.model
        vectors = embed(model, inputs.dataset.test, inputs.dataset.corpus, evaluation.batch_size)
        auxiliary: Mapping[str, Mapping[int, Scores]] = {
            name: test.score(model, dimensions, evaluation.batch_size)
            for name, test in inputs.auxiliary.items()
        }
    else:
        # Load the base model again: training has changed the weights in memory.
        untuned = load_model(spec.model, inputs.machine, inputs.fetched.model)
        model, auxiliary = untuned.with_prompts(base.prompts.used), base.auxiliary
        vectors = base.vectors or embed(
            model, inputs.dataset.test, inputs.dataset.corpus, evaluation.batch_size
        )
    scores = score_vectors(vectors, inputs.dataset.test, dimensions.all, evaluation.precisions)
    return Tuned(model, scores, auxiliary)


def compare_models(
    inputs: RunInputs, spec: JobSpec, base: Baseline, training: Training, tuned: Tuned
) -> Results:
    """Compare base and tuned scores; the model is only used to count tokens."""
    test, corpus, main = inputs.dataset.test, inputs.dataset.corpus, inputs.dimensions.main
    by_group = GroupedQueries(test.groups, spec.evaluation.permutations, spec.data.seed)
    before, after = (scores[main]["float32"] for scores in (base.test, tuned.scores))
    column = spec.data.columns.group
    return Results(
        machine=inputs.machine,
        inputs=inputs.fetched.facts,
        dataset=inputs.dataset,
        base=base,
        training=training,
        tuned_prompts=tuned.model.prompts,
        tuned=tuned.scores,
        comparison=compare(base.test, tuned.scores, base.bm25, by_group, inputs.dimensions),
        hybrid=hybrid_search(base.bm25, base.test, tuned.scores, test, by_group, main),
        error_analysis=analyze_errors(test, corpus, before, after, base.bm25, column),
        truncation=count_truncated(tuned.model, test, corpus),
        auxiliary={
            name: test.compare(base.auxiliary[name], tuned.auxiliary[name], inputs.dimensions, spec)
            for name, test in inputs.auxiliary.items()
        },
    )
