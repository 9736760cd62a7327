"""Measure what each filter of written questions does to the model that is trained on them.

    python tests/benchmarks/written_questions.py --data FILE --folder OUT

FILE has pairs of questions that people, or a better model, wrote. A small language model, served by
`tests/llm/serve.py`, writes questions about some of its contexts. One model is trained on each of
several selections of them, and all are tested on FILE's own questions about other contexts. Prints
Markdown tables. Started again, it continues: answers are in a journal, finished runs are read.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from outcomes import table

from job.generation.round_trip import ELSEWHERE, NOT_FOUND

Row = dict[str, Any]
LAUNCHER = (sys.executable, "-P", "-m", "launcher.cli")
PROMPT = Path(__file__).parents[1] / "llm" / "prompt.md"
# Nobody is asked about shorter contexts.
MIN_WORDS = 8
ROUND_TRIP = {NOT_FOUND, ELSEWHERE}
UNFILTERED, RULES, ALL_FILTERS = "unfiltered", "rules", "rules and round trip"
AS_MANY, OWN = "unfiltered, as many", "the data's own questions"


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, "utf-8")


def divide(rows: Sequence[Row], asked: int, tests: int, seed: int) -> tuple[list[str], list[Row]]:
    """Draw contexts to ask about, and rows about other contexts for the test."""
    contexts = [*dict.fromkeys(row["context"] for row in rows)]
    contexts = [context for context in contexts if len(context.split()) >= MIN_WORDS]
    random.Random(seed).shuffle(contexts)
    first, others = contexts[:asked], set(contexts[asked:])
    test = [row for row in rows if row["context"] in others]
    return first, random.Random(seed).sample(test, min(tests, len(test)))


def selections(kept: list[Row], rejected: list[Row], own: list[Row], seed: int) -> dict[str, list]:
    """Return rows with `question`, `context`, `split` to train on, by the name of the selection."""
    written = [row for row in rejected if "question" in row]
    by_rules = kept + [row for row in written if row["reason"] in ROUND_TRIP]
    unfiltered = kept + written
    splits = {row["chunk_id"]: row["split"] for row in unfiltered}
    own = [row | {"split": splits[row["chunk_id"]]} for row in own if row["chunk_id"] in splits]
    as_many = random.Random(seed).sample(unfiltered, len(kept))
    return {
        UNFILTERED: unfiltered,
        AS_MANY: as_many,
        RULES: by_rules,
        ALL_FILTERS: kept,
        OWN: own,
    }


def prepare(options: argparse.Namespace) -> None:
    """Write the contexts to ask about, the test, and all documents to search."""
    rows = read_rows(options.data)
    asked, test = divide(rows, options.contexts, options.tests, options.seed)
    named = {context: f"c{number}" for number, context in enumerate(asked)}
    own = [{**row, "chunk_id": named[row["context"]]} for row in rows if row["context"] in named]
    folder = options.folder
    write_rows(folder / "own.jsonl", own)
    write_rows(folder / "contexts.jsonl", ({"id": n, "text": t} for t, n in named.items()))
    write_rows(folder / "test.jsonl", test)
    texts = dict.fromkeys([*asked, *(row["context"] for row in test)])
    write_rows(folder / "corpus.jsonl", ({"text": text} for text in texts))


def ask(options: argparse.Namespace) -> None:
    """Write questions about the contexts, or continue."""
    folder, started = options.folder, time.perf_counter()
    command = [*LAUNCHER, "pairs", str(folder / "contexts.jsonl"), "--model", options.model]
    command += ["--llm", options.llm, "--llm-url", options.llm_url, "--prompt", str(options.prompt)]
    command += ["--to", str(folder / "pairs.jsonl")]
    settings = {
        # At a higher temperature so small a model rambles.
        "generation.temperature": 0.3,
        "generation.max_output_tokens": 100,
        "generation.concurrency": 2,
        "generation.timeout": 900,
        "generation.seed": options.seed,
        "generation.limit": options.limit or options.contexts,
        # The test is the data's own.
        "data.test_fraction": 0,
    }
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    print(f"Asking, from this start: {seconds:.0f} s", file=sys.stderr)


def train(name: str, rows: Sequence[Row], options: argparse.Namespace) -> Row:
    """Train on rows and test, unless an earlier start did; return the report."""
    run = name.replace("'", "").replace(",", "").replace(" ", "-")
    folder = options.folder
    report = folder / "runs" / run / "report" / "report.json"
    if not report.is_file():
        for split in ("train", "validation"):
            pairs = [row for row in rows if row["split"] == split]
            keys = ("question", "context")
            write_rows(folder / run / f"{split}.jsonl", ({k: r[k] for k in keys} for r in pairs))
        command = [*LAUNCHER, "launch", "--data", str(folder / run), "--name", run]
        command += ["--model", options.model, "--output", str(folder / "runs")]
        # Small batches and a high learning rate: a selection has few pairs.
        command += ["--preset", "quick"]
        settings = {
            "data.test": folder / "test.jsonl",
            "data.corpus": folder / "corpus.jsonl",
            # Contexts of the test that nearly are trained ones.
            "data.overlap": "remove",
            "training.epochs": options.epochs,
            "training.seed": options.seed,
        }
        for field, value in settings.items():
            command += ["--set", f"{field}={value}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads(report.read_text("utf-8"))


def counts(kept: Sequence[Row], rejected: Sequence[Row]) -> str:
    reasons = Counter({"kept": len(kept)}) + Counter(row["reason"] for row in rejected)
    total = reasons.total()
    rows = [[why, str(count), f"{count / total:.1%}"] for why, count in reasons.most_common()]
    return table(["questions", "count", "share"], [*rows, ["all", str(total), ""]])


def scores(reports: dict[str, Row]) -> str:
    """Return nDCG@10 by dimension, and the lift over the base model with its 95 % interval."""
    first = next(iter(reports.values()))
    dimensions = list(first["comparison"])
    base = first["scores"]["base"]
    before = [f"{base[d]['float32']['ndcg@10']:.3f}" for d in dimensions]
    lines = [["base model", "", "", *before]]
    for name, report in reports.items():
        training, cells = report["training"], []
        for dimension in dimensions:
            found = report["comparison"][dimension]["float32"]
            score = report["scores"]["tuned"][dimension]["float32"]["ndcg@10"]
            low, high = found["ci"]
            cells.append(f"{score:.3f}, {found['lift']:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append([name, f"{training['pairs']:,}", str(training["steps"]), *cells])
    return table(["trained on", "pairs", "updates", *dimensions], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines: question, context")
    parser.add_argument("--folder", type=Path, required=True, help="of the results")
    parser.add_argument("--contexts", type=int, default=1000, help="to ask about")
    parser.add_argument("--limit", type=int, help="ask about so many of them only")
    parser.add_argument("--tests", type=int, default=500, help="test questions")
    parser.add_argument("--llm", default="openai:smollm2")
    parser.add_argument("--llm-url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--prompt", type=Path, default=PROMPT)
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    pairs = options.folder / "pairs.jsonl"
    if not pairs.is_file():
        prepare(options)
        ask(options)
    kept, rejected = read_rows(pairs), read_rows(options.folder / "pairs.rejected.jsonl")
    own = read_rows(options.folder / "own.jsonl")
    selected = selections(kept, rejected, own, options.seed)
    reports = {name: train(name, rows, options) for name, rows in selected.items()}
    print(counts(kept, rejected), scores(reports), sep="\n\n")


if __name__ == "__main__":
    main()
