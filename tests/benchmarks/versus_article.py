"""Compare our job with the article's recipe: `make bench`.

Both train the same model on the same split in the same precision, in turns, each in a separate
process. Our evaluation scores every row of the first table on a test set that only the article uses
to select its checkpoint. Rows are medians over seeds; each seed draws another sample and split.

With `--results FOLDER`, each finished side of a seed is kept there, so that a long comparison can
be continued: the same command runs only what is missing.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

METRIC = "ndcg@10"
PHASES = ("start", "score base", "train", "score tuned")
# Our sides are presets, or the defaults with as many epochs as the article's side.
SAME_EPOCHS = "same epochs"
ARTICLE, FLOAT32 = "article", "article, float32"
ON_VALIDATION = "article, chosen on validation"


@dataclass(frozen=True)
class Task:
    """One side with one seed."""

    side: str
    seed: int
    data: str
    model: str
    limit: int | None
    epochs: int
    device: str
    dimensions: str | None = None
    # Whether the article's side leaves out what does not change its model.
    scores_only: bool = False


@dataclass
class Outcome:
    """The result of a task; `scores[row][dimension]` lists nDCG@10 in the order of `queries`."""

    seconds: dict[str, float]
    counts: dict[str, float]
    queries: list[str]
    # The group of each query; only the article's side fills it in.
    groups: list[int] = field(default_factory=list)
    scores: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    # Seconds since the start, and the validation score of the model at that time; the article's
    # side has only that of its chosen checkpoint, at its end.
    validated: list[tuple[float, float]] = field(default_factory=list)


def work(task: Task) -> Outcome:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        side = as_article if task.side.startswith(ARTICLE) else as_ours
        return side(task, Path(folder), started)


def spec_of(task: Task, **settings: str):
    from job.spec.parse import build_spec

    base = {
        "data.source": task.data,
        "data.seed": str(task.seed),
        "model.base": task.model,
        "training.seed": str(task.seed),
    }
    if task.limit:
        base["data.limit"] = str(task.limit)
    if task.dimensions:
        base["evaluation.dimensions"] = f"[{task.dimensions}]"
    return build_spec({}, base | settings)


def as_article(task: Task, folder: Path, started: float) -> Outcome:
    from article import run_recipe, train_only
    from metering import Meter, peak_mib
    from sentence_transformers import SentenceTransformer

    from job.data.dataset import load_dataset
    from job.evaluation.evaluate import (
        Validation,
        choose_dimensions,
        metric_key,
        sample_corpus,
        score,
    )
    from job.model.device import choose_machine
    from job.model.encoder import Model, Prompts, load_model
    from job.runtime.logs import disable_progress_bars

    disable_progress_bars()
    precision = "float32" if task.side == FLOAT32 else "auto"
    attention = "auto" if task.scores_only else "sdpa"
    spec = spec_of(task, **{"model.precision": precision, "model.attention": attention})
    dataset = load_dataset(spec.data, {})
    model = load_model(spec.model, choose_machine(task.device, precision)).with_prompts(Prompts())
    dimensions = choose_dimensions(spec.evaluation, model.width)
    meter = Meter()
    meter.seconds["start"] = time.perf_counter() - started
    with meter.watching():
        train = train_only if task.scores_only else run_recipe
        run = train(model, dataset, dimensions.all, task.epochs, task.seed, folder, meter)
    outcome = Outcome(
        dict(meter.seconds),
        counts_of(meter, run.updates, peak_mib()),
        dataset.test.ids.to_pylist(),
        dataset.test.groups.tolist(),
    )

    # Not timed: our evaluation scores the checkpoints.
    batch = spec.evaluation.batch_size
    search = sample_corpus(
        dataset.validation, dataset.corpus, spec.evaluation.validation_corpus_limit, spec.data.seed
    )
    validation = Validation(search, dimensions, batch, 0.0)

    def load(checkpoint: Path) -> Model:
        saved = SentenceTransformer(str(checkpoint), device="cpu")
        model.encoder.load_state_dict(saved.state_dict())
        return model

    validated = {
        checkpoint: validation.score(load(checkpoint))[metric_key(dimensions.main)]
        for checkpoint in run.checkpoints
    }
    outcome.validated = [(sum(meter.seconds.values()), validated[run.chosen])]
    rows = {task.side: run.chosen}
    if task.side == ARTICLE:
        rows[ON_VALIDATION] = max(validated, key=validated.get)
    tested = {
        checkpoint: score(load(checkpoint), dataset.test, dataset.corpus, dimensions.all, batch)
        for checkpoint in set(rows.values())
    }
    for row, checkpoint in rows.items():
        scores = tested[checkpoint].items()
        outcome.scores[row] = {d: found.metrics[METRIC].tolist() for d, found in scores}
    return outcome


def as_ours(task: Task, folder: Path, started: float) -> Outcome:
    import pyarrow.parquet as pq
    from metering import Meter, peak_mib

    from job.pipeline import RunContext, run
    from job.runtime.signals import StopSignal
    from job.storage.workspace import Workspace

    settings = {"output.uri": str(folder / "runs")}
    if task.side == SAME_EPOCHS:
        settings["training.epochs"] = str(task.epochs)
    else:
        settings["preset"] = task.side
    meter, context = Meter(), RunContext("ours", task.device, started=started)
    with meter.watching():
        run(spec_of(task, **settings), Workspace(folder / "work"), context, StopSignal())
    total = time.perf_counter() - started
    results = folder / "runs" / "ours"
    report = json.loads((results / "report" / "report.json").read_text("utf-8"))
    seconds = {name: report["seconds"].get(name, 0.0) for name in PHASES}
    # "start" includes reading the data on both sides; "rest" is comparing and storing.
    seconds["start"] += sum(report["seconds"][stage] for stage in ("fetch", "data", "model"))
    seconds["rest"] = total - sum(seconds.values())
    table = pq.read_table(results / "per_query.parquet").to_pandas()
    first = table[(table["model"] == "base") & (table["dimension"] == table["dimension"].max())]
    outcome = Outcome(
        seconds,
        counts_of(meter, report["training"]["steps"], peak_mib()),
        first["query_id"].tolist(),
    )
    for model, row in (("base", "base"), ("tuned", task.side)):
        rows = (table["model"] == model) & (table["precision"] == "float32")
        by_dimension = table[rows].groupby("dimension")[METRIC]
        outcome.scores[row] = {int(d): values.tolist() for d, values in by_dimension}
    main = report["verdict"]["main_dimension"]
    lines = (results / "logs" / "metrics.jsonl").read_text("utf-8").splitlines()
    outcome.validated = validations(map(json.loads, lines), report["seconds"]["start"], main)
    return outcome


def validations(lines: Iterable[dict], start: float, main: int) -> list[tuple[float, float]]:
    """Return the seconds since the start and the score of each validation that a run logged."""
    lines = list(lines)
    first = datetime.fromisoformat(lines[0]["time"])
    name = f"dim_{main}_cosine_{METRIC}"
    return [
        ((datetime.fromisoformat(line["time"]) - first).total_seconds() + start, line[name])
        for line in lines
        if line["what"] == "validate" and name in line
    ]


def counts_of(meter, updates: int, peak: float) -> dict[str, float]:
    return {
        "updates": updates,
        "texts encoded": meter.encoded,
        "texts trained": meter.trained,
        "padded tokens": meter.padded_tokens,
        "peak MiB": peak,
    }


def lift(outcomes: list[tuple[Outcome, Outcome]], ours: str, theirs: str, dimension: int):
    """Compare two rows, paired by query, over all seeds.

    Queries that occur with several seeds, and their groups, form one group.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    from job.evaluation.significance import GroupedQueries

    differences, labels, names = [], [], []
    for number, (ours_by_row, theirs_by_row) in enumerate(outcomes):
        assert ours_by_row.queries == theirs_by_row.queries
        differences += np.subtract(
            ours_by_row.scores[ours][dimension], theirs_by_row.scores[theirs][dimension]
        ).tolist()
        labels += [f"{number}/{group}" for group in theirs_by_row.groups]
        names += ours_by_row.queries
    edges = [np.unique(values, return_inverse=True)[1] for values in (labels, names)]
    size = edges[0].max() + 1, edges[1].max() + 1
    links = coo_array(
        (np.ones(len(names)), (edges[0], size[0] + edges[1])), shape=(sum(size), sum(size))
    )
    groups = connected_components(links, directed=False)[1][edges[0]]
    return GroupedQueries(groups, 1_000, 0).lift(np.array(differences))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report_on(found: dict[str, list[Outcome]], *, with_times: bool) -> None:
    """Print the quality, the costs and the ratios; `found[side]` has one outcome per seed."""
    rows = {row: side for side, outcomes in found.items() for row in outcomes[0].scores}
    dimensions = sorted(next(iter(found.values()))[0].scores[next(iter(rows))], reverse=True)
    ours = [side for side in found if not side.startswith(ARTICLE)]
    theirs = [side for side in found if side.startswith(ARTICLE)]

    def median(row: str, dimension: int) -> float:
        return statistics.median(
            statistics.fmean(outcome.scores[row][dimension]) for outcome in found[rows[row]]
        )

    order = sorted(rows, key=lambda row: (row != "base", not row.startswith(ARTICLE)))
    print(f"\n{METRIC} by dimension, medians over the seeds\n")
    lines = [[row, *(f"{median(row, d):.3f}" for d in dimensions)] for row in order]
    print(table(["row", *map(str, dimensions)], lines))
    if ARTICLE in found:
        print("\nOurs minus the article's, paired by query, 95 % interval over groups of queries\n")
        lines = []
        for side in ours:
            pairs = list(zip(found[side], found[ARTICLE], strict=True))
            for reference in (ARTICLE, ON_VALIDATION):
                lifts = [lift(pairs, side, reference, d) for d in dimensions]
                cells = [f"{x.lift:+.3f} [{x.ci[0]:+.3f}, {x.ci[1]:+.3f}]" for x in lifts]
                lines.append([f"{side} − {reference}", *cells])
        print(table(["difference", *map(str, dimensions)], lines))
    if with_times:
        totals = print_costs(found)
        for reference in theirs:
            for side in ours:
                ratio = totals[reference] / totals[side]
                print(f"{reference}: {ratio:.1f} times as long as {side}")
        for side in ours if ARTICLE in found else ():
            print(as_good_as(found[ARTICLE], found[side], side))
    for side in ours if 64 in dimensions else ():
        share = median(side, 64) / median(side, dimensions[0])
        print(f"{side}: 64 dimensions keep {share:.1%} of the {METRIC} at {dimensions[0]}")


