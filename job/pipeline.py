"""The story of a run on one page: data → score → train → score → compare → report → store."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from job import store
from job.baseline import Baseline, score_base
from job.card import write_card
from job.compare import compare
from job.data import load_dataset, write_splits
from job.evaluate import Vectors, choose_dimensions, embed, score_vectors
from job.fetch import fetch_inputs
from job.hub import Push, checkpoint_pusher
from job.interruption import StopSignal
from job.machine import Machine, choose_machine
from job.model import Model, load_model
from job.places import open_place
from job.progress import Progress, log, log_scores, logged_to, quieten_libraries
from job.report import Results, build_report, job_cost
from job.spec import JobSpec
from job.train import train
from job.where import look_where
from job.workspace import Workspace


@dataclass(frozen=True)
class Circumstances:
    """What a run is told beside its spec: its name, the device, the machine's price, its start."""

    name: str
    device: str = "auto"
    price_per_hour: float | None = None
    # Where nothing but the workspace can be reached, its results stay in it.
    publish: bool = True
    # By `time.perf_counter()`.
    started: float = field(default_factory=time.perf_counter)


def run(spec: JobSpec, workspace: Workspace, where: Circumstances, stop: StopSignal) -> None:
    """Do the whole job; the results lie in the workspace and, published, in `output.uri`/name."""
    output = spec.output
    destination = None
    if where.publish:
        destination = open_place(output.uri, output.kms_key).join(where.name)
        store.claim(destination, spec)
        if store.is_complete(destination):
            log.info("run: `%s` is finished already; nothing to do", destination.uri)
            return
    workspace.write_spec(spec)
    quieten_libraries()
    push = Push(output.hub, private=output.hub_private) if output.hub else None
    if not workspace.is_complete:
        with logged_to(workspace.logs):
            if push:
                push.prepare()
            produce(spec, workspace, where, stop, push)
        store.write_manifest(workspace)
    if destination:
        store.publish(workspace, destination)
    if push:
        store.push_model(workspace, push, where.name, always=output.hub_always)
    if destination:
        store.complete(workspace, destination)
    # They served to take the run up again, which is over, and are several times the model's size.
    shutil.rmtree(workspace.checkpoints, ignore_errors=True)


def produce(
    spec: JobSpec,
    workspace: Workspace,
    where: Circumstances,
    stop: StopSignal,
    push: Push | None = None,
) -> None:
    """Make everything that a run leaves, in the workspace."""
    evaluation, progress = spec.evaluation, Progress(where.started)
    on_checkpoint = None
    if push and spec.output.hub_strategy == "checkpoint":
        on_checkpoint = checkpoint_pusher(push, where.name)

    # A GPU that is wanted and missing is told before anything is downloaded.
    machine = choose_machine(where.device, spec.model.precision)
    with progress.stage("fetch") as facts:
        inputs = fetch_inputs(spec, workspace)
        facts.update({role: found["uri"] for role, found in inputs.facts.items()})
    with progress.stage("data") as facts:
        dataset = load_dataset(spec.data, inputs.channels, evaluation.protocol)
        write_splits(dataset, workspace.splits)
        facts.update(dataset.facts["splits"], corpus=len(dataset.corpus))
    with progress.stage("model") as facts:
        base_model = load_model(spec.model, machine, inputs.model)
        dimensions = choose_dimensions(evaluation, base_model.width)
        facts.update(vars(machine))
    with progress.stage("score base"):
        base = score_base(base_model, dataset, dimensions, spec)
        log_scores("bm25", {0: base.bm25.means()})
        log_scores("base", {d: scores["float32"].means() for d, scores in base.test.items()})
    with progress.stage("train"):
        model = base_model.with_prompts(base.tuned_prompts)
        training = train(
            model,
            dataset.training,
            base.validation,
            spec.training,
            workspace,
            stop,
            base.corpus_vectors,
            on_checkpoint,
        )
    with progress.stage("score tuned"):
        if training.improved_on_validation:
            model = training.model
            vectors = embed(model, dataset.test, dataset.corpus, evaluation.batch_size)
        else:
            model, vectors = untuned(spec, machine, inputs.model, base)
        tuned = score_vectors(vectors, dataset.test, dimensions.all, evaluation.precisions)
        log_scores("tuned", {d: scores["float32"].means() for d, scores in tuned.items()})
    with progress.stage("compare"):
        groups = dataset.test.groups
        comparison = compare(base.test, tuned, groups, dimensions, evaluation, spec.data.seed)
        before, after = (scores[dimensions.main]["float32"] for scores in (base.test, tuned))
        changes = look_where(dataset.test, dataset.corpus, before, after, base.bm25)
    with progress.stage("store"):
        store.save_model(model, workspace.model, dataset)
        bm25 = {0: {"float32": base.bm25}}
        every_query = {"bm25": bm25, "base": base.test, "tuned": tuned}
        store.write_per_query(workspace.per_query, dataset, every_query)
    results = Results(
        machine, inputs.facts, dataset, base, training, model.prompts, tuned, comparison, changes
    )
    cost = job_cost(progress.seconds, where.price_per_hour)
    report = build_report(where.name, spec, results, progress.seconds, cost)
    write_card(workspace.model, spec.model, inputs.model, report)
    store.write_report(report, workspace.report)
    log.info("verdict: %s", report["verdict"]["sentence"])


def untuned(spec: JobSpec, machine: Machine, folder: Path, base: Baseline) -> tuple[Model, Vectors]:
    """Return the base model as it was: the result where no checkpoint beat it."""
    # Training has changed the weights of the one in memory.
    model = load_model(spec.model, machine, folder)
    return model.with_prompts(base.prompts.used), base.vectors
