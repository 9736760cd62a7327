"""The story of a run on one page: data → score → train → score → compare → report → publish.

Every process of a run goes through it: all read, encode and train; rank 0 judges and writes.
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
from job.evaluation.auxiliary import AuxiliaryTest, auxiliary_tests
from job.evaluation.baseline import Baseline, load_baseline, save_baseline, score_base
from job.evaluation.cache import load_seconds, save_seconds
from job.evaluation.comparison import compare
from job.evaluation.error_analysis import analyze_errors
from job.evaluation.evaluate import Dimensions, choose_dimensions, embed, score_vectors
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
from job.runtime.logs import Progress, log_scores, logged_to, quieten_libraries, tell
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
    """What a run is told beside its spec: its name, the device, the machine's price, its start."""

    name: str
    device: str = "auto"
    price_per_hour: float | None = None
    # Where nothing but the workspace can be reached, its results stay in it.
    publish: bool = True
    # By `time.perf_counter()`.
    started: float = field(default_factory=time.perf_counter)


def run(spec: JobSpec, workspace: Workspace, where: RunContext, stop: StopSignal) -> None:
    """Do the whole job; the results lie in the workspace and, published, in `output.uri`/name."""
    output = spec.output
    destination, push = None, None
    if where.publish:
        destination = open_store(output.uri, output.kms_key).join(where.name)
    if output.hub:
        push = Push(output.hub, private=output.hub_private)

    def is_finished() -> bool:
        if destination:
            publish.reserve(destination, spec)
            if publish.is_complete(destination):
                tell("run", f"`{destination.uri}` is finished already; nothing to do")
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
            publish.push_model(workspace, push, where.name, always=output.hub_always)
        if destination:
            publish.complete(workspace, destination)
        _clear(workspace)

    if from_rank_zero(is_finished):
        return
    quieten_libraries()
    if not from_rank_zero(lambda: workspace.is_complete):
        with logged_to(workspace.logs) if is_rank_zero() else nullcontext():
            if push and is_rank_zero():
                push.prepare()
            produce(spec, workspace, where, stop, push)
    stop.check()
    from_rank_zero(publish_results)


def _clear(workspace: Workspace) -> None:
    """Remove what served to take the run up again, which is several times the model's size."""
    shutil.rmtree(workspace.checkpoints, ignore_errors=True)


def produce(
    spec: JobSpec, workspace: Workspace, where: RunContext, stop: StopSignal, push: Push | None
) -> None:
    """Make everything that a run leaves, in the workspace."""
    progress = Progress(where.started, load_seconds(workspace.seconds), stop.check)
    # A GPU that is wanted and missing is told before anything is downloaded.
    machine = choose_machine(where.device, spec.model.precision)
    task = prepare(spec, workspace, machine, progress)
    with progress.stage("score base"):
        base = score_base_once(task, spec, workspace)
        if is_rank_zero():
            log_scores("bm25", {0: base.bm25.means()})
            log_scores("base", {d: scores["float32"].means() for d, scores in base.test.items()})
            save_seconds(workspace.seconds, progress.seconds)
    with progress.stage("train") as facts:

        def on_checkpoint(folder: Path) -> None:
            progress.note()
            save_seconds(workspace.seconds, progress.seconds)
            if push and spec.output.hub_strategy == "checkpoint":
                push.checkpoint(folder, where.name)

        model = task.model.with_prompts(base.tuned_prompts)
        context = TrainingContext(workspace, stop, on_checkpoint, base.corpus_vectors)
        training = train(model, task.dataset.training, base.validation, spec.training, context)
        facts.update(steps=training.steps, resumed_from_step=training.resumed_from_step)
    with progress.stage("score tuned"):
        tuned = score_tuned(task, spec, base, training)
        log_scores("tuned", {d: scores["float32"].means() for d, scores in tuned.scores.items()})
    if not is_rank_zero():
        return
    with progress.stage("compare"):
        results = conclude(task, spec, base, training, tuned)
    with progress.stage("store"):
        save_model(tuned.model, workspace.model, task.dataset)
        bm25 = {0: {"float32": base.bm25}}
        every_query = {"bm25": bm25, "base": base.test, "tuned": tuned.scores}
        write_per_query(workspace.per_query, task.dataset, every_query)
        weights = Both[str](base=fingerprint(task.inputs.model), tuned=fingerprint(workspace.model))
    cost = job_cost(progress.seconds, where.price_per_hour)
    report = build_report(where.name, spec, results, weights, progress.seconds, cost)
    write_card(workspace.model, spec.model, task.inputs.model, report)
    write_report(report, workspace.report)
    tell("verdict", report.verdict.sentence)


@dataclass(frozen=True)
class RunInputs:
    """All that a run begins with: what to train on, to test on, and the model to start from."""

    machine: Machine
    inputs: Inputs
    dataset: Dataset
    others: Mapping[str, AuxiliaryTest]
    model: Model
    dimensions: Dimensions


