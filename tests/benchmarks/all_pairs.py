"""What models of all pairs gain: `python tests/benchmarks/all_pairs.py --data FILE --rows 800`.

On rows that no run sees (their groups do not touch the others): trainings with three seeds on one
split, the average of their weights, the refit on all pairs, and the average of five folds. Also the
intervals of the lift that one split reports and that the pooled folds report, beside the lift on
the outside rows. Every run searches the documents of all rows, so all lifts are of one task.

With `--results FOLDER`, finished seeds are kept there, and the runs of one that was interrupted, so
that a long measurement can be continued: the same command runs only what is missing.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from outcomes import METRIC, lift, table

sys.path.insert(0, str(Path(__file__).parents[2]))

FOLDS, TRAININGS = 5, 3
BASE, TESTED, SINGLE, CHOSEN = "base", "tested", "single training", "best seed on validation"
REFIT, FOLDS_AVERAGE, SEEDS_AVERAGE = "refit", "average of folds", "average of seeds"
OTHERS = (BASE, CHOSEN, REFIT, FOLDS_AVERAGE, SEEDS_AVERAGE)
ONE_SPLIT, POOLED = "one split", f"{FOLDS} folds"


@dataclass(frozen=True)
class Task:
    """One sample of rows, divided into those of the runs and those outside."""

    seed: int
    data: str
    model: str
    rows: int
    outside: int
    fields: list[str]
    device: str


@dataclass
class Outcome:
    """The result of a task; `scores[model][dimension]` has each outside query, like `queries`.

    `TESTED` is the first of the seeds, whose lift one split reports. `reported` has a lift at full
    width with the ends of its interval; `seconds` are those of each run, and `unimproved` the runs
    that kept the base model, because no checkpoint was better on validation.
    """

    queries: list[str]
    groups: list[int]
    scores: dict[str, dict[int, list[float]]]
    reported: dict[str, tuple[float, float, float]]
    seconds: dict[str, float]
    unimproved: list[str]


def divide(task, folder):
    """Write the rows of the runs, and all documents; return the dataset whose test is outside."""
    from job.data.dataset import load_dataset
    from job.spec.schema import DataSpec

    total = task.rows + task.outside
    spec = DataSpec(
        source=task.data,
        seed=task.seed,
        limit=total,
        # As few as can be: they are rows of the runs.
        validation_fraction=2 / total,
        test_fraction=task.outside / total,
    )
    dataset = load_dataset(spec, {})
    columns = ["anchor", "positive", "negatives"]
    rows = [row for part in dataset.tables[:2] for row in part.select(columns).to_pylist()]
    ids, texts = dataset.corpus.ids.to_pylist(), dataset.corpus.texts.to_pylist()
    documents = [{"id": name, "text": text} for name, text in zip(ids, texts, strict=True)]
    for name, lines in (("own", rows), ("documents", documents)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return dataset


def refit_anyway(refit_if_improved, tested, results, *rest):
    """Train on all pairs even if the small test shows no gain; the report stays the same.

    If no checkpoint was better on validation, it trains to the last step.
    """
    tested = replace(tested, best_share=tested.best_share or 1.0)
    return refit_if_improved(tested, SimpleNamespace(improved=True, swap=results.swap), *rest)


def run_job(task, folder, name, **fields):
    """Run the job; return the folder of its results and its report."""
    from job import pipeline
    from job.runtime.signals import StopSignal
    from job.spec.parse import build_spec, parse_assignments
    from job.storage.workspace import Workspace

    given = {
        "data.source": str(folder / "own.jsonl"),
        "data.corpus": str(folder / "documents.jsonl"),
        "data.seed": str(task.seed),
        "model.base": task.model,
        "output.uri": str(folder / "runs"),
        "evaluation.precisions": "[float32]",
        # A tenth of a small sample is less than a run demands.
        "data.min_test_queries": "10",
        # With the documents of all rows, validation would take longer than training.
        "evaluation.validation_corpus_limit": "100",
    }
    given |= {key.replace("__", "."): str(value) for key, value in fields.items()}
    spec = build_spec({}, given | parse_assignments(task.fields))
    workspace, context = Workspace(folder / name), pipeline.RunContext(name, task.device)
    forced = partial(refit_anyway, pipeline.refit_if_improved)
    with patch.object(pipeline, "refit_if_improved", forced):
        pipeline.run(spec, workspace, context, StopSignal())
    results = folder / "runs" / name
    return results, json.loads((results / "report" / "report.json").read_text("utf-8"))


def average(models, target):
    """Save the average of the weights of saved models."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(models[0], target, dirs_exist_ok=True)
    for path in target.rglob("*.safetensors"):
        parts = [load_file(model / path.relative_to(target)) for model in models]
        mean = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        save_file(mean, path, metadata={"format": "pt"})
    return target


def outside_scores(task, model, dataset):
    """Score a saved model on the outside rows: nDCG@10 of each query by dimension."""
    from job.evaluation.dimensions import dimensions_of
    from job.evaluation.evaluate import score
    from job.model.device import choose_machine
    from job.model.encoder import load_model
    from job.spec.parse import build_spec, parse_assignments

    spec = build_spec({}, {"model.base": str(model)} | parse_assignments(task.fields))
    loaded = load_model(spec.model, choose_machine(task.device, spec.model.precision))
    dimensions = dimensions_of(spec.evaluation, loaded.width).all
    found = score(loaded, dataset.test, dataset.corpus, dimensions, spec.evaluation.batch_size)
    return {dimension: scores.metrics[METRIC].tolist() for dimension, scores in found.items()}


