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
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

from outcomes import ARTICLE, FLOAT32, METRIC, ON_VALIDATION, PHASES, Outcome, report_on

sys.path.insert(0, str(Path(__file__).parents[2]))

# Our sides are presets, or the defaults with as many epochs as the article's side.
SAME_EPOCHS = "same epochs"


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
    # Whether the article's side leaves out padding and the evaluators that select nothing.
    scores_only: bool = False


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
    from job.inputs import fetch_inputs
    from job.model.device import choose_machine
    from job.model.encoder import Model, Prompts, load_model
    from job.runtime.logs import disable_progress_bars
    from job.storage.workspace import Workspace

    disable_progress_bars()
    precision = "float32" if task.side == FLOAT32 else "auto"
    attention = "auto" if task.scores_only else "sdpa"
    spec = spec_of(task, **{"model.precision": precision, "model.attention": attention})
    inputs, machine = fetch_inputs(spec, Workspace(folder)), choose_machine(task.device, precision)
    dataset = load_dataset(spec.data, inputs.channels)
    model = load_model(spec.model, machine, inputs.model).with_prompts(Prompts())
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