def prepare(spec: JobSpec, workspace: Workspace, machine: Machine, progress: Progress) -> RunInputs:
    with progress.stage("fetch") as facts:
        inputs = fetch_on_each_host(spec, workspace)
        facts.update({role: found["uri"] for role, found in inputs.facts.items()})

    def read() -> tuple[Dataset, dict[str, AuxiliaryTest]]:
        dataset = load_dataset(spec.data, inputs.channels, spec.evaluation.protocol)
        return dataset, auxiliary_tests(spec, inputs.channels, dataset)

    with progress.stage("data") as facts:
        dataset, others = process_group.once_per_host(read)
        require_same_inputs(dataset, inputs)
        if is_rank_zero():
            write_splits(dataset, workspace.splits)
        facts.update(dataset.facts["splits"], corpus=len(dataset.corpus))
    with progress.stage("model") as facts:
        model = load_model(spec.model, machine, inputs.model)
        dimensions = choose_dimensions(spec.evaluation, model.width)
        if spec.training.epochs != 0 and is_rank_zero():
            require_disk_space(model, workspace)
        facts.update(vars(machine))
    return RunInputs(machine, inputs, dataset, others, model, dimensions)


def fetch_on_each_host(spec: JobSpec, workspace: Workspace) -> Inputs:
    """Fetch the inputs on rank 0, then the same versions of them on the other hosts."""
    own = fetch_inputs(spec, workspace) if is_rank_zero() else None
    facts = from_rank_zero(lambda: own.facts if own else {})
    resolved = {role: found for role, found in facts.items() if {"commit", "version"} & {*found}}

    def fetch_again() -> Inputs:
        # What a start that ended early has left may be incomplete.
        shutil.rmtree(workspace.fetched, ignore_errors=True)
        return fetch_inputs(spec, workspace, resolved)

    return process_group.once_per_host(lambda: own or fetch_again())


def require_same_inputs(dataset: Dataset, inputs: Inputs) -> None:
    """Raise `DataError` on every rank unless all hosts have read the same data and model."""
    if process_group.host_count() == 1:
        return
    own = None
    if process_group.local_rank() == 0:
        own = {"data": dataset.facts["fingerprint"], "model": fingerprint(inputs.model)}
    first, *others = filter(None, process_group.all_gather_objects(own))
    for host, found in enumerate(others, start=2):
        if found != first:
            what = "base model" if found["data"] == first["data"] else "data"
            msg = (
                f"Host {host} of {process_group.host_count()} has read another {what} than host 1. "
                "Give every host all files of each channel (`FullyReplicated`)."
            )
            raise DataError(msg)


def score_base_once(task: RunInputs, spec: JobSpec, workspace: Workspace) -> Baseline:
    """Score the base model, or take up what an earlier start of this run has scored."""
    if is_rank_zero():
        weights = fingerprint(task.inputs.model)
        data, precision = task.dataset.facts["fingerprint"], task.machine.precision
        verify_checkpoints(workspace, provenance_of(spec, data, weights, precision))
    base = load_baseline(workspace.baseline, task.model, task.dataset, task.dimensions, spec)
    if base:
        tell("score base", "taken from an earlier start of this run")
        return base
    base = score_base(task.model, task.dataset, task.dimensions, spec, task.others)
    if is_rank_zero():
        save_baseline(base, workspace.baseline)
    return base


@dataclass(frozen=True)
class Tuned:
    """What the training made, or the base model where no checkpoint beat it, and its scores."""

    model: Model
    # By dimension and precision, and those of the tests beside by name and dimension.
    scores: Mapping[int, Mapping[str, Scores]]
    others: Mapping[str, Mapping[int, Scores]]


def score_tuned(task: RunInputs, spec: JobSpec, base: Baseline, training: Training) -> Tuned:
    evaluation, dimensions = spec.evaluation, task.dimensions
    if training.improved_on_validation:
        model = training.model
        vectors = embed(model, task.dataset.test, task.dataset.corpus, evaluation.batch_size)
        others: Mapping[str, Mapping[int, Scores]] = {
            name: test.score(model, dimensions, evaluation.batch_size)
            for name, test in task.others.items()
        }
    else:
        # Training has changed the weights of the one in memory.
        untuned = load_model(spec.model, task.machine, task.inputs.model)
        model, others = untuned.with_prompts(base.prompts.used), base.auxiliary
        vectors = base.vectors or embed(
            model, task.dataset.test, task.dataset.corpus, evaluation.batch_size
        )
    scores = score_vectors(vectors, task.dataset.test, dimensions.all, evaluation.precisions)
    return Tuned(model, scores, others)


def conclude(
    task: RunInputs, spec: JobSpec, base: Baseline, training: Training, tuned: Tuned
) -> Results:
    """Compare what was scored; computes nothing with the model but token counts."""
    test, corpus, main = task.dataset.test, task.dataset.corpus, task.dimensions.main
    by_group = GroupedQueries(test.groups, spec.evaluation.permutations, spec.data.seed)
    before, after = (scores[main]["float32"] for scores in (base.test, tuned.scores))
    column = spec.data.columns.group
    return Results(
        machine=task.machine,
        inputs=task.inputs.facts,
        dataset=task.dataset,
        base=base,
        training=training,
        tuned_prompts=tuned.model.prompts,
        tuned=tuned.scores,
        comparison=compare(base.test, tuned.scores, base.bm25, by_group, task.dimensions),
        hybrid=hybrid_search(base.bm25, base.test, tuned.scores, test, by_group, main),
        error_analysis=analyze_errors(test, corpus, before, after, base.bm25, column),
        truncation=count_truncated(tuned.model, test, corpus),
        others={
            name: test.compare(base.auxiliary[name], tuned.others[name], task.dimensions, spec)
            for name, test in task.others.items()
        },
    )