def measure(task, folder):
    """Run the trainings of a task in a folder, and score their models outside.

    Runs that are finished in this folder are not repeated, and others resume.
    """
    dataset = divide(task, folder)
    names = [f"seed {number}" for number in range(TRAININGS)]
    runs = {
        name: run_job(
            task, folder, name, training__seed=task.seed + number, training__refit=number == 0
        )
        for number, name in enumerate(names)
    }
    runs[FOLDS_AVERAGE] = run_job(
        task, folder, FOLDS_AVERAGE, training__seed=task.seed, evaluation__folds=FOLDS
    )
    reports = {name: report for name, (_, report) in runs.items()}
    assert reports[names[0]]["stored"]["kind"] == "refit", reports[names[0]]["stored"]["sentence"]
    models = {name: results / "model" for name, (results, _) in runs.items()}
    models[REFIT] = models[names[0]]
    models[names[0]] = models[REFIT].with_name("model_proven")
    models[SEEDS_AVERAGE] = average([models[name] for name in names], folder / "average")
    models[BASE] = task.model
    scores = {name: outside_scores(task, model, dataset) for name, model in models.items()}
    scores[TESTED] = scores[names[0]]
    scores[SINGLE] = {
        dimension: np.mean([scores[name][dimension] for name in names], axis=0).tolist()
        for dimension in scores[BASE]
    }
    best = max(names, key=lambda name: reports[name]["training"]["best_validation"])
    scores[CHOSEN] = scores[best]
    reported = {
        name: (found["lift"], *found["ci"])
        for name, run in ((ONE_SPLIT, names[0]), (POOLED, FOLDS_AVERAGE))
        for found in [reports[run]["verdict"]["full_width"]]
    }
    return Outcome(
        dataset.test.ids.to_pylist(),
        dataset.test.groups.tolist(),
        scores,
        reported,
        {name: sum(report["seconds"].values()) for name, report in reports.items()},
        [name for name, report in reports.items() if not report["training"]["best_step"]],
    )


def kept(task, results):
    """Return the outcome of a task, which is measured once, and then read from `results`."""
    from pydantic import TypeAdapter

    given = json.dumps(asdict(task), sort_keys=True)
    name = f"{Path(task.data).stem.replace(':', '-')}-{task.seed}"
    file = results / f"{name}-{sha256(given.encode()).hexdigest()[:12]}.json"
    outcomes = TypeAdapter(Outcome)
    if file.is_file():
        return outcomes.validate_json(file.read_bytes())
    folder = file.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    outcome = measure(task, folder)
    whole = file.with_suffix(".part")
    whole.write_bytes(outcomes.dump_json(outcome))
    whole.rename(file)
    shutil.rmtree(folder)
    return outcome


def report_on(outcomes):
    """Print the scores of all seeds' outside queries, the differences and the intervals."""
    dimensions = list(outcomes[0].scores[BASE])
    pairs = [(outcome, outcome) for outcome in outcomes]
    lines, differences = [], []
    for model in (BASE, SINGLE, *OTHERS[1:]):
        values = [
            np.concatenate([outcome.scores[model][d] for outcome in outcomes]) for d in dimensions
        ]
        lines.append([model, *(f"{found.mean():.3f}" for found in values)])
    for model in OTHERS:
        lifts = [lift(pairs, model, SINGLE, dimension) for dimension in dimensions]
        differences.append([f"{model} − {SINGLE}", *map(with_interval, lifts)])
    count = sum(len(outcome.queries) for outcome in outcomes)
    print(f"\n{METRIC} by dimension, {count} outside queries of {len(outcomes)} samples\n")
    print(table(["model", *map(str, dimensions)], lines))
    print("\nPaired by query, 95 % interval over groups of queries\n")
    print(table(["difference", *map(str, dimensions)], differences))
    print("\nReported lifts at full width beside those on the outside rows\n")
    head = ["seed and test", "reported", "width", "outside", "is in the interval"]
    rows = [
        interval_row(f"{number}, {name}", outcome, name, dimensions[0])
        for number, outcome in enumerate(outcomes, 1)
        for name in outcome.reported
    ]
    print(table(head, rows))
    for run in outcomes[0].seconds:
        seconds = np.mean([outcome.seconds[run] for outcome in outcomes])
        unimproved = sum(run in outcome.unimproved for outcome in outcomes)
        print(f"{run}: {seconds:.0f} s a run, {unimproved} of {len(outcomes)} kept the base model")


def interval_row(label, outcome, name, dimension):
    """Compare a reported lift with that of its model, with folds of a single training, outside."""
    found, low, high = outcome.reported[name]
    outside = lift([(outcome, outcome)], TESTED if name == ONE_SPLIT else SINGLE, BASE, dimension)
    is_in = "yes" if low <= outside.lift <= high else "no"
    reported = f"{found:+.3f} [{low:+.3f}, {high:+.3f}]"
    return [label, reported, f"{high - low:.3f}", with_interval(outside), is_in]


def with_interval(found):
    return f"{found.lift:+.3f} [{found.ci[0]:+.3f}, {found.ci[1]:+.3f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--outside", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", dest="fields")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, help="folder to keep finished seeds in")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        results, outcomes = given.results or Path(temporary), []
        for seed in given.seeds:
            task = Task(
                seed, given.data, given.model, given.rows, given.outside, given.fields, given.device
            )
            outcomes.append(kept(task, results))
            print(f"seed {seed}: {sum(outcomes[-1].seconds.values()):.0f} s", file=sys.stderr)
    print(f"{given.model} on {given.data}: {given.rows} rows, seeds {given.seeds}")
    report_on(outcomes)


if __name__ == "__main__":
    main()