def as_good_as(theirs: list[Outcome], ours: list[Outcome], side: str) -> str:
    """Say after what share of the article's time a side is as good on validation as its end."""
    shares = []
    for their, our in zip(theirs, ours, strict=True):
        ((total, quality),) = their.validated
        reached = [seconds for seconds, score in our.validated if score >= quality]
        shares.append(min(reached, default=float("inf")) / total)
    found = ", ".join(f"{share:.1%}" for share in shares)
    return f"{side}: as good as the article's end after {found} of its time (by seed)"


def print_costs(found: dict[str, list[Outcome]]) -> dict[str, float]:
    """Print medians over the seeds; return the total seconds of each side."""

    def median(side: str, read: Callable[[Outcome], float]) -> float:
        return statistics.median(map(read, found[side]))

    totals = {side: median(side, lambda outcome: sum(outcome.seconds.values())) for side in found}
    counts = list(next(iter(found.values()))[0].counts)
    head = ["side", "whole run, s", *(f"{phase}, s" for phase in PHASES), *counts]
    lines = []
    for side, total in totals.items():
        seconds = [median(side, lambda o, p=phase: o.seconds[p]) for phase in PHASES]
        numbers = [median(side, lambda o, c=count: o.counts[c]) for count in counts]
        cells = [f"{s:.1f}" for s in (total, *seconds)] + [f"{number:,.0f}" for number in numbers]
        lines.append([side, *cells])
    print("\nCosts, medians over the seeds\n")
    print(table(head, lines) + "\n")
    return totals


