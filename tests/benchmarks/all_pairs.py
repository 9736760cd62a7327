"""What models of all pairs gain: `python tests/benchmarks/all_pairs.py --data FILE --rows 800`.

On rows that no run sees (their groups do not touch the others): the tested model of one split, the
refit on all pairs, and the average of five folds. For each seed also the interval of the lift that
one split reports and that the pooled folds report, beside the lift on the outside rows.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

METRIC = "ndcg@10"
FOLDS = 5


def divide(arguments, seed, folder):
    """Write the rows of the runs to a file; return it with the dataset whose test is outside."""
    from job.data.dataset import load_dataset
    from job.spec.schema import DataSpec

    total = arguments.rows + arguments.outside
    spec = DataSpec(
        source=arguments.data,
        seed=seed,
        limit=total,
        validation_fraction=0.001,
        test_fraction=arguments.outside / total,
    )
    dataset = load_dataset(spec, {})
    own = folder / "own.jsonl"
    columns = ["anchor", "positive", "negatives"]
    rows = [row for table in dataset.tables[:2] for row in table.select(columns).to_pylist()]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return own, dataset


def run_job(own, arguments, seed, folder, name, **fields):
    """Run the job; return the folder of its results and its report."""
    from job.pipeline import RunContext, run
    from job.runtime.signals import StopSignal
    from job.spec.parse import build_spec, parse_assignments
    from job.storage.workspace import Workspace

    given = {
        "data.source": str(own),
        "data.seed": str(seed),
        "training.seed": str(seed),
        "model.base": arguments.model,
        "output.uri": str(folder / "runs"),
        "evaluation.precisions": "[float32]",
    }
    given |= parse_assignments(arguments.fields)
    spec = build_spec({}, given | {key.replace("__", "."): value for key, value in fields.items()})
    run(spec, Workspace(folder / name), RunContext(name, arguments.device), StopSignal())
    results = folder / "runs" / name
    return results, json.loads((results / "report" / "report.json").read_text("utf-8"))


def outside_scores(model, dataset, arguments):
    """Score a saved model on the outside rows: nDCG@10 of each query by dimension."""
    from job.evaluation.dimensions import dimensions_of
    from job.evaluation.evaluate import score
    from job.model.device import choose_machine
    from job.model.encoder import load_model
    from job.spec.schema import EvaluationSpec, ModelSpec

    machine = choose_machine(arguments.device, "auto")
    loaded = load_model(ModelSpec(base=str(model)), machine)
    dimensions = dimensions_of(EvaluationSpec(), loaded.width).all
    found = score(loaded, dataset.test, dataset.corpus, dimensions, 1024)
    return {dimension: scores.metrics[METRIC] for dimension, scores in found.items()}


def measure(arguments, seed):
    """Return nDCG@10 of each outside query by model and dimension, and the reported lifts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own, dataset = divide(arguments, seed, folder)
        single, report = run_job(own, arguments, seed, folder, "single", training__refit="true")
        folds, pooled = run_job(own, arguments, seed, folder, "folds", evaluation__folds=str(FOLDS))
        refit = report["stored"]["kind"] == "refit"
        models = {
            "base": arguments.model,
            "tested": single / ("model_proven" if refit else "model"),
            "refit": single / "model",
            "average": folds / "model",
        }
        scores = {name: outside_scores(model, dataset, arguments) for name, model in models.items()}
    stored = {name: found.get("stored") for name, found in (("single", report), ("folds", pooled))}
    reported = {
        name: {"lift": found["verdict"]["full_width"], "seconds": sum(found["seconds"].values())}
        for name, found in (("single", report), ("folds", pooled))
    }
    return dataset.test.groups, scores, reported, stored


def main():
    from job.evaluation.significance import GroupedQueries

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--outside", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", dest="fields")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    print("| seed | model | nDCG@10 by dimension | minus the tested model, 95 % interval |")
    print("|---:|:---|:---|:---|")
    for seed in arguments.seeds:
        groups, scores, reported, stored = measure(arguments, seed)
        by_group = GroupedQueries(groups, 2_000, 0)
        for name, found in scores.items():
            means = " / ".join(f"{values.mean():.3f}" for values in found.values())
            lifts = [by_group.lift(found[d] - scores["tested"][d]) for d in found]
            against = " / ".join(
                f"{lift.lift:+.3f} [{lift.ci[0]:+.3f}, {lift.ci[1]:+.3f}]" for lift in lifts
            )
            print(f"| {seed} | {name} | {means} | {against} |", flush=True)
        full = max(scores["base"])
        for name, found in reported.items():
            low, high = found["lift"]["ci"]
            outside = scores["tested"][full].mean() - scores["base"][full].mean()
            print(
                f"\nSeed {seed}, {name}: reported lift {found['lift']['lift']:+.3f} "
                f"[{low:+.3f}, {high:+.3f}], width {high - low:.3f}; outside {outside:+.3f} "
                f"(the tested model of one split); {found['seconds']:.0f} s"
            )
            print(stored[name] and stored[name]["sentence"], flush=True)


if __name__ == "__main__":
    main()