def measured(task: Task) -> Outcome:
    """Run a task in a process of its own: peak memory, imports and kernels are not shared."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, task).result()


def kept(task: Task, folder: Path) -> Outcome:
    """Return the outcome of a task, which is measured once and read from the folder then."""
    from pydantic import TypeAdapter

    given = json.dumps(asdict(task), sort_keys=True)
    side = re.sub(r"\W+", "-", task.side)
    name = f"{side}-{task.seed}-{sha256(given.encode()).hexdigest()[:12]}"
    file, outcomes = folder / f"{name}.json", TypeAdapter(Outcome)
    if file.is_file():
        return outcomes.validate_json(file.read_bytes())
    outcome = measured(task)
    folder.mkdir(parents=True, exist_ok=True)
    whole = file.with_suffix(".part")
    whole.write_bytes(outcomes.dump_json(outcome))
    whole.rename(file)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=3, help=f"of the article and `{SAME_EPOCHS}`")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=52)
    parser.add_argument("--sides", default=f"{ARTICLE},{SAME_EPOCHS},quick", help="comma-separated")
    parser.add_argument("--float32", action="store_true", help="also the article in float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dims", help="dimensions, comma-separated; default: those of a run")
    parser.add_argument("--results", type=Path, help="folder to keep finished sides in")
    parser.add_argument(
        "--scores-only",
        action="store_true",
        help="train the article's side in less time than the article does; print no times",
    )
    options = parser.parse_args()

    sides = options.sides.split(",") + [FLOAT32] * options.float32
    found: dict[str, list[Outcome]] = {side: [] for side in sides}
    for number in range(options.seeds):
        for side in sides[::-1] if number % 2 else sides:
            seed = options.first_seed + number
            given = (options.data, options.model, options.limit, options.epochs, options.device)
            task = Task(side, seed, *given, options.dims, options.scores_only)
            found[side].append(kept(task, options.results) if options.results else measured(task))
            seconds = sum(found[side][-1].seconds.values())
            print(f"{side}, seed {task.seed}: {seconds:.1f} s", file=sys.stderr, flush=True)
    seeds = f"{options.first_seed} to {options.first_seed + options.seeds - 1}"
    print(f"{options.model} on {options.data}: limit {options.limit}, seeds {seeds}")
    report_on(found, with_times=not options.scores_only)


if __name__ == "__main__":
    main()
